"""Where a reader of a run's log stands: what it is answered, from its position and what is kept."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from gateway.model import Position


class Status(StrEnum):
    """What an answer says of a reader's position."""

    UP_TO_DATE = "up-to-date"
    """It stands at the end of the log."""
    REPLAY = "replay"
    """What it lacks is kept, and follows."""
    GAP = "gap"
    """What it lacks is not kept, or it read another log: a snapshot stands for everything so far."""
    UNKNOWN = "unknown"
    """There is no such run, or it was forgotten."""


class Standing(NamedTuple):
    """The status of a position, and the number after which the reader goes on."""

    status: Status
    seq: int


def standing(after: Position | None, epoch: str, first_seq: int, last_seq: int) -> Standing:
    """Return how a reader at ``after`` (None: before the first event) stands to a log.

    The log is that of ``epoch``; the events ``first_seq`` to ``last_seq`` are kept, none if that is less.
    """
    seq = 0 if after is None else after.seq
    same = after is None or after.epoch == epoch
    if not same or not first_seq - 1 <= seq <= last_seq:
        return Standing(Status.GAP, last_seq)
    return Standing(Status.UP_TO_DATE if seq == last_seq else Status.REPLAY, seq)
