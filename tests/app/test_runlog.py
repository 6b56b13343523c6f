"""Run events on their way to the store."""

from __future__ import annotations

from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred, fail

from gateway.app import runlog
from gateway.app.runlog import RunLog
from gateway.core.run import Run
from gateway.errors import StoreError
from gateway.model import RunRequest, RunState, Session
from gateway.testing import FakeClock, memory_store, result_of
from tests.app.faults import FaultyStore, Lines


class Rig:
    """A log, its store and its clock."""

    def __init__(self, **limits: int) -> None:
        self.clock = FakeClock()
        self.store = cast(Any, FaultyStore(memory_store(self.clock)))
        self.log = RunLog(self.store, self.clock, **limits)

    def run(self, run_id: str = "r1") -> Run:
        """Return a run that is stored and was started."""
        request = RunRequest(
            run_id=run_id, session_key=run_id, session_id="", agent_id="main", text=""
        )
        run = Run(request, epoch="e", origin="chat", actor="a", fingerprint="f", accepted_at_ms=0)
        session = Session(
            key=run_id, session_id=run_id, agent_id="main", created_at_ms=0, updated_at_ms=0
        )
        result_of(self.store.accept_turn(run.record(), lambda _: session, None))
        self.store.calls.clear()
        run.start(0)
        return run

    def put(self, run: Run, text: str = "x") -> None:
        """Let a run say something."""
        (output,) = run.emit("tool", {"text": text}, 0)
        self.log(output)

    def stored(self, run_id: str = "r1") -> list[int]:
        """Return the numbers of the events that the store has of a run."""
        events = result_of(self.store.list_events(run_id, after_seq=0, limit=100))
        return [event.seq for event in events]


def test_one_batch_per_turn() -> None:
    """The events of one reactor turn go to the store together, in the turn after."""
    rig = Rig()
    one, two = rig.run("r1"), rig.run("r2")
    for run in (one, two, one):
        rig.put(run)

    before = list(rig.store.calls)
    rig.clock.advance(0)
    after = list(rig.store.calls)

    assert (before, after) == ([], ["append_events"])
    assert (rig.stored("r1"), rig.stored("r2")) == ([2, 3], [2])
    assert len(rig.log) == 0


def test_the_next_batch_waits_for_the_last() -> None:
    """While the store writes a batch the next one is collected, and follows when that is written."""
    rig = Rig()
    run = rig.run()
    rig.store.hanging.add("append_events")
    rig.put(run)
    rig.clock.advance(0)
    rig.put(run)
    rig.put(run)
    rig.clock.advance(0)
    waiting = len(rig.log)

    rig.store.release()
    rig.clock.advance(0)

    assert waiting == 2
    assert rig.stored() == [2, 3, 4]


def test_taking_what_waits() -> None:
    """The events of a run that ends are given to whoever stores the end, and to nobody else."""
    rig = Rig()
    one, two = rig.run("r1"), rig.run("r2")
    rig.put(one)
    rig.put(two)

    taken = rig.log.take("r1")
    nothing = rig.log.take("r1")
    rig.log.take("r2")
    rig.clock.advance(0)

    assert [event.seq for event in taken] == [2]
    assert nothing == ()
    assert rig.store.calls == []
    assert len(rig.log) == 0


def test_what_a_run_says_at_its_end() -> None:
    """Outputs of a run that has ended are not taken: the end brings them along."""
    rig = Rig()
    run = rig.run()
    run.add_text("last words")
    for output in run.finish(RunState.DONE, 0):
        rig.log(output)

    assert len(rig.log) == 0


def test_a_store_that_fails() -> None:
    """Events that the store refuses wait, are offered again every second, and nothing of them is lost."""
    rig = Rig()
    run = rig.run()

    with Lines() as lines:
        rig.store.failing["append_events"] = StoreError("disk full")
        for _ in range(3):
            rig.put(run)
            rig.clock.advance(0)
        calls = rig.store.calls.count("append_events")
        rig.clock.advance(1)
        again = rig.store.calls.count("append_events")
        rig.store.failing.clear()
        rig.put(run)
        rig.clock.advance(1)

    assert (calls, again) == (1, 2)
    assert rig.log.lost == 0
    assert lines.texts == [
        "1 run events wait until the store takes them: disk full",
        "run events are stored again; lost=0",
    ]
    assert rig.stored() == [2, 3, 4, 5]
    assert rig.clock.getDelayedCalls() == []


def test_what_comes_while_a_batch_is_refused() -> None:
    """It waits behind the batch, so that the order stays."""
    rig = Rig()
    run = rig.run()
    refusing: Deferred[None] = Deferred()
    rig.store.append_events = lambda events: refusing
    rig.put(run)
    rig.clock.advance(0)
    rig.put(run)
    refusing.errback(StoreError("locked"))
    waiting = len(rig.log)
    del rig.store.append_events
    rig.clock.advance(1)

    assert waiting == 2
    assert rig.stored() == [2, 3]


def test_too_much_waits_while_the_store_fails() -> None:
    """Only what is beyond the bounds is lost, and is counted."""
    rig = Rig(max_waiting=3)
    run = rig.run()
    rig.store.failing["append_events"] = StoreError("disk full")
    for _ in range(5):
        rig.put(run)
        rig.clock.advance(1)
    rig.store.failing.clear()
    rig.clock.advance(1)

    assert rig.log.lost == 2
    assert rig.stored() == [2, 3, 4]


