"""Paired devices and the digests of their tokens."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import structs
from sqlalchemy import Connection, bindparam, delete, insert, select, update

from gateway.errors import StoreError, VersionConflict
from gateway.model import Device, DeviceToken
from gateway.store.changes import call_change
from gateway.store.tables import columns_of, device_tokens, devices, to_record, to_values

LIST_LIMIT = 1000

_SELECT = select(*columns_of(devices, Device))
_BY_ID = _SELECT.where(devices.c.device_id == bindparam("device_id"))
_NEWEST = _SELECT.order_by(devices.c.created_at_ms.desc(), devices.c.device_id.desc()).limit(
    LIST_LIMIT
)
_INSERT = insert(devices)
_UPDATE = update(devices).where(
    devices.c.device_id == bindparam("at_device_id"),
    devices.c.version == bindparam("at_version"),
)
_SELECT_TOKEN = select(*columns_of(device_tokens, DeviceToken)).where(
    device_tokens.c.digest == bindparam("digest")
)
_INSERT_TOKEN = insert(device_tokens)
_OF_ROLE = (
    device_tokens.c.device_id == bindparam("of_device"),
    device_tokens.c.role == bindparam("of_role"),
)
_NEWEST_OF_ROLE = (
    select(device_tokens.c.digest)
    .where(*_OF_ROLE)
    .order_by(
        (device_tokens.c.digest == bindparam("of_digest")).desc(),
        device_tokens.c.issued_at_ms.desc(),
    )
    .limit(bindparam("keep"))
)
_DELETE_SURPLUS = delete(device_tokens).where(
    *_OF_ROLE, device_tokens.c.digest.not_in(_NEWEST_OF_ROLE)
)


def by_id(connection: Connection, device_id: str) -> Device | None:
    """Return a paired device."""
    row = connection.execute(_BY_ID, {"device_id": device_id}).first()
    return None if row is None else to_record(Device, row)


def newest(connection: Connection) -> tuple[Device, ...]:
    """Return the paired devices, the one that was paired last first, at most 1000."""
    return tuple(to_record(Device, row) for row in connection.execute(_NEWEST))


def update_by(
    connection: Connection, device_id: str, change: Callable[[Device | None], Device | None]
) -> Device | None:
    """Store what ``change`` makes of a device; return what is stored afterwards."""
    current = by_id(connection, device_id)
    wanted = call_change(change, current)
    if wanted is None:
        return current
    if wanted.device_id != device_id:
        raise StoreError("a device can not change its id")
    if current is None:
        stored = structs.replace(wanted, version=1)
        connection.execute(_INSERT, to_values(stored))
        return stored
    stored = structs.replace(wanted, version=current.version + 1)
    at = {"at_device_id": device_id, "at_version": current.version}
    if connection.execute(_UPDATE, {**to_values(stored), **at}).rowcount != 1:
        raise VersionConflict("the device was changed by someone else")
    return stored


def put_token(connection: Connection, token: DeviceToken, keep: int) -> None:
    """Store a new token; keep the ``keep`` newest of its device and role.

    This one is the newest whatever its time says: the clock may have been set back since the others. A
    token of a device that is not paired fails, and so does one that is stored already.
    """
    connection.execute(_INSERT_TOKEN, to_values(token))
    of = {"of_device": token.device_id, "of_role": token.role, "of_digest": token.digest}
    connection.execute(_DELETE_SURPLUS, {**of, "keep": keep})


def token_by_digest(connection: Connection, digest: str) -> DeviceToken | None:
    """Return the token with a digest."""
    row = connection.execute(_SELECT_TOKEN, {"digest": digest}).first()
    return None if row is None else to_record(DeviceToken, row)
