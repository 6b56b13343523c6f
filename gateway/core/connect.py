"""The ``connect`` request: who may come in.

:func:`judge` makes every decision that needs no store, in the protocol's order: version, role, origin,
shared credential, device presence, device proof. What it lets through (:class:`Proven`) still has to
show a device token or be paired, which needs the store (``gateway.app.admission``).

One policy serves both versions, the stricter where they differ: without a device identity an operator
holds no scopes, but for two local cases (a command line, a backend). What a refusal looks like is the
chosen version's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from msgspec import UNSET, UnsetType

from gateway.core.access import OriginPolicy, Peer
from gateway.core.attempts import Credential
from gateway.core.connectparams import (
    AuthParams,
    ConnectParams,
    InvalidConnect,
    check_connect,
    choose_protocol,
)
from gateway.core.credentials import TRUSTED_PROXY, AuthPolicy, SharedAuth, Unverified
from gateway.core.deviceproof import (
    DeviceProof,
    SignedContext,
    canonical_public_key,
    verify,
)
from gateway.core.hosts import HostPolicy
from gateway.core.params import given
from gateway.core.refusals import (
    control_ui_device_required,
    device_refused,
    device_required,
    host_refused,
    invalid_params,
    invalid_role,
    origin_refused,
    protocol_mismatch,
    rate_limited,
    unauthorized,
)
from gateway.model import ClientInfo, Role

DEVICE_ONLY_CLIENTS: Final = frozenset({"openclaw-control-ui", "openclaw-tui"})
BROWSER_CLIENTS: Final = frozenset({"openclaw-control-ui", "webchat-ui"})


@dataclass(frozen=True, slots=True)
class DoorPolicy:
    """Who may come in."""

    auth: AuthPolicy
    origins: OriginPolicy
    hosts: HostPolicy | None = None
    """Without it the gateway may be called by any name."""


@dataclass(frozen=True, slots=True)
class Proven:
    """A connect request that passed every check that needs no store."""

    protocol: int
    role: Role
    scopes: tuple[str, ...]
    """The requested scopes, or none where the client has no device identity."""
    params: ConnectParams
    client: ClientInfo
    peer: Peer
    shared: SharedAuth
    device_id: str | None = None
    public_key: str | None = None
    """The device's key in canonical form: base64url without padding."""

    @property
    def shown_secret(self) -> str | None:
        """What was shown as the shared credential, if anything was."""
        auth = given(self.params.auth, AuthParams())
        return (auth.token or None) or (auth.password or None)

    @property
    def shown(self) -> tuple[Credential, ...]:
        """The kinds of credential that were shown."""
        return shown(self.params)

    @property
    def guesses_secret(self) -> bool:
        """Whether a wrong shared credential was shown, whatever right one stands beside it.

        Clients of version 3 send a device token as ``token``: that is no guess.
        """
        auth = given(self.params.auth, AuthParams())
        other = auth.token != (auth.device_token or auth.token)
        return self.shared.wrong and bool(auth.password or other)

    @property
    def token_candidate(self) -> str | None:
        """What may be a device token, should the shared credential be wrong."""
        auth = given(self.params.auth, AuthParams())
        return (auth.device_token or auth.token) or None if self.device_id else None


def shown(params: ConnectParams) -> tuple[Credential, ...]:
    """Return the kinds of credential that a connect request shows, whatever becomes of each.

    A failure counts for all of them, so that a wrong credential beside another is not a free guess.
    """
    auth = given(params.auth, AuthParams())
    kinds = (
        (Credential.SHARED, auth.token or auth.password),
        (Credential.DEVICE, auth.device_token),
        (Credential.BOOTSTRAP, auth.bootstrap_token),
    )
    return tuple(kind for kind, text in kinds if text)


Locked = Callable[[tuple[Credential, ...]], float]
"""How long credentials of these kinds are not looked at from where the client is, in seconds."""


def never_locked(_kinds: tuple[Credential, ...]) -> float:
    """Look at every credential."""
    return 0.0


