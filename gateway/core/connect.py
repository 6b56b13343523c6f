"""The ``connect`` request: who may come in.

:func:`judge` makes every decision that needs no store, in the protocol's order: version, role, origin,
shared credential, device presence, device proof. What it lets through (:class:`Proven`) still has to
show a device token or be paired, which needs the store (``gateway.app.admission``).

One policy serves both versions, the stricter where they differ: without a device identity an operator
holds no scopes, but for two local cases (a command line, a backend). What a refusal looks like is the
chosen version's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from msgspec import UNSET, UnsetType

from gateway.core.access import AuthPolicy, OriginPolicy, Peer, SharedAuth
from gateway.core.connectparams import (
    PROTOCOLS,
    AuthParams,
    ConnectParams,
    InvalidConnect,
    check_connect,
    choose_protocol,
    decode_connect,
)
from gateway.core.deviceproof import (
    DeviceProof,
    ProofFailure,
    SignedContext,
    canonical_public_key,
    verify,
)
from gateway.core.params import given
from gateway.errors import CloseCause, CloseCode, ErrorCode
from gateway.model import ClientInfo, Role

__all__ = [
    "AuthParams",
    "ConnectParams",
    "DoorPolicy",
    "InvalidConnect",
    "Proven",
    "Refusal",
    "bad_first_frame",
    "check_connect",
    "choose_protocol",
    "decode_connect",
    "first_frame_not_json",
    "invalid_params",
    "judge",
    "not_connect_first",
    "pairing_required",
    "unauthorized",
]

MAX_REASON_BYTES: Final = 120
MAX_ECHOED_INT: Final = 2**53 - 1
"""The largest integer that every JSON reader takes; a client's larger one is echoed as this."""

DEVICE_ONLY_CLIENTS: Final = frozenset({"openclaw-control-ui", "openclaw-tui"})
BROWSER_CLIENTS: Final = frozenset({"openclaw-control-ui", "webchat-ui"})


