"""Scope upgrades: a device that is connected asks an operator for more, and waits for the answer.

The answer of an approval is a token for what was approved; the connection itself keeps the rights it
came with. Who waits is kept here, the request itself in the store: a restart ends the waiting only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from gateway.app.context import Caller
from gateway.app.deferreds import shielded
from gateway.app.pairingnotices import APPROVED, REJECTED, PairingNotices
from gateway.app.revocation import Revocations
from gateway.core import devicetokens, pairing
from gateway.core.access import KNOWN_SCOPES, covers, digest_of
from gateway.core.deviceproof import base64url
from gateway.core.pairing import PairingError, live
from gateway.core.registry import Registry
from gateway.errors import InvalidRequest, Unavailable
from gateway.interfaces import IClock, IEntropy, IStore
from gateway.model import Pairing, PairingRequest, Role

MAX_SCOPES: Final = 8
"""How many scopes an answer may name (protocol: scope upgrades)."""
ENDED_TTL_S: Final = 300.0
"""How long the answer to a request can be asked for."""
EXPIRED: Final = "expired"
TOKEN_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class _Ended:
    """A request that was decided."""

    device_id: str
    decision: str
    scopes: tuple[str, ...]


@dataclass(slots=True)
class _Waiting:
    """Who waits for a request."""

    device_id: str
    until: float
    waiters: list[Deferred[str]] = field(default_factory=list)


class ScopeUpgrades:
    """All scope upgrades; a Sweepable."""

    name = "scope-upgrades"

    def __init__(
        self,
        *,
        clock: IClock,
        entropy: IEntropy,
        store: IStore,
        notices: PairingNotices,
        revocations: Revocations,
        maximum: int,
    ) -> None:
        self._clock = clock
        self._entropy = entropy
        self._store = store
        self._notices = notices
        self._revocations = revocations
        self._maximum = maximum
        self._ended: Registry[_Ended] = Registry(self.name, maximum=maximum, ttl_s=ENDED_TTL_S)
        self._waiting: dict[str, _Waiting] = {}
        self._timer: IDelayedCall | None = None
        notices.add_listener(self._decided)

    def __len__(self) -> int:
        return len(self._ended)

    def sweep(self, now: float) -> int:
        """Forget answers that nobody asked for."""
        return self._ended.sweep(now)

    async def request(self, caller: Caller, scopes: tuple[str, ...]) -> str:
        """Enter what a connected device asks for; return the id of the request. Raises InvalidRequest."""
        device_id = _device_of(caller)
        unknown = sorted(set(scopes) - KNOWN_SCOPES)
        if unknown:
            raise InvalidRequest(f"unknown scope: {unknown[0][:64]}")
        request_id, now_ms = self._entropy.uuid4(), self._clock.now_ms()
        asked: list[pairing.Asked] = []

        def change(current: Pairing) -> Pairing:
            public_key = pairing.paired(current).public_key
            wanted = _ask(caller, device_id, public_key, scopes)
            made = pairing.ask(current, wanted, request_id=request_id, now_ms=now_ms)
            asked[:] = [made]
            return made.pairing

        try:
            await self._store.update_pairing(device_id, change)
        except PairingError as error:
            raise InvalidRequest(_WHY_NOT[error.kind], details={"reason": error.kind}) from error
        if asked[0].superseded is not None:
            self._notices.resolved(asked[0].superseded, REJECTED)
        if asked[0].created:
            self._notices.requested(asked[0].request)
        return asked[0].request.request_id

    async def wait(self, caller: Caller, request_id: str) -> dict[str, Any]:
        """Return what becomes of a request: approved with a token, rejected or expired.

        Raises InvalidRequest for one that is not the caller's, or of long ago.
        """
        device_id = _device_of(caller)
        ended = self._ended.get(request_id)
        if ended is None:
            status = await self._outcome(device_id, request_id)
            ended = self._ended.get(request_id)
        else:
            status = ended.decision
        if ended is not None and ended.device_id != device_id:
            raise InvalidRequest("unknown requestId")
        if status != APPROVED or ended is None:
            return {"status": status, "requestId": request_id}
        # Who leaves meanwhile still ends the connections of the token that gave way.
        making = Deferred.fromCoroutine(self._token(device_id, ended.scopes))
        token = await shielded(making)
        if token is None:
            return {"status": REJECTED, "requestId": request_id}
        scopes = list(_named(ended.scopes))
        return {
            "status": APPROVED,
            "requestId": request_id,
            "deviceToken": token,
            "scopes": scopes,
        }

    async def _outcome(self, device_id: str, request_id: str) -> str:
        """Wait for the end of an open request. Raises InvalidRequest, and Unavailable for too many."""
        if sum(len(each.waiters) for each in self._waiting.values()) >= self._maximum:
            raise Unavailable("too many requests are being waited for", retryable=True)
        # Entered before the store is asked, so that a decision in between is not missed.
        until = self._clock.seconds() + pairing.TTL_MS / 1000
        waiting = self._waiting.setdefault(request_id, _Waiting(device_id, until))
        waiter: Deferred[str] = Deferred()
        waiting.waiters.append(waiter)
        try:
            found: Pairing | None = await self._store.find_pairing_request(request_id)
            now_ms = self._clock.now_ms()
            request = None if found is None else live(found, now_ms).request
            if waiter.called:
                return await waiter
            if request is None or request.device_id != device_id:
                raise InvalidRequest("unknown requestId")
            left_s = max(0, request.expires_at_ms - now_ms) / 1000
            waiting.until = min(waiting.until, self._clock.seconds() + left_s)
            self._arm()
            return await waiter
        finally:
            waiting.waiters.remove(waiter)
            if not waiting.waiters:
                self._waiting.pop(request_id, None)
                self._arm()

    async def _token(self, device_id: str, scopes: tuple[str, ...]) -> str | None:
        """Make a token for what was approved; None where that was taken back meanwhile."""
        secret = base64url(self._entropy.token_bytes(TOKEN_BYTES))
        now_ms = self._clock.now_ms()
        issued: list[devicetokens.Issued] = []
        in_use = self._revocations.in_use(device_id)

        def change(current: Pairing) -> Pairing:
            made = devicetokens.issue(
                current, Role.OPERATOR, scopes, digest_of(secret), now_ms=now_ms, in_use=in_use
            )
            issued[:] = [made]
            return made.pairing

        try:
            await self._store.update_pairing(device_id, change)
        except PairingError:
            return None
        self._revocations.tokens(device_id, issued[0].dropped)
        return secret

    def _decided(self, request: PairingRequest, decision: str) -> None:
        ended = _Ended(request.device_id, decision, request.scopes)
        self._ended.put(request.request_id, ended, self._clock.seconds())
        self._wake(request.request_id, decision)

    def _wake(self, request_id: str, status: str) -> None:
        waiting = self._waiting.get(request_id)
        for waiter in list(waiting.waiters) if waiting else ():
            if not waiter.called:
                waiter.callback(status)

    def _arm(self) -> None:
        """Set the one timer to when the first request expires that is waited for."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        if self._waiting:
            first = min(each.until for each in self._waiting.values())
            delay = max(0.0, first - self._clock.seconds())
            self._timer = self._clock.callLater(delay, self._expire)

    def _expire(self) -> None:
        now = self._clock.seconds()
        for request_id, waiting in list(self._waiting.items()):
            if waiting.until <= now:
                self._wake(request_id, EXPIRED)
        self._arm()


