"""Several processes of one agent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from gateway.agents.pool import Pool
from gateway.errors import BackendError
from gateway.testing import FakeClock, FakeEntropy


class Worker:
    """A worker whose fate the test decides; ``work`` has what it was given to do."""

    def __init__(
        self, number: int, on_ready: Callable[[], None], on_end: Callable[[BackendError], None]
    ) -> None:
        self.number = number
        self.ready = on_ready
        self._on_end = on_end
        self.failed = False
        self.pid: int | None = 100 + number
        self.stopping = False
        self.sessions: set[tuple[str, str]] = set()
        self.work: dict[str, Deferred[Any]] = {}

    def start(self) -> None: ...

    def stop(self) -> None:
        self.stopping = True

    def holds(self, key: str, session_id: str) -> bool:
        return (key, session_id) in self.sessions

    def describe(self) -> dict[str, Any]:
        return {"pid": 100 + self.number}

    def die(self, why: str = "it died") -> None:
        work, self.work = self.work, {}
        for going in work.values():
            going.errback(BackendError(why))
        self._on_end(BackendError(why))


class Setup:
    """A pool of three; ``ends`` has how the runs ended, by run id."""

    def __init__(self, size: int = 3, idle_s: float = 60) -> None:
        self.clock = FakeClock()
        self.workers: list[Worker] = []
        self.ends: dict[str, Any] = {}
        self.going: dict[str, Deferred[Any]] = {}
        self.pool: Pool[Worker] = Pool(
            "main", self.make, self.clock, FakeEntropy(), size=size, idle_s=idle_s
        )

    def make(self, on_ready: Callable[[], None], on_end: Callable[[BackendError], None]) -> Worker:
        self.workers.append(Worker(len(self.workers), on_ready, on_end))
        return self.workers[-1]

    def run(self, run_id: str, key: str = "", session_id: str = "s") -> None:
        """Start a run, in a session of its own unless one is named."""

        def work(worker: Worker) -> Deferred[Any]:
            worker.sessions.add((key or run_id, session_id))
            worker.work[run_id] = Deferred()
            return worker.work[run_id]

        self.going[run_id] = Deferred.fromCoroutine(
            self.pool.run(run_id, key or run_id, session_id, work)
        )
        self.going[run_id].addBoth(lambda end: self.ends.update({run_id: end}))

    def finish(self, run_id: str) -> None:
        next(w for w in self.workers if run_id in w.work).work.pop(run_id).callback("done")

    def where(self) -> list[list[str]]:
        """Return the runs of each worker."""
        return [sorted(worker.work) for worker in self.workers]


@pytest.fixture
def setup() -> Setup:
    setup = Setup()
    setup.pool.start()
    setup.workers[0].ready()
    return setup


def test_one_process_runs_until_more_are_wanted(setup: Setup) -> None:
    """A second one is started when the first has a run, a third when both have; then the bound is met."""
    for number in range(5):
        setup.run(f"r{number}")
        if number < 2:
            assert len(setup.workers) == number + 1
    for worker in setup.workers[1:]:
        worker.ready()

    assert setup.where() == [["r0", "r3"], ["r1", "r4"], ["r2"]]


def test_a_run_goes_to_the_least_busy(setup: Setup) -> None:
    """With all processes running, the one with the fewest runs gets the next."""
    for number in range(4):
        setup.run(f"r{number}")
    for worker in setup.workers[1:]:
        worker.ready()
    setup.finish("r2")

    setup.run("next")

    assert setup.where() == [["r0", "r3"], ["r1"], ["next"]]
    assert setup.ends == {"r2": "done"}


def test_a_session_stays_where_its_conversation_is(setup: Setup) -> None:
    """Its next run goes to the same process however busy that is; another conversation under its key not."""
    setup.run("a1", "a")
    setup.run("b1", "b")
    setup.workers[1].ready()
    setup.finish("b1")

    setup.run("a2", "a")
    setup.run("b2", "b")
    setup.run("b3", "b")
    setup.run("c1", "c")
    setup.workers[2].ready()
    assert setup.where() == [["a1", "a2"], ["b2", "b3"], ["c1"]]

    for run_id in ("a1", "a2"):
        setup.finish(run_id)
    setup.run("b4", "x", "another")
    assert setup.where()[0] == ["b4"]


def test_runs_of_a_session_wait_at_the_same_place(setup: Setup) -> None:
    """A run that comes while another of its session waits for a start waits behind it."""
    setup.run("r1")
    setup.run("a1", "a")
    setup.run("a2", "a")

    setup.workers[1].ready()

    assert setup.where() == [["r1"], ["a1", "a2"]]


def test_a_death_concerns_the_runs_of_that_process(setup: Setup) -> None:
    """The runs of the others go on, and the next run goes to one that works."""
    for number in range(3):
        setup.run(f"r{number}")
    for worker in setup.workers[1:]:
        worker.ready()

    setup.workers[1].die("out of memory")
    assert isinstance(setup.ends["r1"], Failure)
    assert list(setup.ends) == ["r1"]
    assert setup.pool.ready

    setup.run("next", "r1")
    assert setup.where() == [["next", "r0"], [], ["r2"]]
    setup.clock.advance(0.5)
    setup.workers[3].ready()
    setup.run("last")
    assert setup.where()[3] == ["last"]


def test_no_more_are_started_while_one_fails(setup: Setup) -> None:
    """An agent that does not start is not started three times over."""
    setup.workers[0].die()
    setup.run("r1")
    setup.run("r2")

    assert len(setup.workers) == 1
    setup.clock.advance(0.5)
    setup.workers[1].ready()
    assert setup.where()[1] == ["r1", "r2"]


def test_a_run_whose_process_does_not_start_goes_to_another(setup: Setup) -> None:
    """A failed start is no failed run while there is a process that works."""
    setup.run("r1")
    setup.run("r2")
    setup.workers[1].die("can not start")

    assert setup.where()[0] == ["r1", "r2"]
    assert setup.ends == {}


def test_without_a_process_that_works_a_run_fails() -> None:
    """A run that waited for the first start fails with it; one before the start or after the end at once."""
    setup = Setup()
    setup.run("early")
    setup.pool.start()
    setup.run("r1")
    assert not setup.pool.ready
    setup.workers[0].die("can not start")
    setup.pool.stop()
    setup.run("late")

    texts = [setup.ends[name].value.message for name in ("early", "r1", "late")]
    assert texts == ["agent main is not running", "can not start", "agent main is not running"]


def test_idle_processes_are_stopped(setup: Setup) -> None:
    """A process beyond the first that had no run for a minute is stopped, and started anew at need."""
    for number in range(3):
        setup.run(f"r{number}")
    for worker in setup.workers[1:]:
        worker.ready()
    setup.finish("r0")
    setup.finish("r1")
    setup.clock.advance(30)
    setup.finish("r2")
    setup.clock.advance(30)
    assert [worker.stopping for worker in setup.workers] == [False, True, False]
    setup.clock.advance(30)
    assert [worker.stopping for worker in setup.workers] == [False, True, True]

    setup.run("r4")
    setup.run("while both end")
    assert setup.where()[0] == ["r4", "while both end"]
    for worker in setup.workers[1:]:
        worker.die("stopping")
    setup.run("r5")
    setup.workers[3].ready()
    assert setup.where()[3] == ["r5"]
    assert len(setup.pool.describe_all()) == 2


def test_a_run_in_time_keeps_its_process(setup: Setup) -> None:
    """Idleness counts from the end of the last run."""
    setup.run("r1")
    setup.run("a1", "a")
    setup.workers[1].ready()
    setup.finish("a1")
    setup.clock.advance(59)
    setup.run("a2", "a")
    setup.clock.advance(59)
    setup.finish("a2")
    setup.clock.advance(59)
    assert not setup.workers[1].stopping

    setup.clock.advance(1)
    assert setup.workers[1].stopping


def test_idle_processes_may_be_kept() -> None:
    """With an idle time of 0 no process is stopped before the pool is."""
    setup = Setup(idle_s=0)
    setup.pool.start()
    setup.run("r1")
    setup.run("r2")
    for worker in setup.workers:
        worker.ready()
    setup.finish("r1")
    setup.finish("r2")

    assert setup.clock.getDelayedCalls() == []
    assert len(setup.pool.describe_all()) == 2


def test_an_aborted_run_leaves_its_place(setup: Setup) -> None:
    """A run that is cancelled while it waits for a start, or works, is not counted any more."""
    setup.run("r1")
    setup.run("r2")
    setup.going["r2"].cancel()
    setup.going["r1"].cancel()

    assert all(end.check(CancelledError) for end in setup.ends.values())
    assert [facts["runs"] for facts in setup.pool.describe_all()] == [0, 0]


def test_stop_ends_all(setup: Setup) -> None:
    """Stop fires when the last process is gone; nothing is pending then."""
    setup.run("r1")
    setup.run("r2")
    setup.workers[1].ready()
    setup.finish("r2")

    gone = setup.pool.stop()
    setup.workers[0].die("stopping")
    assert not gone.called
    setup.workers[1].die("stopping")

    assert gone.called
    assert setup.clock.getDelayedCalls() == []
    assert not setup.pool.ready


def test_it_tells_of_each_process(setup: Setup) -> None:
    """The process of a run is told with its number, its state and its pid; of an unknown run nothing."""
    setup.run("r1")
    setup.run("r2")

    second = {
        "process": 2,
        "state": "starting",
        "restarts": 0,
        "startedAtMs": setup.clock.EPOCH_MS,
        "runs": 1,
        "pid": 101,
    }
    assert setup.pool.describe("r2") == second
    assert setup.pool.describe_all()[1] == second
    assert setup.pool.describe("r1")["state"] == "ready"
    assert setup.pool.describe("unknown") == {}
    assert setup.pool.worker_of("r1") is setup.workers[0]
    assert setup.pool.worker_of("r2") is setup.pool.worker_of("unknown") is None
