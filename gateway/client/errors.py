"""What can go wrong for a client, as one tree of typed errors.

::

    ClientError
     +-- InvalidUrl           the address of the gateway can not be used
     +-- ConnectFailed        no WebSocket connection came about: network, TLS, HTTP
     +-- ConnectRefused       the gateway said no during the handshake
     +-- ConnectionLost       the connection ended after it was made
     +-- RequestNotSent       the request never left: too large, too many, no JSON
     +-- RequestFailed        the gateway answered a request with an error
     +-- RequestTimeout       no answer in time; what the request asked for may have happened
     +-- RunLost              what became of a run can not be found out any more
     +-- UnexpectedAnswer     an answer does not have the shape that a typed call expects
     +-- GaveUp               a client that comes back by itself has tried often enough

The texts are single lines for people and never hold a credential.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

CLOSE_ABNORMAL: Final = 1006
"""The code of a connection that ended without a close frame (RFC 6455 section 7.4.1)."""
CLOSE_RESTART: Final = 1012
CLOSE_TRY_LATER: Final = 1013

STARTING_RETRY_MS: Final = 500
"""When to come back to a gateway that is still starting and names no time itself."""


class ClientError(Exception):
    """Base of every error of the client library.

    ``retry_after_ms`` is the gateway's hint when to try again, if it gave one.
    """

    retry_after_ms: int | None = None


class InvalidUrl(ClientError, ValueError):
    """The address is no usable ``ws://`` or ``wss://`` URL."""


CONNECTION_REFUSED: Final = "connection refused"
"""Why no connection came about where nobody listens."""


class ConnectFailed(ClientError):
    """No WebSocket connection came about."""

    def __init__(self, url: str, why: str) -> None:
        super().__init__(f"cannot connect to {url}: {why}")
        self.url = url
        self.why = why


class ConnectRefused(ClientError):
    """The gateway refused during the handshake.

    ``code`` and ``details`` are those of its answer, ``None`` where it closed without one;
    ``close_code`` and ``close_reason`` those of its close frame, ``None`` where none came.
    """

    def __init__(
        self,
        code: str | None,
        message: str,
        *,
        details: Any = None,
        retryable: bool | None = None,
        retry_after_ms: int | None = None,
        close_code: int | None = None,
        close_reason: str | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details
        self.retryable = retryable
        self.retry_after_ms = retry_after_ms
        self.close_code = close_code
        self.close_reason = close_reason

    @property
    def detail_code(self) -> str | None:
        """The stable code in ``details``, such as ``AUTH_TOKEN_MISMATCH`` or ``PAIRING_REQUIRED``."""
        code = self.details.get("code") if isinstance(self.details, Mapping) else None
        return code if isinstance(code, str) else None

    def closed_with(self, close_code: int | None, close_reason: str | None) -> ConnectRefused:
        """Return the same refusal, completed by the close that followed it."""
        retryable, retry_after_ms = self.retryable, self.retry_after_ms
        if close_code in (CLOSE_RESTART, CLOSE_TRY_LATER):
            retryable = True if retryable is None else retryable
        if close_code == CLOSE_TRY_LATER and retryable and retry_after_ms is None:
            retry_after_ms = STARTING_RETRY_MS
        return ConnectRefused(
            self.code,
            self.message,
            details=self.details,
            retryable=retryable,
            retry_after_ms=retry_after_ms,
            close_code=close_code,
            close_reason=close_reason,
        )


class ConnectionLost(ClientError):
    """The connection ended. ``code`` is 1006 where no close frame was seen, 1012 for a restart."""

    def __init__(self, code: int, reason: str, *, retry_after_ms: int | None = None) -> None:
        super().__init__(f"connection lost: {reason} ({code})" if reason else f"closed ({code})")
        self.code = code
        self.reason = reason
        self.retry_after_ms = retry_after_ms


class RequestNotSent(ClientError):
    """The request never left this client."""


class RequestFailed(ClientError):
    """The gateway answered with an error. ``payload`` is set where the answer carried one as well."""

    def __init__(
        self,
        method: str,
        code: str,
        message: str,
        *,
        details: Any = None,
        retryable: bool | None = None,
        retry_after_ms: int | None = None,
        payload: Any = None,
    ) -> None:
        super().__init__(f"{message} ({code})")
        self.method = method
        self.code = code
        self.message = message
        self.details = details
        self.retryable = retryable
        self.retry_after_ms = retry_after_ms
        self.payload = payload


class RequestTimeout(ClientError):
    """No answer within ``seconds``. What was asked for may have happened all the same."""

    def __init__(self, method: str, seconds: float) -> None:
        super().__init__(f"no answer to {method} within {seconds:g} s")
        self.method = method
        self.seconds = seconds


class RunLost(ClientError):
    """What became of a run can not be found out: the gateway does not know it, or its log is broken."""

    def __init__(self, run_id: str, why: str) -> None:
        super().__init__(f"run {run_id}: {why}")
        self.run_id = run_id
        self.why = why


class UnexpectedAnswer(ClientError):
    """An answer can not be read, or has not the shape that the call expects; ``payload`` is what came."""

    def __init__(self, method: str, why: str, payload: Any) -> None:
        super().__init__(f"{method}: the gateway's answer has another shape: {why}")
        self.method = method
        self.payload = payload


class GaveUp(ClientError):
    """No connection after ``attempts`` attempts in a row; ``last`` is what ended the last one."""

    def __init__(self, attempts: int, last: ClientError) -> None:
        super().__init__(f"gave up after {attempts} attempts: {last}")
        self.attempts = attempts
        self.last = last
