"""gateway.net.deadlines: one timer for all who stay too long."""

from __future__ import annotations

from twisted.logger import LogEvent

from gateway.net.deadlines import Deadlines
from gateway.testing import FakeClock


def test_deadlines_are_isolated(
    logged_failures: list[LogEvent], expected_failures: list[type[BaseException]]
) -> None:
    """A member whose expiry raises is logged, and the others expire."""
    expected_failures.append(LookupError)
    clock = FakeClock()
    expired = []

    def expire(member: str) -> None:
        expired.append(member)
        if member == "a":
            raise LookupError(member)

    deadlines = Deadlines(clock, 1, expire)
    for member in "abc":
        deadlines.add(member)
    deadlines.discard("c")
    assert "b" in deadlines
    clock.advance(1)
    assert expired == ["a", "b"]
    assert len(deadlines) == 0
    assert len(logged_failures) == 1


def test_no_more_than_are_kept() -> None:
    """Of more members than there is room for the oldest expire at once, each of them once."""
    clock = FakeClock()
    expired: list[str] = []
    deadlines = Deadlines(clock, 1, expired.append, most=2)
    for member in "ab":
        deadlines.add(member)
    assert expired == []
    deadlines.add("c")
    assert expired == ["a"]
    clock.advance(1)
    assert expired == ["a", "b", "c"]


def test_many_that_are_over_take_turns() -> None:
    """Members whose time is over together expire in one turn of the loop after the other."""
    clock = FakeClock()
    expired: list[list[float]] = []
    deadlines = Deadlines(clock, 1, lambda _: expired.append(waits()))

    def waits() -> list[float]:
        return [call.getTime() - clock.seconds() for call in clock.getDelayedCalls()]

    for member in "abc":
        deadlines.add(member)
    clock.advance(1)
    assert expired == [[0.0], [0.0], []], "each but the last leaves the rest to the next turn"
