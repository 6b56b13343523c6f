"""Every refusal of a connection before it is established: what is answered, and how it is closed.

What they say, and what mends each, stands in :mod:`gateway.core.catalogue`. What a refusal looks like is
the version's that was chosen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from gateway.core.catalogue import CATALOGUE, Advice
from gateway.core.connectparams import PROTOCOLS, ConnectParams
from gateway.core.deviceproof import ProofFailure
from gateway.core.lookalikes import looks_like
from gateway.errors import CloseCause, CloseCode, ErrorCode

if TYPE_CHECKING:
    from gateway.core.connect import Proven

MAX_REASON_BYTES: Final = 120
MAX_HOST: Final = 40
"""Characters of a refused Host header that are told back."""
MAX_ECHOED_INT: Final = 2**53 - 1
"""The largest integer that every JSON reader takes; a client's larger one is echoed as this."""


class Refusal(Exception):
    """A connection is refused: what is answered, and how it is closed.

    ``error`` is an error shape, or None where the protocol answers nothing. ``log`` holds further
    facts for the close line (never a secret).
    """

    failed_credential = False
    """Whether a credential was shown and is wrong: what the limiter of failed attempts counts."""

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


def invalid(
    cause: CloseCause,
    message: str | Advice,
    details: dict[str, Any] | None = None,
    code: CloseCode = CloseCode.POLICY,
) -> Refusal:
    """Return the refusal of a request that is at fault: ``INVALID_REQUEST``.

    Of an advice the close frame has the sentence alone.
    """
    text, reason = (message, message) if isinstance(message, str) else (message.text, message.says)
    error: dict[str, Any] = {"code": ErrorCode.INVALID_REQUEST.value, "message": text}
    if details is not None:
        error["details"] = details
    return Refusal(cause, code, reason, error)


def invalid_params(text: str) -> Refusal:
    """Return the refusal of connect params that do not fit the schema."""
    return invalid(CloseCause.INVALID_HANDSHAKE, f"invalid connect params: {text}")


def not_connect_first() -> Refusal:
    """Return the refusal of a first request that is not ``connect``."""
    return invalid(CloseCause.INVALID_HANDSHAKE, CATALOGUE["not-connect-first"].text)


def bad_first_frame() -> Refusal:
    """Return the refusal of a first frame that is JSON but no request: nothing is answered."""
    text = CATALOGUE["bad-first-frame"].text
    return Refusal(CloseCause.INVALID_HANDSHAKE, CloseCode.POLICY, text)


def first_frame_not_json() -> Refusal:
    """Return the refusal of a first frame that is not JSON: closed as if nothing had been said."""
    return Refusal(CloseCause.INVALID_HANDSHAKE, CloseCode.NORMAL, "")


def protocol_mismatch(params: ConnectParams) -> Refusal:
    """Return the refusal of a client that speaks no version of the protocol that is spoken here."""
    advice = CATALOGUE["protocol-mismatch"]
    details = {
        "code": advice.code,
        "clientMinProtocol": min(params.min_protocol, MAX_ECHOED_INT),
        "clientMaxProtocol": min(params.max_protocol, MAX_ECHOED_INT),
        "expectedProtocol": PROTOCOLS[-1],
        "minimumProbeProtocol": PROTOCOLS[0],
    }
    return invalid(CloseCause.PROTOCOL_MISMATCH, advice, details, CloseCode.PROTOCOL_ERROR)


def origin_refused(reason: str, protocol: int) -> Refusal:
    """Return the refusal of a web page that may not connect."""
    name = "origin-missing" if reason.startswith("origin missing") else "origin-not-allowed"
    advice = CATALOGUE[name]
    details = {"code": advice.code, "reason": reason} if protocol >= 4 else None
    return invalid(CloseCause.ORIGIN_MISMATCH, advice.text, details)


def host_refused(host: str) -> Refusal:
    """Return the refusal of a client on this machine, or a page, that knows the gateway by another name."""
    shown = "".join(char if " " < char < "\x7f" else "?" for char in host[:MAX_HOST])
    advice = CATALOGUE["host-not-allowed"]
    message = advice.text.replace("…", shown, 1)
    return invalid(CloseCause.HOST_MISMATCH, message, {"code": advice.code})


def device_refused(failure: ProofFailure, protocol: int) -> Refusal:
    """Return the refusal of a device whose proof does not hold."""
    details = {"code": failure.detail_code(protocol), "reason": failure.value}
    return invalid(CloseCause.DEVICE_AUTH_INVALID, CATALOGUE[failure.value], details)


