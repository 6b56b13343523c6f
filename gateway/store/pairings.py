"""What is known of devices as one record each: the device, its tokens, what it asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from msgspec import structs
from sqlalchemy import Connection, bindparam, delete, insert, select, update

from gateway.errors import StoreError
from gateway.model import Device, DeviceToken, Pairing, PairingRequest
from gateway.store.changes import call_change
from gateway.store.tables import (
    columns_of,
    device_tokens,
    devices,
    pairing_requests,
    to_record,
    to_values,
)

LIST_LIMIT = 1000
"""Devices that a list has, and as many devices again that ask and are not paired."""

_DEVICES = select(*columns_of(devices, Device))
_DEVICE = _DEVICES.where(devices.c.device_id == bindparam("device_id"))
_NEWEST = _DEVICES.order_by(devices.c.created_at_ms.desc(), devices.c.device_id.desc()).limit(
    LIST_LIMIT
)
_INSERT = insert(devices)
_UPDATE = update(devices).where(devices.c.device_id == bindparam("at_device_id"))
_DELETE = delete(devices).where(devices.c.device_id == bindparam("at_device_id"))

_TOKENS = select(*columns_of(device_tokens, DeviceToken)).order_by(
    device_tokens.c.issued_at_ms, device_tokens.c.digest
)
_TOKENS_OF = _TOKENS.where(device_tokens.c.device_id == bindparam("device_id"))
_INSERT_TOKEN = insert(device_tokens)
_UPDATE_TOKEN = update(device_tokens).where(device_tokens.c.digest == bindparam("at_digest"))
_DELETE_TOKEN = delete(device_tokens).where(device_tokens.c.digest == bindparam("at_digest"))

_REQUESTS = select(pairing_requests.c.record)
_REQUEST_OF = _REQUESTS.where(pairing_requests.c.device_id == bindparam("device_id"))
_DEVICE_OF_REQUEST = select(pairing_requests.c.device_id).where(
    pairing_requests.c.request_id == bindparam("request_id")
)
_NEWEST_REQUESTS = _REQUESTS.order_by(pairing_requests.c.requested_at_ms.desc()).limit(LIST_LIMIT)
_INSERT_REQUEST = insert(pairing_requests)
_DELETE_REQUEST = delete(pairing_requests).where(
    pairing_requests.c.device_id == bindparam("at_device_id")
)


def of_device(connection: Connection, device_id: str) -> Pairing:
    """Return what is known of a device."""
    at = {"device_id": device_id}
    row = connection.execute(_DEVICE, at).first()
    request = connection.execute(_REQUEST_OF, at).scalar()
    tokens = () if row is None else connection.execute(_TOKENS_OF, at)
    return Pairing(
        device_id=device_id,
        device=None if row is None else to_record(Device, row),
        tokens=tuple(to_record(DeviceToken, token) for token in tokens),
        request=None if request is None else _decoded(request),
    )


def of_request(connection: Connection, request_id: str) -> Pairing | None:
    """Return the pairing whose open request has this id."""
    device_id = connection.execute(_DEVICE_OF_REQUEST, {"request_id": request_id}).scalar()
    return None if device_id is None else of_device(connection, device_id)


def newest(connection: Connection) -> tuple[Pairing, ...]:
    """Return devices, the one that was paired last first, before them those that only ask."""
    requests = {
        request.device_id: request
        for request in map(_decoded, connection.execute(_NEWEST_REQUESTS).scalars())
    }
    found = [to_record(Device, row) for row in connection.execute(_NEWEST)]
    tokens: dict[str, list[DeviceToken]] = {device.device_id: [] for device in found}
    for row in connection.execute(_TOKENS):
        token = to_record(DeviceToken, row)
        tokens.get(token.device_id, []).append(token)
    known = [
        Pairing(
            device_id=device.device_id,
            device=device,
            tokens=tuple(tokens[device.device_id]),
            request=requests.pop(device.device_id, None),
        )
        for device in found
    ]
    asking = [Pairing(device_id=name, request=request) for name, request in requests.items()]
    return (*asking, *known)


def update_by(
    connection: Connection, device_id: str, change: Callable[[Pairing], Pairing]
) -> Pairing:
    """Store what ``change`` makes of what is known of a device; return what is stored afterwards."""
    current = of_device(connection, device_id)
    wanted = call_change(change, current)
    parts = (wanted, wanted.device, wanted.request, *wanted.tokens)
    if any(part is not None and part.device_id != device_id for part in parts):
        raise StoreError("a device can not change its id")
    if wanted.device is None:
        wanted = structs.replace(wanted, tokens=())
    device = _store_device(connection, device_id, current.device, wanted.device)
    _store_tokens(connection, current.tokens, wanted.tokens)
    if wanted.request != current.request:
        connection.execute(_DELETE_REQUEST, {"at_device_id": device_id})
        if wanted.request is not None:
            connection.execute(_INSERT_REQUEST, _request_values(wanted.request))
    return structs.replace(wanted, device=device)


def _store_device(
    connection: Connection, device_id: str, current: Device | None, wanted: Device | None
) -> Device | None:
    if wanted is None:
        if current is not None:
            connection.execute(_DELETE, {"at_device_id": device_id})
        return None
    if current is None:
        stored = structs.replace(wanted, version=1)
        connection.execute(_INSERT, to_values(stored))
        return stored
    if structs.replace(wanted, version=current.version) == current:
        return current
    stored = structs.replace(wanted, version=current.version + 1)
    connection.execute(_UPDATE, {**to_values(stored), "at_device_id": device_id})
    return stored


def _store_tokens(
    connection: Connection, current: Iterable[DeviceToken], wanted: Iterable[DeviceToken]
) -> None:
    before = {token.digest: token for token in current}
    for token in wanted:
        old = before.pop(token.digest, None)
        if old is None:
            connection.execute(_INSERT_TOKEN, to_values(token))
        elif old != token:
            connection.execute(_UPDATE_TOKEN, {**to_values(token), "at_digest": token.digest})
    for digest in before:
        connection.execute(_DELETE_TOKEN, {"at_digest": digest})


def _request_values(request: PairingRequest) -> dict[str, Any]:
    return {
        "device_id": request.device_id,
        "request_id": request.request_id,
        "requested_at_ms": request.requested_at_ms,
        "record": msgspec.json.encode(request),
    }


def _decoded(record: bytes) -> PairingRequest:
    return msgspec.json.decode(record, type=PairingRequest)
