"""gateway.runtime: the clock and the randomness of a real process."""

from __future__ import annotations

import asyncio
import gc
import time
import uuid
from collections.abc import Iterator

import pytest
from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from gateway.interfaces import IClock, IEntropy
from gateway.runtime import SystemClock, SystemEntropy, keep_for_good, use_steady_time


@pytest.fixture
def reactor() -> Iterator[AsyncioSelectorReactor]:
    """An asyncio reactor of its own, which nobody runs."""
    loop = asyncio.new_event_loop()
    reactor = AsyncioSelectorReactor(loop)
    yield reactor
    for reader in list(reactor.getReaders()):
        reactor.removeReader(reader)
    reactor.disconnectAll()
    loop.close()


def test_clock_is_steady() -> None:
    """The clock's seconds are the steady ones, its milliseconds those of the wall clock."""
    clock = SystemClock(Clock())
    assert verifyObject(IClock, clock)
    before = time.monotonic()
    assert before <= clock.seconds() <= time.monotonic()
    assert abs(clock.now_ms() - time.time() * 1000) < 5000


def test_clock_schedules_on_the_reactor() -> None:
    """Calls are the reactor's own, with their arguments, and can be cancelled."""
    reactor = Clock()
    clock = SystemClock(reactor)
    called: list[object] = []
    clock.callLater(1, lambda *args, **kwargs: called.append((args, kwargs)), 1, a=2)
    late = clock.callLater(2, called.append, "late")
    assert list(clock.getDelayedCalls()) == reactor.getDelayedCalls()
    reactor.advance(1)
    late.cancel()
    reactor.advance(1)
    assert called == [((1,), {"a": 2})]


def test_timers_ignore_the_wall_clock(
    reactor: AsyncioSelectorReactor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With steady time a timer is due when it should be, although the wall clock was set back."""
    use_steady_time(reactor)
    called: list[str] = []
    reactor.callLater(0, called.append, "due")
    monkeypatch.setattr(time, "time", lambda: 0.0)
    reactor.runUntilCurrent()
    assert called == ["due"]
    assert reactor.seconds() == pytest.approx(time.monotonic(), abs=5)


def test_steady_time_comes_first(reactor: AsyncioSelectorReactor) -> None:
    """Steady time is refused once calls are scheduled by the wall clock."""
    call = reactor.callLater(10, list)
    with pytest.raises(RuntimeError, match="scheduled calls"):
        use_steady_time(reactor)
    call.cancel()


def test_what_is_kept_for_good_is_not_looked_through() -> None:
    """What is there is no work for later collections of garbage, which stay on for what comes."""
    try:
        keep_for_good()
        kept = gc.get_freeze_count()
        watched = gc.get_objects()
    finally:
        gc.unfreeze()

    assert kept > 1000
    assert len(watched) < kept / 10
    assert gc.isenabled()


def test_entropy() -> None:
    """Randomness has the asked size and shape, and does not repeat."""
    entropy = SystemEntropy()
    assert verifyObject(IEntropy, entropy)
    assert len(entropy.token_bytes(32)) == 32
    assert entropy.token_bytes(32) != entropy.token_bytes(32)
    assert uuid.UUID(entropy.uuid4()).version == 4
    assert all(0 <= entropy.fraction() < 1 for _ in range(100))
