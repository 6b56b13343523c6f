"""What is asked of the runs, and what they answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from gateway.core.run import RunOutcome
from gateway.model import Message, RunRequest


@dataclass(frozen=True, slots=True)
class Turn:
    """One request for a run, checked and with its keys canonical."""

    request: RunRequest
    message: Message
    """The user's message as the transcript keeps it."""
    fingerprint: str
    origin: str
    actor: str
    conn_id: str | None = None
    wants_tools: bool = False
    prepare: Callable[[], Awaitable[None]] | None = None
    """What has to be done before the run is accepted, once only however often the request comes."""
    check_room: Callable[[], None] | None = None
    """Called when the run is to take its place in its session; raises GatewayError where it may not."""


@dataclass(frozen=True, slots=True)
class Started:
    """What became of a request for a run. ``outcome`` is set if the run has ended before."""

    run_id: str
    fresh: bool
    message_seq: int | None = None
    accepted_at_ms: int = 0
    outcome: RunOutcome | None = None
