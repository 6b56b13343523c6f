"""Who is let in, as far as the store decides it: device tokens, pairing, setup codes, fresh tokens."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from msgspec import UNSET
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from gateway.app.deferreds import shielded
from gateway.app.hub import Hub
from gateway.app.pairingcaps import PairingCaps
from gateway.app.pairingnotices import APPROVED, REJECTED, PairingNotices
from gateway.app.revocation import Revocations
from gateway.core.access import covers, digest_of
from gateway.core.admitting import Decision, Knock, Offer, Room, ask_of, decide
from gateway.core.connect import Proven
from gateway.core.connectparams import AuthParams
from gateway.core.pairing import grantable
from gateway.core.params import given
from gateway.core.refusals import Refusal, pairing_required, unauthorized
from gateway.errors import StoreError, Unavailable
from gateway.interfaces import IClock, IEntropy, IStore
from gateway.model import Device, Pairing, Principal, Role

TOKEN_BYTES = 32
MAX_TRIES = 3
"""How often a connection is decided on anew because rights were taken from its device meanwhile."""
_NEW_SECRET = "the gateway's credential was changed; connect again"  # noqa: S105 - a sentence


class SetupGrant(Protocol):
    """What a setup code grants to the device that it is bound to."""

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that it makes a device."""

    @property
    def scopes(self) -> tuple[str, ...]:
        """The operator scopes that it gives at most."""


Holds = Callable[[], bool]


def _always() -> bool:
    return True


class ISetupCodes(Protocol):
    """The setup codes that are good now."""

    def claim(self, secret: str, device_id: str, public_key: str) -> SetupGrant | None:
        """Bind a code to a device and hold it for one connect; None if it is no good for this device."""

    def holds(self, grant: Any) -> bool:
        """Whether the code has not ended since it was claimed, by the rights of its maker."""

    def release(self, grant: Any) -> None:
        """The connect failed: the same device may try again."""

    def consume(self, grant: Any, device_id: str, device_name: str | None) -> None:
        """The device is in: the code is used up."""


@dataclass(frozen=True, slots=True)
class Handed:
    """A device token that a client gets with its hello."""

    token: str = field(repr=False)
    role: str
    scopes: tuple[str, ...]
    issued_at_ms: int


@dataclass(frozen=True, slots=True)
class Admitted:
    """A connection that is let in, and the device tokens it gets to come back with."""

    principal: Principal
    device_token: str | None = field(default=None, repr=False)
    issued_at_ms: int | None = None
    token_scopes: tuple[str, ...] = ()
    """What the device token is good for; the connection may have asked for less."""
    others: tuple[Handed, ...] = ()
    """Tokens of further roles that a setup code granted."""
    setup: SetupGrant | None = None
    """The setup code it came in by, until :meth:`Admission.settle`."""


