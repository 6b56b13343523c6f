"""Error codes, close codes, close causes and the tree of typed errors.

::

    GatewayError                 answered to the client with a code
     +-- InvalidRequest          INVALID_REQUEST: the request is at fault
     |    +-- InvalidParams      ... its params do not fit the method's schema
     |    +-- UnknownMethod
     |    +-- WrongRole
     +-- MissingScope            FORBIDDEN (protocol 4), INVALID_REQUEST (protocol 3)
     +-- NotPaired               NOT_PAIRED: the device must be approved first
     +-- Unavailable             UNAVAILABLE: not now, or it failed inside
    BackendError                 an agent failed; becomes the run's terminal error
    StoreError                   the store could not do it
     +-- VersionConflict         a compare-and-set lost
    StartError                   the gateway can not start; one line, exit status 1
     +-- ConfigError             names the key and the file

Anything else that is raised inside a handler is a bug: it is logged whole under a correlation id and
answered ``UNAVAILABLE`` without its text.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, StrEnum
from typing import Any


class ErrorCode(StrEnum):
    """The codes of an error response (both protocol versions)."""

    INVALID_REQUEST = "INVALID_REQUEST"
    UNAVAILABLE = "UNAVAILABLE"
    NOT_PAIRED = "NOT_PAIRED"
    FORBIDDEN = "FORBIDDEN"


class CloseCode(IntEnum):
    """WebSocket close codes the gateway sends (RFC 6455 section 7.4, and 4000-4999 for its own)."""

    NORMAL = 1000
    PROTOCOL_ERROR = 1002
    BAD_DATA = 1007
    POLICY = 1008
    TOO_BIG = 1009
    INTERNAL = 1011
    RESTART = 1012
    TRY_LATER = 1013
    AUTHORITY_REVOKED = 4001


class CloseCause(StrEnum):
    """Why a connection ended. The first cause stays; each is one label of one metric."""

    INVALID_HANDSHAKE = "invalid-handshake"
    PROTOCOL_MISMATCH = "protocol-mismatch"
    INVALID_ROLE = "invalid-role"
    ORIGIN_MISMATCH = "origin-mismatch"
    HOST_MISMATCH = "host-mismatch"
    MISSING_ATTRIBUTION = "missing-ingress-attribution"
    UNAUTHORIZED = "unauthorized"
    DEVICE_REQUIRED = "device-required"
    DEVICE_AUTH_INVALID = "device-auth-invalid"
    PAIRING_REQUIRED = "pairing-required"
    HANDSHAKE_TIMEOUT = "handshake-timeout"
    HANDSHAKE_OVERFLOW = "handshake-message-overflow"
    PREAUTH_TOO_LARGE = "preauth-payload-too-large"
    REPEATED_UNAUTHORIZED = "repeated-unauthorized-requests"
    CAPACITY = "capacity"
    CLIENT_INVALIDATED = "client-invalidated"
    GATEWAY_AUTH_ROTATED = "gateway-auth-rotated"
    NODE_PAIRING_CHANGED = "node-pairing-generation-changed"
    SLOW_CONSUMER = "slow-consumer"
    SEND_ERROR = "send-error"
    DRAIN = "drain"
    PEER_CLOSED = "peer-closed"
    PEER_GONE = "peer-gone"
    PROTOCOL_ERROR = "protocol-error"
    INTERNAL_ERROR = "internal-error"
    KEEPALIVE_TIMEOUT = "keepalive-timeout"


class GatewayError(Exception):
    """An error with a code, answered to whoever asked.

    ``message`` is a sentence for people, ``details`` stable keys for programs. ``retryable`` and
    ``retry_after_ms`` are sent only where set.
    """

    code = ErrorCode.UNAVAILABLE
    payload: Any = None
    """What is sent beside the error, where a method has an answer even when it fails."""

    def __init__(
        self,
        message: str,
        *,
        details: Mapping[str, Any] | None = None,
        retryable: bool | None = None,
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details = details
        self.retryable = retryable
        self.retry_after_ms = retry_after_ms

    def shape(self, protocol: int) -> dict[str, Any]:
        """Return the wire form ``{code, message, details?, retryable?, retryAfterMs?}``.

        The protocol has no empty message: the code stands in for one.
        """
        shape: dict[str, Any] = {
            "code": self.code.value,
            "message": self.message or self.code.value,
        }
        if self.details is not None:
            shape["details"] = dict(self.details)
        if self.retryable is not None:
            shape["retryable"] = self.retryable
        if self.retry_after_ms is not None:
            shape["retryAfterMs"] = self.retry_after_ms
        return shape


class InvalidRequest(GatewayError):
    """The request is at fault; sending it again changes nothing."""

    code = ErrorCode.INVALID_REQUEST


class InvalidParams(InvalidRequest):
    """The params do not fit the method's schema; the text names the path."""

    def __init__(self, method: str, text: str) -> None:
        super().__init__(f"invalid {method} params: {text}")


class UnknownMethod(InvalidRequest):
    """No such method."""

    def __init__(self, method: str) -> None:
        super().__init__(f"unknown method: {method}")


class WrongRole(InvalidRequest):
    """The method is not for this connection's role."""

    def __init__(self, role: str) -> None:
        super().__init__(f"unauthorized role: {role}")


class MissingScope(GatewayError):
    """The connection lacks a scope that the method asks for."""

    code = ErrorCode.FORBIDDEN

    def __init__(self, missing: str, required: tuple[str, ...]) -> None:
        super().__init__(
            f"missing scope: {missing}",
            details={
                "code": "MISSING_SCOPE",
                "missingScope": missing,
                "requiredScopes": list(required),
            },
        )

    def shape(self, protocol: int) -> dict[str, Any]:
        """Protocol 3 knows no FORBIDDEN: there the same refusal is an INVALID_REQUEST without details."""
        if protocol < 4:
            return {"code": ErrorCode.INVALID_REQUEST.value, "message": self.message}
        return super().shape(protocol)


class NotPaired(GatewayError):
    """The device has to be approved by an operator before it may do this."""

    code = ErrorCode.NOT_PAIRED


class Unavailable(GatewayError):
    """Not now, or it failed inside the gateway."""

    code = ErrorCode.UNAVAILABLE


class BackendErrorKind(StrEnum):
    """What kind of failure an agent reports (the ``errorKind`` of a version 4 chat error)."""

    REFUSAL = "refusal"
    TIMEOUT = "timeout"
    RATE_LIMIT = "rate_limit"
    CONTEXT_LENGTH = "context_length"
    UNKNOWN = "unknown"


class BackendError(Exception):
    """An agent failed.

    ``detail`` may hold ``provider``, ``model``, ``httpStatus``, ``providerErrorType``,
    ``providerErrorMessagePreview``, ``failoverReason``, ``providerRuntimeFailureKind`` (strings of at
    most 300 characters, httpStatus an int), the keys of a version 4 ``errorDetail``. Anything else in
    it is left out when the run ends.
    """

    def __init__(
        self,
        message: str,
        *,
        kind: BackendErrorKind = BackendErrorKind.UNKNOWN,
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.kind = kind
        self.detail = detail if isinstance(detail, Mapping) else None


class StoreError(Exception):
    """The store could not do what was asked; nothing of it was done."""


class VersionConflict(StoreError):
    """A compare-and-set found another version than the one expected."""


class StartError(Exception):
    """The gateway can not start. ``str()`` is the one line that the operator reads."""


class ConfigError(StartError):
    """The configuration is unreadable or invalid; the text names the key and the file."""
