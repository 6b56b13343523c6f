"""Keeping a worker running."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError

from gateway.agents.supervisor import Backoff, Supervisor
from gateway.errors import BackendError
from gateway.testing import FakeClock, FakeEntropy, result_of
from tests.app.faults import Lines


class Half(FakeEntropy):
    """No jitter to speak of: pauses are the longest ones."""

    def fraction(self) -> float:
        return 0.0


class Worker:
    """A worker whose fate the test decides."""

    def __init__(
        self, on_ready: Callable[[], None], on_end: Callable[[BackendError], None]
    ) -> None:
        self.on_ready = on_ready
        self.on_end = on_end
        self.refuse: OSError | None = None
        self.failed = False
        self.pid: int | None = 4711
        self.calls: list[str] = []

    def start(self) -> None:
        self.calls.append("start")
        if self.refuse is not None:
            raise self.refuse

    def stop(self) -> None:
        self.calls.append("stop")


class Setup:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.refuse: OSError | None = None
        self.workers: list[Worker] = []
        self.supervisor = Supervisor("main", self.make, self.clock, Half())

    def make(self, on_ready: Callable[[], None], on_end: Callable[[BackendError], None]) -> Worker:
        self.workers.append(Worker(on_ready, on_end))
        self.workers[-1].refuse = self.refuse
        return self.workers[-1]


@pytest.fixture
def setup() -> Setup:
    setup = Setup()
    setup.supervisor.start()
    return setup


def test_a_worker_is_ready_when_it_says_so(setup: Setup) -> None:
    """Runs that came before wait for the worker, later ones get it at once."""
    early = setup.supervisor.when_ready()
    assert setup.supervisor.ready is None

    with Lines() as lines:
        setup.workers[0].on_ready()

    assert lines.texts == ["ready, pid=4711"]
    assert result_of(early) is setup.workers[0]
    assert result_of(setup.supervisor.when_ready()) is setup.workers[0]
    assert setup.workers[0].calls == ["start"]


def test_pauses_double_to_thirty_seconds(setup: Setup) -> None:
    """A worker that dies again and again is started after 0.5, 1, 2 … 30, 30 seconds."""
    pauses = []
    for _ in range(9):
        setup.workers[-1].on_end(BackendError("it died"))
        before = setup.clock.seconds()
        (call,) = setup.clock.getDelayedCalls()
        pauses.append(call.getTime() - before)
        setup.clock.advance(pauses[-1])

    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert setup.supervisor.restarts == 9


@pytest.mark.parametrize(("healthy_s", "pause"), [(59.9, 1.0), (60.0, 0.5)])
def test_health_of_a_minute_resets_the_pause(setup: Setup, healthy_s: float, pause: float) -> None:
    """Only a worker that was ready for 60 s starts the pauses over."""
    setup.workers[-1].on_end(BackendError("it died"))
    setup.clock.advance(0.5)
    setup.workers[-1].on_ready()
    setup.clock.advance(healthy_s)

    setup.workers[-1].on_end(BackendError("it died"))

    (call,) = setup.clock.getDelayedCalls()
    assert call.getTime() - setup.clock.seconds() == pytest.approx(pause)


@given(st.floats(0, 1, exclude_max=True), st.integers(0, 40))
def test_jitter_stays_within_a_half(fraction: float, failures: int) -> None:
    """A pause is between a half and the whole of its longest."""

    class Given(FakeEntropy):
        def fraction(self) -> float:
            return fraction

    backoff = Backoff(Given())
    pauses = [backoff.pause(0) for _ in range(failures + 1)]

    longest = min(30.0, 0.5 * 2.0**failures)
    assert longest / 2 <= pauses[-1] <= longest


def test_a_failed_start_fails_those_who_waited(setup: Setup) -> None:
    """Runs do not wait for a second attempt."""
    waiting = setup.supervisor.when_ready()

    setup.workers[0].on_end(BackendError("no such command"))

    with pytest.raises(BackendError, match="no such command"):
        result_of(waiting)


def test_a_run_waits_for_a_start_that_is_near(setup: Setup) -> None:
    """A run that comes in a short pause is served by the next worker."""
    setup.workers[0].on_end(BackendError("it died"))

    waiting = setup.supervisor.when_ready()
    setup.clock.advance(0.5)
    setup.workers[1].on_ready()

    assert result_of(waiting) is setup.workers[1]


def test_a_run_does_not_wait_for_a_start_that_is_far(setup: Setup) -> None:
    """In a long pause a run fails at once, and is told why and for how long."""
    for _ in range(5):
        setup.clock.advance(8)
        setup.workers[-1].on_end(BackendError("it died"))

    with pytest.raises(BackendError, match="next start in 8 s: it died"):
        result_of(setup.supervisor.when_ready())


def test_a_run_does_not_go_to_a_worker_that_fails(setup: Setup) -> None:
    """A run that comes between a worker's failure and its end waits for the next worker."""
    setup.workers[0].on_ready()
    setup.workers[0].failed = True

    waiting = setup.supervisor.when_ready()
    setup.workers[0].on_end(BackendError("it died"))
    setup.clock.advance(0.5)
    setup.workers[1].on_ready()

    assert result_of(waiting) is setup.workers[1]