_WHY_NOT: Final = {
    "unknown-device": "this connection has no paired device: connect with a device identity",
    "nothing-to-approve": "the device may have these scopes already: connect anew and ask for them",
}


def _device_of(caller: Caller) -> str:
    device_id = caller.principal.device_id
    if device_id is None:
        raise InvalidRequest(_WHY_NOT["unknown-device"], details={"reason": "unknown-device"})
    return device_id


def _ask(caller: Caller, device_id: str, public_key: str, scopes: tuple[str, ...]) -> pairing.Ask:
    client, peer = caller.client, caller.peer
    return pairing.Ask(
        device_id=device_id,
        public_key=public_key,
        role=Role.OPERATOR,
        scopes=scopes,
        protocol=caller.protocol,
        display_name=client.display_name,
        platform=client.platform,
        device_family=client.device_family,
        client_id=client.id,
        client_mode=client.mode,
        remote_ip=None if peer.local else peer.address,
    )


def _named(scopes: tuple[str, ...]) -> tuple[str, ...]:
    """Return scopes as an answer may name them: of too many, those that no other includes."""
    if len(scopes) <= MAX_SCOPES:
        return scopes
    others = {scope: [other for other in scopes if other != scope] for scope in scopes}
    return tuple(scope for scope in scopes if not covers(others[scope], (scope,)))