def judge(
    params: ConnectParams,
    *,
    policy: DoorPolicy,
    peer: Peer,
    nonce: str,
    now_ms: int,
    locked: Locked = never_locked,
    verified: bool | None = None,
) -> Proven:
    """Make every decision on a connect request that needs no store.

    ``verified`` is the outcome of what Unverified asked for. Raises Refusal and Unverified.
    """
    protocol = choose_protocol(params.min_protocol, params.max_protocol)
    if protocol is None:
        raise protocol_mismatch(params)
    try:
        check_connect(params, protocol)
    except InvalidConnect as error:
        raise invalid_params(str(error)) from error
    role = _role(params)
    client = params.client.info()
    _check_page(policy, peer, protocol, client)
    if policy.auth.mode != "none" and (wait_s := locked(shown(params))) > 0:
        raise rate_limited(wait_s, protocol)
    try:
        shared = _check_shared(policy, params, peer, verified)
    except Unverified:
        # Who is refused for another reason must not learn from the time whether the password is right.
        _check_device(params, protocol, role, nonce, now_ms)
        raise
    if shared.method == TRUSTED_PROXY and not shared.ok:
        raise unauthorized(shared.reason or "unauthorized", protocol)
    proven = Proven(
        protocol=protocol,
        role=role,
        scopes=tuple(dict.fromkeys(given(params.scopes, []))) if role is Role.OPERATOR else (),
        params=params,
        client=client,
        peer=peer,
        shared=shared,
    )
    _check_device(params, protocol, role, nonce, now_ms)
    if params.device is UNSET:
        return _without_device(proven)
    public_key = canonical_public_key(params.device.public_key)
    return replace(proven, device_id=params.device.id, public_key=public_key)


def _role(params: ConnectParams) -> Role:
    name = given(params.role, "operator")
    if name not in (Role.OPERATOR, Role.NODE):
        raise invalid_role()
    return Role(name)


def _check_page(policy: DoorPolicy, peer: Peer, protocol: int, client: ClientInfo) -> None:
    """Refuse a web page of an origin, and who calls the gateway by a name, that is not allowed."""
    browser = client.id in BROWSER_CLIENTS or client.mode == "webchat"
    reason = policy.origins.refusal(peer, browser=browser)
    if reason is not None:
        raise origin_refused(reason, protocol)
    if policy.hosts is not None and policy.hosts.refuses(peer, listed=policy.origins.lists(peer)):
        raise host_refused(peer.host or "")


def _check_shared(
    policy: DoorPolicy, params: ConnectParams, peer: Peer, verified: bool | None
) -> SharedAuth:
    """Judge the shared credential. Raises Unverified."""
    auth = given(params.auth, AuthParams())
    return policy.auth.check(auth.token or None, auth.password or None, peer, verified=verified)


def _without_device(proven: Proven) -> Proven:
    shared = proven.shared
    if proven.role is Role.OPERATOR and shared.ok:
        return replace(proven, scopes=proven.scopes if _keeps_scopes(proven) else ())
    if not shared.ok and shared.presented:
        raise unauthorized(
            shared.reason or "unauthorized", proven.protocol, shown=proven.shown_secret
        )
    raise device_required()


def _keeps_scopes(proven: Proven) -> bool:
    """Whether a client without a device identity keeps the scopes it asks for: two local cases only."""
    if proven.shared.method == "none":
        return proven.peer.local
    kind = (proven.client.id, proven.client.mode)
    local = proven.peer.local and proven.peer.origin is None
    return local and kind in (("cli", "cli"), ("gateway-client", "backend"))


def _check_device(
    params: ConnectParams, protocol: int, role: Role, nonce: str, now_ms: int
) -> None:
    """Refuse a device whose proof does not hold, and who must have a device and has none."""
    client, device = params.client, params.device
    if isinstance(device, UnsetType):
        if client.id in DEVICE_ONLY_CLIENTS:
            raise control_ui_device_required()
        return
    proof = DeviceProof(
        id=device.id,
        public_key=device.public_key,
        signature=device.signature,
        signed_at_ms=device.signed_at,
        nonce=device.nonce,
    )
    context = SignedContext(
        client_id=client.id,
        client_mode=client.mode,
        role=role.value,
        scopes=tuple(given(params.scopes, [])),
        token=given(params.auth, AuthParams()).signed_token(),
        platform=client.platform,
        device_family=given(client.device_family, None),
    )
    failure = verify(proof, context, nonce=nonce, now_ms=now_ms)
    if failure is not None:
        raise device_refused(failure, protocol)
