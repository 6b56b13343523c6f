"""A request that may outlive the connection it was sent on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from gateway.client.actions import Steps
from gateway.client.errors import ClientError, RequestNotSent, RequestTimeout

REPEAT_WITHIN_S: Final = 240.0
"""How long a gateway without logs surely knows the key of a message: it keeps it for five minutes."""

Continuation = Callable[[Any, float], Steps]


@dataclass(slots=True)
class Call:
    """A request that has not been settled. One of the client's own says what follows from its answer."""

    method: str
    params: Any
    expect_final: bool
    timeout: float
    """For each sending."""
    give_up_at: float
    """When it is no longer worth sending."""
    resend: bool
    """Whether it may be sent again where a connection ends before its answer."""
    answered: Continuation | None = None
    failed: Continuation | None = None
    sent_at: float = 0.0
    """When it was sent first."""
    broken_off: ClientError | None = None
    """What ended the connection that it was sent on."""

    def sending(self, now: float) -> float:
        """Take in that it is sent; return how long to wait for the answer."""
        if self.broken_off is None:
            self.sent_at = now
        return min(self.timeout, self.give_up_at - now)

    def repeatable(self, now: float, *, logs: bool) -> bool:
        """Whether sending it again does nothing twice.

        The user vouches for his own; a message of the client's is known by its key, for ever where the
        gateway keeps logs of runs.
        """
        return self.answered is None or logs or now - self.sent_at < REPEAT_WITHIN_S

    def overdue(self) -> ClientError:
        """Return what to say when no connection came for it in time."""
        if self.broken_off is None:
            return RequestNotSent(f"{self.method}: no connection in time")
        return RequestTimeout(self.method, self.timeout)