class Admission:
    """Decides on connect requests that passed every check without the store.

    What becomes of a device is decided and written in one transaction. Who asks for more than it may is
    told so, and operators are told of it.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        clock: IClock,
        entropy: IEntropy,
        store: IStore,
        hub: Hub,
        revocations: Revocations,
        caps: PairingCaps,
        silent_local: bool = True,
        setup_codes: ISetupCodes | None = None,
        notices: PairingNotices | None = None,
    ) -> None:
        self._clock = clock
        self._entropy = entropy
        self._store = store
        self._notices = notices or PairingNotices(clock, hub)
        self._revocations = revocations
        self._silent_local = silent_local
        self._setup_codes = setup_codes
        self._caps = caps

    async def admit(self, proven: Proven) -> Admitted:
        """Let a client in. Enter the connection at once, without waiting: later the decision may not hold.

        Call :meth:`settle` when it is entered, or is not. Raises
        :class:`gateway.core.refusals.Refusal`, and Unavailable where the store fails.
        """
        try:
            for _ in range(MAX_TRIES):
                shown = _shown(proven)
                with self._revocations.watch(proven.device_id, shown and digest_of(shown)) as watch:
                    admitted = await self._admit(proven)
                    new_secret = watch.new_secret and proven.shared.ok
                    if not watch.gone and not new_secret:
                        return admitted
                    self.settle(admitted, proven, entered=False)
                    if new_secret:
                        raise Unavailable(_NEW_SECRET, retryable=True)
        except StoreError as error:
            self._log.failure("the store failed on a handshake")
            raise Unavailable(
                "the store failed; try again", retryable=True, retry_after_ms=1000
            ) from error
        raise Unavailable("rights are being changed; try again", retryable=True)

    def settle(self, admitted: Admitted, proven: Proven, *, entered: bool) -> None:
        """Say what became of a connection that was let in: a setup code is used up, or free again."""
        if admitted.setup is None or self._setup_codes is None:
            return
        if entered:
            name = proven.client.display_name
            self._setup_codes.consume(admitted.setup, proven.device_id or "", name)
        else:
            self._setup_codes.release(admitted.setup)

    async def _admit(self, proven: Proven) -> Admitted:
        if proven.device_id is None:
            return Admitted(_principal(proven, proven.shared.method, proven.scopes))
        auth = given(proven.params.auth, AuthParams())
        if auth.bootstrap_token is not UNSET:
            return await self._by_setup_code(proven, auth.bootstrap_token)
        if not proven.shared.ok:
            return await self._by_token(proven)
        if _needs_no_pairing(proven):
            return Admitted(_principal(proven, proven.shared.method, proven.scopes))
        knock, secrets = self._knock(proven, (proven.role.value,))
        return await self._paired(knock, secrets, proven.shared.method)

    async def _by_token(self, proven: Proven) -> Admitted:
        """Accept a device token in place of the shared credential."""
        token = proven.token_candidate
        if token is None:
            raise _token_refused(proven, "device_token_mismatch")
        knock, _ = self._knock(proven, (), shown=digest_of(token))
        known = await self._store.get_pairing(knock.ask.device_id)
        decision = decide(known, knock)
        if decision.refused is not None:
            raise _token_refused(proven, decision.refused)
        if (
            decision.tokens and decision.pairing == known
        ):  # it comes in, and nothing is to be written
            return _let_in(knock, decision, {proven.role.value: token}, "device-token")
        return await self._paired(knock, {proven.role.value: token}, "device-token")

    async def _by_setup_code(self, proven: Proven, secret: str) -> Admitted:
        codes = self._setup_codes
        assert proven.device_id is not None
        assert proven.public_key is not None
        grant = None if codes is None else codes.claim(secret, proven.device_id, proven.public_key)
        if codes is None or grant is None:
            raise unauthorized("bootstrap_token_invalid", proven.protocol)
        admitted = None
        try:
            offer = Offer(grant.roles, grantable(grant.scopes))
            within = covers(offer.scopes, grantable(proven.scopes))
            if proven.role.value not in offer.roles or not within:
                raise unauthorized("bootstrap_token_invalid", proven.protocol)
            knock, secrets = self._knock(proven, offer.roles, offer=offer)
            admitted = await self._paired(
                knock, secrets, "bootstrap-token", lambda: codes.holds(grant)
            )
        finally:
            if admitted is None:
                codes.release(grant)
        return replace(admitted, setup=grant)

    def _knock(
        self,
        proven: Proven,
        roles: tuple[str, ...],
        *,
        shown: str | None = None,
        offer: Offer | None = None,
    ) -> tuple[Knock, dict[str, str]]:
        """Return what is decided on, and new tokens for these roles."""
        make = self._entropy.token_bytes
        secrets = {
            role: urlsafe_b64encode(make(TOKEN_BYTES)).rstrip(b"=").decode() for role in roles
        }
        ask = ask_of(proven)
        knock = Knock(
            proven,
            ask,
            request_id=self._entropy.uuid4(),
            now_ms=self._clock.now_ms(),
            silent_local=self._silent_local,
            shown=shown,
            offer=offer,
            fresh={role: digest_of(secret) for role, secret in secrets.items()},
            in_use=self._revocations.in_use(ask.device_id),
        )
        return knock, secrets

    async def _paired(
        self, knock: Knock, secrets: dict[str, str], method: str, holds: Holds = _always
    ) -> Admitted:
        """Carry out the decision on a device, and let it in. Raises Refusal.

        ``holds`` says, when it is stored, whether what it comes in by is still good.
        """
        # Who leaves meanwhile has still asked, and what died for its tokens is dead.
        work = Deferred.fromCoroutine(self._settled(knock, holds))
        decision, before = await shielded(work)
        if decision.refused is not None:
            raise _token_refused(knock.proven, decision.refused)
        if decision.request is not None:
            raise pairing_required(
                knock.proven,
                decision.request.request_id,
                reason=decision.reason or "not-paired",
                approved_roles=before.roles if before else (),
                approved_scopes=before.scopes if before else (),
            )
        return _let_in(knock, decision, secrets, method)

    async def _settled(self, knock: Knock, holds: Holds) -> tuple[Decision, Device | None]:
        """Decide, store it, tell others; return the decision and what the device was before."""
        decision, before = await self._stored(knock, frozenset(), holds)
        if decision.lacks is not None:
            async with self._caps.turn:
                if decision.lacks is Room.DEVICE:
                    await self._caps.for_device()
                else:
                    await self._caps.for_request(knock.ask.remote_ip)
                decision, before = await self._stored(knock, frozenset(Room), holds)
        self._tell(knock, decision)
        return decision, before

    async def _stored(
        self, knock: Knock, room: frozenset[Room], holds: Holds
    ) -> tuple[Decision, Device | None]:
        made: list[tuple[Decision, Device | None]] = []

        def change(current: Pairing) -> Pairing:
            if holds():
                decision = decide(current, knock, room)
            else:
                decision = Decision(current, refused="bootstrap_token_invalid")
            made.append((decision, current.device))
            return decision.pairing

        await self._store.update_pairing(knock.ask.device_id, change)
        return made[-1]

    def _tell(self, knock: Knock, decision: Decision) -> None:
        device_id = knock.ask.device_id
        if decision.superseded is not None:
            self._notices.resolved(decision.superseded, REJECTED)
        if decision.request is not None and decision.created:
            self._notices.requested(decision.request)
        if decision.reason is not None and decision.request is None:
            if decision.settled is None:
                self._notices.paired(knock.request_id, device_id)
            else:
                self._notices.resolved(decision.settled, APPROVED)
        self._revocations.tokens(device_id, decision.dropped)


def _shown(proven: Proven) -> str | None:
    """Return the device token that a connection depends on, if it comes in by one."""
    return None if proven.shared.ok else proven.token_candidate


def _let_in(knock: Knock, decision: Decision, secrets: dict[str, str], method: str) -> Admitted:
    first, *others = decision.tokens
    principal = _principal(knock.proven, method, knock.ask.scopes, first.digest)
    handed = tuple(
        Handed(secrets[token.role], token.role, token.scopes, token.issued_at_ms)
        for token in others
    )
    return Admitted(principal, secrets[first.role], first.issued_at_ms, first.scopes, handed)


def _principal(
    proven: Proven, method: str, scopes: tuple[str, ...], digest: str | None = None
) -> Principal:
    return Principal(
        role=proven.role,
        scopes=scopes,
        auth_method=method,
        device_id=proven.device_id,
        token_digest=digest,
        user=proven.peer.user,
    )


def _token_refused(proven: Proven, reason: str) -> Refusal:
    """Return the refusal of a device token; version 3 does not tell one reason from the other."""
    explicit = given(proven.params.auth, AuthParams()).device_token is not UNSET
    shared_reason = proven.shared.reason or "token_missing"
    if reason == "bootstrap_token_invalid":
        return unauthorized(reason, proven.protocol)
    if reason == "scope_mismatch":
        version_3 = proven.protocol < 4
        return unauthorized("device_token_mismatch" if version_3 else reason, proven.protocol)
    return unauthorized(
        "device_token_mismatch" if explicit else shared_reason,
        proven.protocol,
        device_token_may_help=shared_reason == "token_mismatch" and not explicit,
        shown=proven.token_candidate if explicit else proven.shown_secret,
    )


def _needs_no_pairing(proven: Proven) -> bool:
    """A local backend of this machine that has the shared credential leaves no pairing record."""
    client, peer = proven.client, proven.peer
    backend = client.id == "gateway-client" and client.mode == "backend"
    return backend and proven.role is Role.OPERATOR and peer.local and peer.origin is None