class Refusing:
    """A store that works, and refuses the events of one run."""

    failing = None

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.refused = "bad"

    def append_events(self, events: Any) -> Any:
        if any(event.run_id == self.refused for event in events):
            return fail(StoreError("its place is taken"))
        return self.inner.append_events(events)


def test_events_that_a_working_store_refuses() -> None:
    """They are given up after three tries, and do not keep out those of other runs meanwhile."""
    rig = Rig()
    bad, good = rig.run("bad"), rig.run("good")
    rig.log._store = cast(Any, Refusing(rig.store))
    with Lines() as lines:
        rig.put(bad)
        rig.put(good)
        rig.clock.advance(0)
        together = rig.stored("good")
        rig.clock.advance(1)
        alone = rig.stored("good")
        rig.clock.pump([1, 1, 1])
        lost, rest = rig.log.lost, rig.clock.getDelayedCalls()
        rig.put(good)
        rig.clock.advance(0)

    assert (together, alone) == ([], [2])
    assert (lost, rest) == (1, [])
    assert rig.stored("good") == [2, 3]
    assert lines.texts[-1] == "run events are stored again; lost=1"


def test_an_event_whose_place_is_taken() -> None:
    """A batch that was stored, though the store said otherwise, is let go of when it meets itself."""
    rig = Rig()
    run = rig.run()
    store = memory_store(rig.clock)
    rig.log._store = store
    (output,) = run.emit("tool", {}, 0)
    result_of(store.append_events([output.record()]))

    rig.log(output)
    rig.clock.pump([0, 1, 1, 1])

    assert len(rig.log) == 0
    assert rig.clock.getDelayedCalls() == []
    result_of(store.stopService())


def test_the_last_offer() -> None:
    """When it stops, what waits is offered at once: also what came while a batch was being written."""
    rig = Rig()
    run = rig.run()
    rig.store.failing["append_events"] = StoreError("locked")
    rig.put(run)
    rig.clock.advance(0)
    rig.store.failing.clear()
    rig.store.hanging.add("append_events")

    stopping = Deferred.fromCoroutine(rig.log.stop())
    rig.put(run)
    before = stopping.called
    rig.store.release()

    assert not before
    result_of(stopping)
    assert rig.stored() == [2, 3]
    assert rig.clock.getDelayedCalls() == []


def test_nothing_to_offer() -> None:
    """A log that holds nothing stops at once."""
    rig = Rig()

    result_of(Deferred.fromCoroutine(rig.log.stop()))

    assert rig.store.calls == []


def test_the_last_offer_is_refused() -> None:
    """What the store does not take when it stops is lost, and counted."""
    rig = Rig()
    rig.store.failing["append_events"] = StoreError("disk full")
    rig.put(rig.run())

    result_of(Deferred.fromCoroutine(rig.log.stop()))

    assert (rig.log.lost, len(rig.log)) == (1, 0)
    assert rig.clock.getDelayedCalls() == []


def test_reading_what_is_not_stored() -> None:
    """An event can be read here from when it was made until the store has it."""
    rig = Rig()
    run = rig.run()
    seen = []

    def look() -> None:
        seen.append([event.seq for event in rig.log.after("r1", 1, 100)])

    rig.put(run)
    look()
    rig.store.hanging.add("append_events")
    rig.clock.advance(0)
    rig.put(run)
    look()
    next_one = [event.seq for event in rig.log.after("r1", 2, 100)]
    rig.log.end(run, run.finish(RunState.DONE, 0))
    ending = [event.seq for event in rig.log.after("r1", 2, 1)]
    rig.store.release()
    look()
    rig.log.settled("r1")

    assert seen == [[2], [2], []]
    assert next_one == [3]
    assert ending == [3]
    assert rig.log.after("r1", 2, 100) == ()


def test_ends_on_their_way_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the ends that a store does not answer for, only the newest can be read here."""
    monkeypatch.setattr(runlog, "MAX_ENDINGS", 2)
    rig = Rig()
    for name in "abc":
        run = rig.run(name)
        rig.log.end(run, run.finish(RunState.DONE, 0))

    assert [rig.log.ending(name) is None for name in "abc"] == [True, False, False]


def test_a_store_with_a_bug(
    expected_failures: list[type[BaseException]], logged_failures: list[Any]
) -> None:
    """What is no failure of the store is logged whole, and the log goes on."""
    expected_failures.append(ZeroDivisionError)
    rig = Rig()
    run = rig.run()
    rig.store.failing["append_events"] = ZeroDivisionError()
    rig.put(run)
    rig.clock.advance(0)
    rig.store.failing.clear()
    rig.put(run)
    rig.clock.advance(0)

    assert len(logged_failures) == 1
    assert rig.stored() == [3]


@pytest.mark.parametrize("limits", [{"max_waiting": 3}, {"max_bytes": 120}])
def test_what_waits_is_bounded(limits: dict[str, int]) -> None:
    """For a store that does not answer only so many events wait, by number and by size."""
    rig = Rig(**limits)
    run = rig.run()
    rig.store.hanging.add("append_events")
    rig.put(run)
    rig.clock.advance(0)

    for _ in range(10):
        rig.put(run, "y" * 40)
    waiting = len(rig.log)
    rig.log.take("r1")
    rig.put(run)

    assert waiting == 3
    assert rig.log.lost == 10 - waiting
    assert len(rig.log) == 1
