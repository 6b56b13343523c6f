"""Where a reader of a log stands."""

from __future__ import annotations

import pytest

from gateway.core.resume import Status, standing
from gateway.model import Position


def at(seq: int, epoch: str = "e") -> Position:
    return Position(epoch=epoch, seq=seq)


@pytest.mark.parametrize(
    ("after", "first", "last", "status", "seq"),
    [
        (None, 1, 0, Status.UP_TO_DATE, 0),
        (None, 1, 5, Status.REPLAY, 0),
        (None, 4, 5, Status.GAP, 5),
        (at(0), 1, 5, Status.REPLAY, 0),
        (at(4), 1, 5, Status.REPLAY, 4),
        (at(5), 1, 5, Status.UP_TO_DATE, 5),
        (at(6), 1, 5, Status.GAP, 5),
        (at(3), 4, 5, Status.REPLAY, 3),
        (at(2), 4, 5, Status.GAP, 5),
        (at(5), 6, 5, Status.UP_TO_DATE, 5),
        (at(4), 6, 5, Status.GAP, 5),
        (at(3, "f"), 1, 5, Status.GAP, 5),
        (at(5, "f"), 1, 5, Status.GAP, 5),
        (at(0, "f"), 1, 0, Status.GAP, 0),
    ],
)
def test_standing(after: Position | None, first: int, last: int, status: Status, seq: int) -> None:
    """A position is at the end, before what is kept, or there is a gap: evicted, beyond, another epoch."""
    assert standing(after, "e", first, last) == (status, seq)
