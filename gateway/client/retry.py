"""Whether and when to come back after a connection ended or did not come about. Decisions only, no I/O.

Requirements
    Many clients lose a gateway at the same moment, and must not return in the same one. A gateway that
    says when to come back is believed, within reason. Where a person has to do something first (another
    token, an approval, another version), coming back by itself only makes noise, and may lock the
    address out. A connection that breaks as soon as it is made must not count as a success.

Design
    Full jitter: the wait is drawn evenly from 0 to a ceiling that doubles with every attempt up to
    ``cap_s``. A hint is waited for first, and the draw comes on top, so that hinted clients spread as
    well. The count starts anew only after a connection was healthy for ``healthy_s``.

    With the defaults that is 5,760 attempts in an outage of 24 hours on average, and never more than
    30 s between the gateway's return and the client's; ``cap_s=720`` makes it 250, and 12 minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from secrets import randbits
from typing import Final

from gateway.client.errors import (
    ClientError,
    ConnectFailed,
    ConnectionLost,
    ConnectRefused,
    GaveUp,
)

CLOSE_PROTOCOL_ERROR: Final = 1002

MAX_HINT_S: Final = 300.0
"""A hint beyond this is cut: no gateway may send its clients away for good."""

NEEDS_A_PERSON: Final = frozenset(
    {
        "AUTH_TOKEN_MISSING",
        "AUTH_TOKEN_MISMATCH",
        "AUTH_TOKEN_NOT_CONFIGURED",
        "AUTH_PASSWORD_MISSING",
        "AUTH_PASSWORD_MISMATCH",
        "AUTH_PASSWORD_NOT_CONFIGURED",
        "AUTH_BOOTSTRAP_TOKEN_INVALID",
        "AUTH_DEVICE_TOKEN_MISMATCH",
        "AUTH_SCOPE_MISMATCH",
        "AUTH_RATE_LIMITED",
        "AUTH_IDENTITY_HEADER_REQUIRED",
        "AUTH_VERIFIED_USER_REQUIRED",
        "AUTH_REQUIRED",
        "AUTH_UNAUTHORIZED",
        "CLIENT_VERSION_MISMATCH",
        "CONTROL_UI_BUILD_MISMATCH",
        "CONTROL_UI_DEVICE_IDENTITY_REQUIRED",
        "CONTROL_UI_ORIGIN_NOT_ALLOWED",
        "DEVICE_IDENTITY_REQUIRED",
        "PAIRING_REQUIRED",
        "PROTOCOL_MISMATCH",
    }
)
"""``details.code`` of refusals that another attempt does not change (protocol: what clients rely on)."""

_PASSING_CODES: Final = frozenset({None, "UNAVAILABLE", "AGENT_TIMEOUT"})
"""Codes of refusals that pass; every other says that the request itself is at fault."""


def random_fraction() -> float:
    """Return a random number in [0, 1)."""
    return randbits(53) / (1 << 53)


@dataclass(frozen=True, slots=True)
class Reconnect:
    """How a client comes back by itself. Times are in seconds."""

    first_s: float = 1.0
    """The ceiling of the first wait; it doubles with every attempt."""
    cap_s: float = 30.0
    """The highest ceiling: how much later than the gateway a client may be back."""
    healthy_s: float = 60.0
    """How long a connection must have lasted for the count to start anew."""
    max_attempts: int | None = None
    """Attempts in a row before the client gives up; ``None`` for no bound."""
    fraction: Callable[[], float] = field(default=random_fraction, repr=False, compare=False)
    """The source of jitter: numbers in [0, 1)."""


class Backoff:
    """Counts attempts and says how long to wait for the next."""

    def __init__(self, policy: Reconnect | None) -> None:
        self._policy = policy
        self._attempts = 0
        self._opened_at: float | None = None

    @property
    def attempts(self) -> int:
        """Attempts since a connection was last healthy."""
        return self._attempts

    def opened(self, now: float) -> None:
        """Note that the handshake is done."""
        self._opened_at = now

    def next_wait(self, error: ClientError, now: float) -> float | ClientError:
        """Return how many seconds to wait, or the error that ends it all."""
        policy = self._policy
        if policy is None or needs_a_person(error):
            return error
        opened_at, self._opened_at = self._opened_at, None
        if opened_at is not None and now - opened_at >= policy.healthy_s:
            self._attempts = 0
        if policy.max_attempts is not None and self._attempts >= policy.max_attempts:
            return GaveUp(self._attempts, error)
        exponent = min(self._attempts, 64)
        self._attempts += 1
        wait = policy.fraction() * min(policy.cap_s, policy.first_s * 2.0**exponent)
        hint = min((error.retry_after_ms or 0) / 1000, MAX_HINT_S)
        return max(hint, min(policy.cap_s, hint + wait))


def needs_a_person(error: ClientError) -> bool:
    """Whether coming back by itself is of no use."""
    if isinstance(error, ConnectFailed | ConnectionLost):
        return False
    if not isinstance(error, ConnectRefused):
        return True  # an address or a credential that can not even be sent
    details = error.details if isinstance(error.details, Mapping) else {}
    detail = error.detail_code or ""
    if detail == "PAIRING_REQUIRED" and _waits_for_pairing(details):
        return False
    if details.get("reason") == "device-signature-stale":
        return False  # a machine that slept between the challenge and its answer
    if detail in NEEDS_A_PERSON:
        return True
    if error.retryable is not None:
        return not error.retryable
    return error.code not in _PASSING_CODES or error.close_code == CLOSE_PROTOCOL_ERROR


def _waits_for_pairing(details: Mapping[str, object]) -> bool:
    """Whether the gateway wants the client to go on asking until it was approved."""
    if details.get("pauseReconnect") is False:
        return True
    return details.get("recommendedNextStep") == "wait_then_retry"