_WRONG: Final = frozenset(
    {
        "token_mismatch",
        "password_mismatch",
        "device_token_mismatch",
        "bootstrap_token_invalid",
    }
)
"""Reasons that mean a wrong credential, not a missing one or one that may do less than was asked."""
_PROXY_HEADER: Final = "trusted_proxy_missing_header_"
_UNKNOWN: Final = Advice("credentials refused", "", "AUTH_UNAUTHORIZED")
_NEXT_STEPS: Final = {
    "token_missing_config": "review_auth_configuration",
    "password_missing_config": "review_auth_configuration",
    "token_missing": "update_auth_configuration",
    "password_missing": "update_auth_configuration",
    "rate_limited": "wait_then_retry",
    "scope_mismatch": "review_auth_configuration",
    "bootstrap_token_invalid": "review_auth_configuration",
}


def unauthorized(
    reason: str, protocol: int, *, device_token_may_help: bool = False, shown: str | None = None
) -> Refusal:
    """Return the refusal of a credential; ``reason`` is one of the protocol's auth reasons.

    ``shown`` is the credential: only of what kind it seems to be is told.
    """
    header = reason.removeprefix(_PROXY_HEADER) if reason.startswith(_PROXY_HEADER) else ""
    advice = CATALOGUE.get(_PROXY_HEADER.rstrip("_") if header else reason, _UNKNOWN)
    details: dict[str, Any] = {"code": advice.code, "authReason": reason}
    if protocol >= 4:
        of_proxy = "review_auth_configuration" if reason.startswith("trusted_proxy_") else None
        step = _NEXT_STEPS.get(reason, of_proxy or "update_auth_credentials")
        details["canRetryWithDeviceToken"] = device_token_may_help
        details["recommendedNextStep"] = (
            "retry_with_device_token" if device_token_may_help else step
        )
    kind = looks_like(shown, password=reason.startswith("password")) if shown else None
    text = advice.text if kind is None else f"{advice.says}: {kind} ({advice.mend})"
    text = text.replace("…", header, 1) if header else text
    refusal = invalid(CloseCause.UNAUTHORIZED, f"unauthorized: {text}", details)
    refusal.failed_credential = reason in _WRONG
    return refusal


def rate_limited(retry_after_s: float, protocol: int) -> Refusal:
    """Return the refusal of a credential that is not even looked at: too many were wrong before it."""
    refusal = unauthorized("rate_limited", protocol)
    assert refusal.error is not None
    refusal.error |= {"retryable": True, "retryAfterMs": max(1, round(retry_after_s * 1000))}
    return refusal


_HINTS: Final = {
    "not-paired": "Approve this device on the gateway's host",
    "role-upgrade": "Review the requested role, then approve it on the gateway's host",
    "scope-upgrade": "Review the requested scopes, then approve them on the gateway's host",
    "metadata-upgrade": "Review the changed device details, then approve them on the gateway's host",
}
"""What to do with a device that has to be approved; a command follows."""


def pairing_required(
    proven: Proven,
    request_id: str,
    *,
    reason: str = "not-paired",
    approved_roles: tuple[str, ...] = (),
    approved_scopes: tuple[str, ...] = (),
) -> Refusal:
    """Return the refusal of a device that an operator has to approve first.

    ``reason`` is not-paired, role-upgrade, scope-upgrade or metadata-upgrade.
    """
    details: dict[str, Any] = {
        "code": "PAIRING_REQUIRED",
        "reason": reason,
        "requestId": request_id,
    }
    closing = "pairing required"
    command = f"gatewayctl devices approve {request_id}"
    message = f"{closing} (on the gateway's host: {command})"
    if proven.protocol >= 4:
        message = CATALOGUE[reason].says
        closing = f"{message} (requestId: {request_id})"
        details |= {
            "remediationHint": f"{_HINTS[reason]}: {command}",
            "deviceId": proven.device_id,
            "requestedRole": proven.role.value,
        }
        if proven.scopes:
            details["requestedScopes"] = list(proven.scopes)
        if approved_roles:
            details["approvedRoles"] = list(approved_roles)
            details["approvedScopes"] = list(approved_scopes)
    error = {"code": ErrorCode.NOT_PAIRED.value, "message": message, "details": details}
    return Refusal(CloseCause.PAIRING_REQUIRED, CloseCode.POLICY, closing, error)


def invalid_role() -> Refusal:
    """Return the refusal of a role that there is not."""
    return invalid(CloseCause.INVALID_ROLE, CATALOGUE["invalid-role"].text)


def control_ui_device_required() -> Refusal:
    """Return the refusal of a client that must have a device identity, and has none."""
    advice = CATALOGUE["control-ui-device-required"]
    return invalid(CloseCause.DEVICE_REQUIRED, advice.text, {"code": advice.code})


def device_required() -> Refusal:
    """Return the refusal of a client that has neither a credential nor a device identity."""
    advice = CATALOGUE["device-required"]
    error = {
        "code": ErrorCode.NOT_PAIRED.value,
        "message": advice.text,
        "details": {"code": advice.code},
    }
    return Refusal(CloseCause.DEVICE_REQUIRED, CloseCode.POLICY, advice.says, error)
