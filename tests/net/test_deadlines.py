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
