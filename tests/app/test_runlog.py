"""Run events on their way to the store."""

from __future__ import annotations

from typing import Any, cast

import pytest

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
    """Events that the store refuses are counted; one line tells of it until it works again."""
    rig = Rig()
    run = rig.run()

    with Lines() as lines:
        rig.store.failing["append_events"] = StoreError("disk full")
        for _ in range(3):
            rig.put(run)
            rig.clock.advance(0)
        rig.store.failing.clear()
        rig.put(run)
        rig.clock.advance(0)

    assert rig.log.lost == 3
    assert lines.texts == [
        "1 run events were not stored: disk full",
        "run events are stored again; lost=3",
    ]
    assert rig.stored() == [5]


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
