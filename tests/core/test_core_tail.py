"""The end of a live run's log, in memory."""

from __future__ import annotations

from gateway.core.tail import MAX_BYTES, MAX_EVENTS, Tail
from gateway.model import RunEvent


def event(seq: int, size: int = 2) -> RunEvent:
    return RunEvent(run_id="r", epoch="e", seq=seq, stream="s", data=b"x" * size, ts_ms=0)


def numbers(tail: Tail, seq: int, limit: int = 10_000) -> list[int]:
    return [each.seq for each in tail.after(seq, limit)]


def test_a_tail_gives_what_follows_a_number() -> None:
    """It gives what is behind a number as far as it reaches, in portions, and nothing beyond its ends."""
    tail = Tail()
    empty = numbers(tail, 0)
    for seq in range(1, 6):
        tail.push(event(seq), f"text {seq}" if seq < 5 else None)

    assert empty == []
    assert numbers(tail, 0) == [1, 2, 3, 4, 5]
    assert numbers(tail, 2, 2) == [3, 4]
    assert numbers(tail, 5) == numbers(tail, 9) == []
    assert (tail.last_seq, tail.text) == (5, "text 4")


def test_a_tail_is_bounded() -> None:
    """The oldest events go when there are too many or they are too large; the last one stays in any case."""
    many, large = Tail(), Tail()
    for seq in range(1, MAX_EVENTS + 11):
        many.push(event(seq), None)
    for seq in range(1, 5):
        large.push(event(seq, MAX_BYTES // 2), None)
    two = numbers(large, 2)
    large.push(event(5, 2 * MAX_BYTES), None)

    assert numbers(many, 9) == []
    assert numbers(many, 10) == list(range(11, MAX_EVENTS + 11))
    assert two == [3, 4]
    assert numbers(large, 4) == [5]
    assert numbers(large, 3) == []


def test_a_tail_has_no_hole() -> None:
    """An event that does not follow the one before begins the tail anew."""
    tail = Tail()
    for seq in (1, 2, 5, 6):
        tail.push(event(seq), None)

    assert numbers(tail, 1) == numbers(tail, 3) == []
    assert numbers(tail, 4) == [5, 6]
