"""Answers that are held back."""

from __future__ import annotations

from gateway.net.delays import Delays
from gateway.testing import FakeClock


def test_each_waits_for_its_own_time() -> None:
    """Members are called when their delay is over, in that order, and one timer serves each delay."""
    clock = FakeClock()
    over: list[str] = []
    delays = Delays(clock, over.append)
    for name, seconds in (("slow", 5.0), ("fast", 0.25), ("also fast", 0.25)):
        delays.add(name, seconds)
    assert len(delays) == 3
    assert len(clock.getDelayedCalls()) == 2
    clock.advance(0.25)
    assert over == ["fast", "also fast"]
    delays.discard("slow")
    delays.discard("nobody")
    assert len(delays) == 0
    clock.advance(10)
    assert over == ["fast", "also fast"]
    assert clock.getDelayedCalls() == []