def test_a_run_may_stop_waiting(setup: Setup) -> None:
    """An aborted run that waited for the worker is forgotten."""
    waiting = setup.supervisor.when_ready()
    waiting.cancel()

    setup.workers[0].on_ready()

    with pytest.raises(CancelledError):
        result_of(waiting)


def test_stop_waits_until_the_worker_is_gone(setup: Setup) -> None:
    """Stop ends the worker, fails who waits, and fires with the end; nothing starts again."""
    waiting = setup.supervisor.when_ready()

    gone = setup.supervisor.stop()
    assert setup.workers[0].calls == ["start", "stop"]
    assert not gone.called
    assert setup.supervisor.ready is None

    setup.workers[0].on_end(BackendError("stopping"))
    assert gone.called
    assert setup.clock.getDelayedCalls() == []
    for run in (waiting, setup.supervisor.when_ready()):
        with pytest.raises(BackendError):
            result_of(run)


def test_stop_in_a_pause_cancels_the_next_start(setup: Setup) -> None:
    """A supervisor without a worker stops at once."""
    setup.workers[0].on_end(BackendError("it died"))

    assert setup.supervisor.stop().called
    assert setup.clock.getDelayedCalls() == []


def test_it_can_be_started_again(setup: Setup) -> None:
    """After a stop, start begins with a worker of its own."""
    gone = setup.supervisor.stop()
    setup.workers[0].on_end(BackendError("stopping"))
    assert gone.called

    setup.supervisor.start()
    setup.workers[1].on_ready()

    assert setup.supervisor.ready is setup.workers[1]


def test_a_worker_that_can_not_be_started_is_tried_again(setup: Setup) -> None:
    """No process to be had (too many, no memory) is a death like any other."""
    setup.workers[0].on_end(BackendError("it died"))
    setup.refuse = OSError(11, "Resource temporarily unavailable")
    setup.clock.advance(0.5)

    assert setup.supervisor.last_error is not None
    assert "Resource temporarily unavailable" in setup.supervisor.last_error
    assert len(setup.clock.getDelayedCalls()) == 1


def test_what_it_tells_of_its_worker(setup: Setup) -> None:
    """It says whether the worker is ready, how often it was started again, why and when the next start is."""
    supervisor, (worker,) = setup.supervisor, setup.workers
    since = {"restarts": 0, "startedAtMs": FakeClock.EPOCH_MS}
    assert supervisor.describe() == {"state": "starting", **since}
    setup.clock.advance(1)
    worker.on_ready()
    assert supervisor.describe() == {"state": "ready", **since}
    worker.failed = True
    assert supervisor.describe()["state"] == "failing"
    worker.on_end(BackendError("it died"))
    setup.clock.advance(0.2)

    waiting = {"state": "waiting", "restarts": 1, "lastError": "it died", "nextStartInMs": 300}
    assert supervisor.describe() == waiting
    supervisor.stop()
    assert supervisor.describe() == {"state": "stopped", "restarts": 1, "lastError": "it died"}


@pytest.mark.parametrize("good", [True, False])
def test_who_is_told_may_give_up_another(setup: Setup, good: bool) -> None:
    """A run that begins, or fails, may abort one that waits beside it: both have one end."""
    first, second, third = (setup.supervisor.when_ready() for _ in range(3))
    first.addBoth(lambda _: second.cancel())

    if good:
        setup.workers[0].on_ready()
    else:
        setup.workers[0].on_end(BackendError("no"))

    with pytest.raises(CancelledError):
        result_of(second)
    third.addErrback(lambda _: None)
    assert third.called