class Refusal(Exception):
    """A connection is refused: what is answered, and how it is closed.

    ``error`` is an error shape, or None where the protocol answers nothing. ``log`` holds further
    facts for the close line (never a secret).
    """

    def __init__(
        self,
        cause: CloseCause,
        code: CloseCode,
        reason: str,
        error: dict[str, Any] | None = None,
        log: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(reason)
        self.cause = cause
        self.code = code
        self.reason = reason
        self.error = error
        self.log = log or {}

    @property
    def close_reason(self) -> str:
        """The reason as it fits a close frame: at most 120 bytes of UTF-8."""
        return self.reason.encode()[:MAX_REASON_BYTES].decode("utf-8", "ignore")


@dataclass(frozen=True, slots=True)
class DoorPolicy:
    """Who may come in."""

    auth: AuthPolicy
    origins: OriginPolicy


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
    def token_candidate(self) -> str | None:
        """What may be a device token, should the shared credential be wrong."""
        auth = given(self.params.auth, AuthParams())
        return (auth.device_token or auth.token) or None if self.device_id else None


def judge(
    params: ConnectParams, *, policy: DoorPolicy, peer: Peer, nonce: str, now_ms: int
) -> Proven:
    """Make every decision on a connect request that needs no store. Raises Refusal."""
    protocol = choose_protocol(params.min_protocol, params.max_protocol)
    if protocol is None:
        raise _protocol_mismatch(params)
    try:
        check_connect(params, protocol)
    except InvalidConnect as error:
        raise invalid_params(str(error)) from error
    role_name = given(params.role, "operator")
    if role_name not in (Role.OPERATOR, Role.NODE):
        raise _invalid(CloseCause.INVALID_ROLE, "invalid role")
    role = Role(role_name)
    client = params.client.info()
    browser = client.id in BROWSER_CLIENTS or client.mode == "webchat"
    origin_refusal = policy.origins.refusal(peer, browser=browser)
    if origin_refusal is not None:
        raise _origin_refused(origin_refusal, protocol)
    auth = given(params.auth, AuthParams())
    shared = policy.auth.check(auth.token or None, auth.password or None)
    proven = Proven(
        protocol=protocol,
        role=role,
        scopes=tuple(dict.fromkeys(given(params.scopes, []))) if role is Role.OPERATOR else (),
        params=params,
        client=client,
        peer=peer,
        shared=shared,
    )
    if params.device is UNSET:
        return _without_device(proven)
    return _with_device(proven, nonce, now_ms)


def _without_device(proven: Proven) -> Proven:
    client, shared = proven.client, proven.shared
    if client.id in DEVICE_ONLY_CLIENTS:
        message = "control ui requires device identity (use HTTPS or localhost secure context)"
        raise _invalid(
            CloseCause.DEVICE_REQUIRED, message, {"code": "CONTROL_UI_DEVICE_IDENTITY_REQUIRED"}
        )
    if proven.role is Role.OPERATOR and shared.ok:
        return replace(proven, scopes=proven.scopes if _keeps_scopes(proven) else ())
    if not shared.ok and shared.presented:
        raise unauthorized(shared.reason or "unauthorized", proven.protocol)
    raise Refusal(
        CloseCause.DEVICE_REQUIRED,
        CloseCode.POLICY,
        "device identity required",
        {
            "code": ErrorCode.NOT_PAIRED.value,
            "message": "device identity required",
            "details": {"code": "DEVICE_IDENTITY_REQUIRED"},
        },
    )


def _keeps_scopes(proven: Proven) -> bool:
    """Whether a client without a device identity keeps the scopes it asks for: two local cases only."""
    if proven.shared.method == "none":
        return proven.peer.local
    kind = (proven.client.id, proven.client.mode)
    local = proven.peer.local and proven.peer.origin is None
    return local and kind in (("cli", "cli"), ("gateway-client", "backend"))


def _with_device(proven: Proven, nonce: str, now_ms: int) -> Proven:
    params, device = proven.params, proven.params.device
    assert not isinstance(device, UnsetType)
    proof = DeviceProof(
        id=device.id,
        public_key=device.public_key,
        signature=device.signature,
        signed_at_ms=device.signed_at,
        nonce=device.nonce,
    )
    context = SignedContext(
        client_id=proven.client.id,
        client_mode=proven.client.mode,
        role=proven.role.value,
        scopes=tuple(given(params.scopes, [])),
        token=given(params.auth, AuthParams()).signed_token(),
        platform=proven.client.platform,
        device_family=proven.client.device_family,
    )
    failure = verify(proof, context, nonce=nonce, now_ms=now_ms)
    if failure is not None:
        raise _device_refused(failure, proven.protocol)
    return replace(proven, device_id=device.id, public_key=canonical_public_key(device.public_key))


def _invalid(
    cause: CloseCause,
    message: str,
    details: dict[str, Any] | None = None,
    code: CloseCode = CloseCode.POLICY,
) -> Refusal:
    error: dict[str, Any] = {"code": ErrorCode.INVALID_REQUEST.value, "message": message}
    if details is not None:
        error["details"] = details
    return Refusal(cause, code, message, error)


def invalid_params(text: str) -> Refusal:
    """Return the refusal of connect params that do not fit the schema."""
    return _invalid(CloseCause.INVALID_HANDSHAKE, f"invalid connect params: {text}")


def not_connect_first() -> Refusal:
    """Return the refusal of a first request that is not ``connect``."""
    return _invalid(
        CloseCause.INVALID_HANDSHAKE, "invalid handshake: first request must be connect"
    )


def bad_first_frame() -> Refusal:
    """Return the refusal of a first frame that is JSON but no request: nothing is answered."""
    return Refusal(CloseCause.INVALID_HANDSHAKE, CloseCode.POLICY, "invalid request frame")


def first_frame_not_json() -> Refusal:
    """Return the refusal of a first frame that is not JSON: closed as if nothing had been said."""
    return Refusal(CloseCause.INVALID_HANDSHAKE, CloseCode.NORMAL, "")


def _protocol_mismatch(params: ConnectParams) -> Refusal:
    details = {
        "code": "PROTOCOL_MISMATCH",
        "clientMinProtocol": min(params.min_protocol, MAX_ECHOED_INT),
        "clientMaxProtocol": min(params.max_protocol, MAX_ECHOED_INT),
        "expectedProtocol": PROTOCOLS[-1],
        "minimumProbeProtocol": PROTOCOLS[0],
    }
    return _invalid(
        CloseCause.PROTOCOL_MISMATCH, "protocol mismatch", details, CloseCode.PROTOCOL_ERROR
    )


def _origin_refused(reason: str, protocol: int) -> Refusal:
    message = (
        "origin not allowed (add it to server.allowed_origins, or open the page from this host)"
    )
    details = {"code": "CONTROL_UI_ORIGIN_NOT_ALLOWED", "reason": reason} if protocol >= 4 else None
    return _invalid(CloseCause.ORIGIN_MISMATCH, message, details)


def _device_refused(failure: ProofFailure, protocol: int) -> Refusal:
    details = {"code": failure.detail_code(protocol), "reason": failure.value}
    return _invalid(CloseCause.DEVICE_AUTH_INVALID, failure.message, details)


_AUTH_TEXTS: Final = {
    "token_missing": "gateway token missing (pass --token; on the gateway's host: gatewayctl token)",
    "token_mismatch": "gateway token mismatch (on the gateway's host: gatewayctl token --show)",
    "token_missing_config": "gateway token not configured (set auth.token)",
    "password_missing": "gateway password missing (enter the gateway's password)",
    "password_mismatch": "gateway password mismatch (enter the gateway's password)",
    "password_missing_config": "gateway password not configured (set auth.password)",
    "device_token_mismatch": "device token mismatch (forget the device token and pair again)",
    "scope_mismatch": "device token does not cover the requested scopes (ask with the gateway token)",
}
_AUTH_CODES: Final = {
    "token_missing_config": "AUTH_TOKEN_NOT_CONFIGURED",
    "password_missing_config": "AUTH_PASSWORD_NOT_CONFIGURED",
}
_NEXT_STEPS: Final = {
    "token_missing_config": "review_auth_configuration",
    "password_missing_config": "review_auth_configuration",
    "token_missing": "update_auth_configuration",
    "password_missing": "update_auth_configuration",
}


def unauthorized(reason: str, protocol: int, *, device_token_may_help: bool = False) -> Refusal:
    """Return the refusal of a credential; ``reason`` is one of the protocol's auth reasons."""
    details: dict[str, Any] = {
        "code": _AUTH_CODES.get(reason, f"AUTH_{reason.upper()}"),
        "authReason": reason,
    }
    if protocol >= 4:
        step = _NEXT_STEPS.get(reason, "update_auth_credentials")
        details["canRetryWithDeviceToken"] = device_token_may_help
        details["recommendedNextStep"] = (
            "retry_with_device_token" if device_token_may_help else step
        )
    text = _AUTH_TEXTS.get(reason, "credentials refused")
    return _invalid(CloseCause.UNAUTHORIZED, f"unauthorized: {text}", details)


def pairing_required(
    proven: Proven,
    request_id: str,
    *,
    reason: str = "not-paired",
    approved_roles: tuple[str, ...] = (),
    approved_scopes: tuple[str, ...] = (),
) -> Refusal:
    """Return the refusal of a device that an operator has to approve first.

    ``reason`` is not-paired, role-upgrade, scope-upgrade or metadata-upgrade. The shape is version
    4's, which contains version 3's.
    """
    sentences = {
        "not-paired": "device is not approved yet",
        "role-upgrade": "device is asking for a higher role than currently approved",
        "scope-upgrade": "device is asking for more scopes than currently approved",
        "metadata-upgrade": "device identity changed and must be re-approved",
    }
    message = f"pairing required: {sentences[reason]}"
    details: dict[str, Any] = {
        "code": "PAIRING_REQUIRED",
        "reason": reason,
        "requestId": request_id,
        "remediationHint": "approve the device on the gateway's host, then connect again",
        "deviceId": proven.device_id,
        "requestedRole": proven.role.value,
        "requestedScopes": list(proven.scopes),
    }
    if approved_roles:
        details |= {"approvedRoles": list(approved_roles), "approvedScopes": list(approved_scopes)}
    error = {"code": ErrorCode.NOT_PAIRED.value, "message": message, "details": details}
    closing = f"{message} (requestId: {request_id})"
    return Refusal(CloseCause.PAIRING_REQUIRED, CloseCode.POLICY, closing, error)
