"""Runs as they are numbered, logged, stored and kept."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from gateway.model.agents import ModelUsage
from gateway.model.base import Struct
from gateway.model.sessions import Message


class Position(Struct, frozen=True, kw_only=True):
    """A place in the log of a run. Another epoch means another log."""

    epoch: str
    seq: int


class RunState(StrEnum):
    """The states of a run; the last three are terminal."""

    ACCEPTED = "accepted"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    ABORTED = "aborted"

    @property
    def terminal(self) -> bool:
        """Whether no further event can follow."""
        return self not in (RunState.ACCEPTED, RunState.RUNNING)


class RunRecord(Struct, frozen=True, kw_only=True):
    """A run as the store keeps it."""

    run_id: str
    epoch: str
    session_key: str
    session_id: str
    agent_id: str
    origin: str
    """What started it: chat, agent or voice."""
    actor: str
    fingerprint: str
    """Digest of the request's content, for idempotency."""
    state: RunState
    accepted_at_ms: int
    started_at_ms: int | None = None
    ended_at_ms: int | None = None
    stop_reason: str | None = None
    error: str | None = None
    last_seq: int = 0
    evicted_through: int = 0
    """Events of its log up to this ``seq`` were removed by the retention policy; the store sets it."""
    request_json: bytes | None = None
    """What :func:`encode_request` made of its request, until it has ended: enough to run it again."""


class RunEvent(Struct, frozen=True, kw_only=True):
    """One event of a run's log: ``data`` is JSON text."""

    run_id: str
    epoch: str
    seq: int
    stream: str
    data: bytes
    ts_ms: int


class TurnEnd(Struct, frozen=True, kw_only=True):
    """What the store writes, in one transaction, when a run ends."""

    run: RunRecord
    """In its terminal state."""
    messages: tuple[Message, ...] = ()
    events: tuple[RunEvent, ...] = ()
    input_tokens: int = 0
    output_tokens: int = 0
    context_tokens: int | None = None
    """What is in the agent's context now, where it said so."""
    usage: tuple[ModelUsage, ...] = ()
    """What each model used; it outlives the run."""
    system_sent: bool = True
    moved_from: str | None = None
    """An epoch whose events become part of the log under the run's epoch, before the ones here: the log of
    a process that died may have been shown further than it was stored, so it goes on as another log."""


class RunQuery(Struct, frozen=True, kw_only=True):
    """Which runs to list: what was accepted last comes first."""

    limit: int
    session_key: str | None = None
    states: tuple[RunState, ...] = ()
    """Runs in one of these; without any, runs in every state."""


class EventSpan(NamedTuple):
    """What is stored of a run's log: the events ``first_seq`` to ``last_seq``, none if that is less.

    What is before ``first_seq`` was evicted; ``last_seq`` is also where an empty log ends.
    """

    epoch: str
    first_seq: int
    last_seq: int


class Retention(Struct, frozen=True, kw_only=True):
    """Which ended runs are kept. Runs that are open stay whatever it says; None sets no limit."""

    ended_before_ms: int | None = None
    """Runs that ended before this time are forgotten."""
    runs_per_session: int | None = None
    """Of each session so many of the runs accepted last stay, the others are forgotten."""
    log_bytes: int | None = None
    """What the logs of ended runs may take of the disk; the oldest events go, their runs stay known."""
    usage_before_ms: int | None = None
    """What runs used that ended before this time is forgotten."""


class RetentionPass(Struct, frozen=True, kw_only=True):
    """What one pass of a retention policy removed, and whether it found all that there is."""

    runs: int
    events: int
    more: bool
    usage: int = 0
    """Entries of usage."""
