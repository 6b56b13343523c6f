"""Paired devices as operators manage them: requests decided, devices renamed, removed, given other tokens.

Requirements
    Nobody grants what it does not hold itself: an approver holds every scope of the request, and a new
    token is within the scopes of who makes it and within what its device was approved for. A device
    that is no admin sees and manages itself alone, and only as an operator. A token is shown to its
    device, or to an admin at the gateway's own machine; anybody else replaces it without seeing it.

Design
    Decisions are made on what is stored, inside the store's transaction; connections are closed after
    it. The connection that asked for its own end is answered first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from twisted.logger import Logger

from gateway.app.context import Caller
from gateway.app.hub import Hub
from gateway.app.pairingcaps import PairingCaps
from gateway.app.pairingnotices import APPROVED, REJECTED, PairingNotices, sees_device
from gateway.app.revocation import Revocations
from gateway.core import devicetokens, pairing
from gateway.core.access import ADMIN, KNOWN_SCOPES, covers, digest_of
from gateway.core.connectparams import claim
from gateway.core.deviceproof import base64url
from gateway.core.deviceshapes import device_shape
from gateway.core.pairing import PairingError, live, may_grant
from gateway.core.pairingshapes import requested
from gateway.errors import InvalidRequest, StoreError
from gateway.interfaces import IClock, IEntropy, IStore
from gateway.model import Device, Pairing, PairingRequest, Role

TOKEN_BYTES = 32


class Devices:
    """What operators do with devices."""

    _log = Logger()

    def __init__(
        self,
        *,
        clock: IClock,
        entropy: IEntropy,
        store: IStore,
        hub: Hub,
        notices: PairingNotices,
        revocations: Revocations,
        caps: PairingCaps,
    ) -> None:
        self._clock = clock
        self._entropy = entropy
        self._store = store
        self._hub = hub
        self._notices = notices
        self._revocations = revocations
        self._caps = caps

    async def list(self, caller: Caller) -> dict[str, Any]:
        """Return ``{pending, paired}``, the newest first, as far as the caller may see them."""
        now_ms, protocol = self._clock.now_ms(), caller.protocol
        known: tuple[Pairing, ...] = await self._store.list_pairings()
        seen = [live(each, now_ms) for each in known if sees_device(caller, each.device_id)]
        paired = [self._row(each.device, protocol) for each in seen if each.device is not None]
        return {
            "pending": [requested(each.request, protocol) for each in seen if each.request],
            "paired": paired,
        }

    async def approve(self, caller: Caller, request_id: str) -> dict[str, Any]:
        """Grant what a device asks for; return ``{requestId, device}``.

        Raises InvalidRequest, and Unavailable where no more devices may be paired.
        """
        now_ms = self._clock.now_ms()

        found, request = await self._find(caller, request_id, "pairing approval")
        _require_operator_of(caller, request.device_id, request.roles, "pairing approval")
        missing = may_grant(caller.scopes, request)
        if missing is not None:
            raise _lacks(missing, "approve", request.scopes)

        def change(current: Pairing) -> Pairing:
            return pairing.approve(current, request_id, via="owner", now_ms=now_ms)

        device_id, unknown = found.device_id, "unknown requestId"
        if found.device is None:
            async with self._caps.turn:
                await self._caps.for_device()
                stored = await self._change(device_id, change, unknown=unknown)
        else:
            stored = await self._change(device_id, change, unknown=unknown)
        self._notices.resolved(request, APPROVED)
        self._notices.changed(device_id)
        device = pairing.paired(stored)
        self._log.info(
            "device approved device={device} role={role} scopes={scopes} by={by}",
            device=device.device_id,
            role=",".join(request.roles),
            scopes=",".join(request.scopes),
            by=caller.principal.actor,
        )
        return {"requestId": request_id, "device": device_shape(device, caller.protocol)}

    async def reject(self, caller: Caller, request_id: str) -> dict[str, Any]:
        """Refuse what a device asks for; return ``{requestId, deviceId}``. Raises InvalidRequest."""
        found, request = await self._find(caller, request_id, "pairing rejection")
        now_ms = self._clock.now_ms()

        def change(current: Pairing) -> Pairing:
            return pairing.reject(current, request_id, now_ms=now_ms)

        await self._change(found.device_id, change, unknown="unknown requestId")
        self._notices.resolved(request, REJECTED)
        return {"requestId": request_id, "deviceId": found.device_id}

    async def remove(self, caller: Caller, device_id: str) -> dict[str, Any]:
        """Forget a device and close its connections; return ``{deviceId}``. Raises InvalidRequest."""
        dropped: list[PairingRequest | None] = []

        def change(current: Pairing) -> Pairing:
            _require_operator_of(caller, device_id, _roles(current), "pairing removal")
            dropped[:] = [current.request]
            return pairing.remove(current)

        with self._ending(caller, device_id, lambda: self._revocations.device(device_id)):
            await self._change(device_id, change, unknown="unknown deviceId")
        for request in filter(None, dropped):
            self._notices.resolved(request, REJECTED)
        self._notices.changed(device_id)
        self._log.info(
            "device removed device={device} by={by}", device=device_id, by=caller.principal.actor
        )
        await self._caps.forget_node(device_id)
        return {"deviceId": device_id}

    async def rename(self, caller: Caller, device_id: str, name: str) -> dict[str, Any]:
        """Give a device another name than its own; return ``{deviceId, label}``. Raises InvalidRequest."""
        label = " ".join(name.split())
        if not label:
            raise InvalidRequest("label required")
        if claim(label) != label:
            raise InvalidRequest("label must be a name that can be shown")

        def change(current: Pairing) -> Pairing:
            _require_operator_of(caller, device_id, _roles(current), "pairing rename")
            return pairing.rename(current, label)

        await self._change(device_id, change, unknown="unknown deviceId")
        self._notices.changed(device_id)
        return {"deviceId": device_id, "label": label}

    async def rotate(
        self, caller: Caller, device_id: str, role: str, scopes: tuple[str, ...] | None
    ) -> dict[str, Any]:
        """Replace all tokens of a device and role by one. Raises InvalidRequest.

        Returns ``{deviceId, role, scopes, rotatedAtMs}`` with ``token``, or with ``tokenDelivery``
        where the caller may not see it. Without ``scopes`` the token has all that was approved.
        """
        odd = sorted(set(scopes or ()) - KNOWN_SCOPES)
        if odd:  # a token without it would serve for less than was meant, and the old ones be gone
            raise InvalidRequest(f"unknown scope: {odd[0][:64]}")
        unknown = _unknown_token(caller, "token rotation")
        secret = base64url(self._entropy.token_bytes(TOKEN_BYTES))
        now_ms = self._clock.now_ms()
        issued: list[devicetokens.Issued] = []

        def change(current: Pairing) -> Pairing:
            _require_operator_of(caller, device_id, (role,), "token rotation")
            made = devicetokens.rotate(
                current, role, scopes, digest=digest_of(secret), now_ms=now_ms
            )
            missing = _beyond(caller, made.token.scopes)
            if missing is not None:
                raise _lacks(missing, "make a token with", made.token.scopes)
            issued[:] = [made]
            return made.pairing

        revocations = self._revocations
        with self._ending(
            caller, device_id, lambda: revocations.role(device_id, role, renewed=True)
        ):
            await self._change(device_id, change, unknown=unknown)
        self._notices.changed(device_id)
        self._log.info(
            "device token rotated device={device} role={role} by={by}",
            device=device_id,
            role=role,
            by=caller.principal.actor,
        )
        result: dict[str, Any] = {
            "deviceId": device_id,
            "role": role,
            "scopes": list(issued[0].token.scopes),
            "rotatedAtMs": now_ms,
        }
        if _may_see_token(caller, device_id):
            return {**result, "token": secret}
        return {**result, "tokenDelivery": "withheld-cross-device"}

    async def revoke(self, caller: Caller, device_id: str, role: str) -> dict[str, Any]:
        """End what a device may be in a role, its tokens with it. Raises InvalidRequest.

        Returns ``{deviceId, role, revokedAtMs}``. It has to be approved anew.
        """
        now_ms = self._clock.now_ms()

        def change(current: Pairing) -> Pairing:
            _require_operator_of(caller, device_id, (role,), "token revocation")
            return devicetokens.revoke(current, role, now_ms=now_ms)

        unknown = _unknown_token(caller, "token revocation")
        with self._ending(caller, device_id, lambda: self._revocations.role(device_id, role)):
            await self._change(device_id, change, unknown=unknown)
        self._notices.changed(device_id)
        self._log.info(
            "device token revoked device={device} role={role} by={by}",
            device=device_id,
            role=role,
            by=caller.principal.actor,
        )
        return {"deviceId": device_id, "role": role, "revokedAtMs": now_ms}

    # -- how

    async def _find(
        self, caller: Caller, request_id: str, action: str
    ) -> tuple[Pairing, PairingRequest]:
        """Return an open request that the caller may decide on. Raises InvalidRequest."""
        found: Pairing | None = await self._store.find_pairing_request(request_id)
        request = None if found is None else live(found, self._clock.now_ms()).request
        if found is None or request is None or request.request_id != request_id:
            if ADMIN not in caller.scopes and action == "pairing approval":
                raise _denied(action)
            raise InvalidRequest("unknown requestId")
        if not sees_device(caller, found.device_id):
            raise _denied(action)
        return found, request

    async def _change(
        self, device_id: str, change: Callable[[Pairing], Pairing], *, unknown: str
    ) -> Pairing:
        """Change a pairing. Raises InvalidRequest, with the text ``unknown`` for what is not there."""
        try:
            stored: Pairing = await self._store.update_pairing(device_id, change)
        except PairingError as error:
            raise InvalidRequest(unknown, details={"reason": error.kind}) from error
        return stored

    @contextmanager
    def _ending(self, caller: Caller, device_id: str, revoke: Callable[[], None]) -> Iterator[None]:
        """Close what lost its rights by a change: at once, or after the answer if the caller is among it.

        Also where the store fails: it may have the change all the same, and who has lost nothing comes
        back.
        """
        try:
            yield
        except StoreError:
            self._end(caller, device_id, revoke)
            raise
        self._end(caller, device_id, revoke)

    def _end(self, caller: Caller, device_id: str, revoke: Callable[[], None]) -> None:
        if caller.principal.device_id == device_id:
            self._clock.callLater(0, revoke)
        else:
            revoke()

    def _row(self, device: Device, protocol: int) -> dict[str, Any]:
        shape = device_shape(device, protocol)
        if protocol >= 4:
            shape["connected"] = bool(self._hub.of_device(device.device_id))
        return shape


def _require_operator_of(caller: Caller, device_id: str, roles: Iterable[str], action: str) -> None:
    """Raise InvalidRequest unless the caller is an admin, or manages itself as an operator."""
    if ADMIN in caller.scopes:
        return
    if not sees_device(caller, device_id) or any(role != Role.OPERATOR for role in roles):
        raise _denied(action)
    if action == "pairing approval" and caller.principal.device_id != device_id:
        raise _denied(action)


def _roles(current: Pairing) -> tuple[str, ...]:
    return () if current.device is None else current.device.roles


def _beyond(caller: Caller, scopes: Iterable[str]) -> str | None:
    """Return the first scope that the caller does not hold itself, or None."""
    return next((scope for scope in scopes if not covers(caller.scopes, (scope,))), None)


def _may_see_token(caller: Caller, device_id: str) -> bool:
    """Whether the caller is the device itself, or an admin at this machine."""
    own = caller.principal.device_id == device_id
    return own or (ADMIN in caller.scopes and caller.peer.local)


def _unknown_token(caller: Caller, action: str) -> str:
    return "unknown deviceId/role" if caller.protocol < 4 else f"device {action} denied"


def _denied(action: str) -> InvalidRequest:
    return InvalidRequest(
        f"device {action} denied",
        details={
            "reason": "not-allowed",
            "remediation": "Ask an operator with the scope operator.admin:"
            " on the gateway's host every gatewayctl has it.",
        },
    )


def _lacks(missing: str, action: str, scopes: Iterable[str]) -> InvalidRequest:
    return InvalidRequest(
        f"missing scope: {missing}",
        details={
            "code": "MISSING_SCOPE",
            "missingScope": missing,
            "requiredScopes": list(scopes),
            "remediation": f"Who wants to {action} scopes has to hold them: do it on the gateway's host.",
        },
    )
