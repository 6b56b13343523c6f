"""Who is let in, as far as the store decides it: device tokens, silent pairing, fresh tokens."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from dataclasses import dataclass

from msgspec import UNSET
from twisted.logger import Logger

from gateway.core.access import covers, digest_of
from gateway.core.connect import AuthParams, Proven, pairing_required, unauthorized
from gateway.core.params import given
from gateway.errors import StoreError, Unavailable
from gateway.interfaces import IClock, IEntropy, IStore
from gateway.model import Device, DeviceToken, Principal, Role

LIVE_TOKENS = 4
"""Tokens of one device and role that live at once; the oldest dies when a fifth is made."""

TOKEN_BYTES = 32


@dataclass(frozen=True, slots=True)
class Admitted:
    """A connection that is let in, and the device token it gets to come back with."""

    principal: Principal
    device_token: str | None = None
    issued_at_ms: int | None = None


class Admission:
    """Decides on connect requests that passed every check without the store."""

    _log = Logger()

    def __init__(self, *, clock: IClock, entropy: IEntropy, store: IStore) -> None:
        self._clock = clock
        self._entropy = entropy
        self._store = store

    async def admit(self, proven: Proven) -> Admitted:
        """Let a client in.

        Raises :class:`gateway.core.connect.Refusal`, and Unavailable where the store fails.
        """
        try:
            return await self._admit(proven)
        except StoreError as error:
            self._log.failure("the store failed on a handshake")
            raise Unavailable(
                "the store failed; try again", retryable=True, retry_after_ms=1000
            ) from error

    async def _admit(self, proven: Proven) -> Admitted:
        if proven.device_id is None:
            return Admitted(self._principal(proven, proven.shared.method))
        device: Device | None = await self._store.get_device(proven.device_id)
        if not proven.shared.ok:
            token = await self._check_token(proven, device)
            return Admitted(
                self._principal(proven, "device-token"), proven.token_candidate, token.issued_at_ms
            )
        if _needs_no_pairing(proven):
            return Admitted(self._principal(proven, proven.shared.method))
        await self._pair(proven, device)
        return await self._with_token(proven)

    def _principal(self, proven: Proven, method: str) -> Principal:
        return Principal(
            role=proven.role,
            scopes=proven.scopes,
            auth_method=method,
            device_id=proven.device_id,
        )

    async def _check_token(self, proven: Proven, device: Device | None) -> DeviceToken:
        """Accept a device token in place of the shared credential. Raises Refusal."""
        auth = given(proven.params.auth, AuthParams())
        explicit = auth.device_token is not UNSET
        shared_reason = proven.shared.reason or "token_missing"
        candidate = proven.token_candidate
        token: DeviceToken | None = None
        if candidate is not None and device is not None and device.public_key == proven.public_key:
            token = await self._store.get_device_token(digest_of(candidate))
        if token is None or (token.device_id, token.role) != (proven.device_id, proven.role):
            raise unauthorized(
                "device_token_mismatch" if explicit else shared_reason,
                proven.protocol,
                device_token_may_help=shared_reason == "token_mismatch" and not explicit,
            )
        assert device is not None
        if proven.role.value not in device.roles:
            raise unauthorized("device_token_mismatch", proven.protocol)
        if not covers(token.scopes, proven.scopes) or not covers(device.scopes, proven.scopes):
            reason = "scope_mismatch" if proven.protocol >= 4 else "device_token_mismatch"
            raise unauthorized(reason, proven.protocol)
        return token

    async def _pair(self, proven: Proven, device: Device | None) -> None:
        """Pair a local device silently, or say that an operator has to. Raises Refusal."""
        reason = _pairing_reason(proven, device)
        if reason is None:
            return
        if not _may_pair_silently(proven):
            raise pairing_required(
                proven,
                self._entropy.uuid4(),
                reason=reason,
                approved_roles=device.roles if device else (),
                approved_scopes=device.scopes if device else (),
            )
        now_ms = self._clock.now_ms()
        client = proven.client

        def approve(current: Device | None) -> Device:
            assert proven.device_id is not None
            assert proven.public_key is not None
            same_key = current is not None and current.public_key == proven.public_key
            kept = current if same_key else None
            return Device(
                device_id=proven.device_id,
                public_key=proven.public_key,
                roles=_union(kept.roles if kept else (), (proven.role.value,)),
                scopes=_union(kept.scopes if kept else (), proven.scopes),
                created_at_ms=kept.created_at_ms if kept else now_ms,
                approved_at_ms=now_ms,
                approved_via="silent",
                display_name=client.display_name,
                platform=client.platform,
                device_family=client.device_family,
                client_id=client.id,
                client_mode=client.mode,
                last_seen_at_ms=now_ms,
                version=current.version if current else 0,
            )

        await self._store.update_device(proven.device_id or "", approve)

    async def _with_token(self, proven: Proven) -> Admitted:
        secret = urlsafe_b64encode(self._entropy.token_bytes(TOKEN_BYTES)).rstrip(b"=").decode()
        now_ms = self._clock.now_ms()
        token = DeviceToken(
            digest=digest_of(secret),
            device_id=proven.device_id or "",
            role=proven.role.value,
            scopes=proven.scopes,
            issued_at_ms=now_ms,
            last_used_at_ms=now_ms,
        )
        await self._store.put_device_token(token, keep=LIVE_TOKENS)
        return Admitted(self._principal(proven, proven.shared.method), secret, now_ms)


def _needs_no_pairing(proven: Proven) -> bool:
    """A local backend of this machine that has the shared credential leaves no pairing record."""
    client, peer = proven.client, proven.peer
    backend = client.id == "gateway-client" and client.mode == "backend"
    return backend and proven.role is Role.OPERATOR and peer.local and peer.origin is None


def _pairing_reason(proven: Proven, device: Device | None) -> str | None:
    if device is None or device.public_key != proven.public_key:
        return "not-paired"
    if proven.role.value not in device.roles:
        return "role-upgrade"
    if not covers(device.scopes, proven.scopes):
        return "scope-upgrade"
    return None


def _may_pair_silently(proven: Proven) -> bool:
    """Only a direct local client; a web page only where it is one of the known browser clients."""
    peer, client = proven.peer, proven.client
    from_page = peer.origin is not None
    browser = client.id == "openclaw-control-ui" or client.mode == "webchat"
    return peer.local and (browser or not from_page)


def _union(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*first, *second)))
