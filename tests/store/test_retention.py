"""gateway.store.retention: plans, and the small steps in which they are carried out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine

from gateway.model import Retention
from gateway.store import logs, retention, runs, schema, sqlite
from gateway.store.retention import PLAN_RUNS, STEP_BYTES, STEP_EVENTS, STEP_RUNS, Plan, Step

from .harness import a_run, a_session, an_end, an_ended_run, an_event, putting

EVENT_BYTES = logs.size_of([an_event(1)])


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    """Return an engine on a new database."""
    path = str(tmp_path / "gateway.db")
    engine = sqlite.make_engine(sqlite.parse_url(sqlite.url_of(path)))
    schema.prepare_file(engine, path)
    return engine


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    """Return a connection in a transaction."""
    with engine.begin() as connection:
        yield connection


def end(connection: Connection, run_id: str, events: int = 1, data: bytes = b"{}") -> None:
    """Store a run that has ended, in a session of its own, with so many events."""
    record = an_ended_run(run_id, session_key=f"agent:main:{run_id}")
    log = tuple(an_event(seq, run_id, data=data) for seq in range(1, events + 1))
    runs.finish(connection, an_end(run=record, events=log))


def carry_out(connection: Connection, plan: Plan) -> list[Step]:
    """Carry a plan out to its end; return the steps that it took."""
    steps: list[Step] = []
    while plan.run_ids:
        steps.append(retention.carry_out(connection, plan))
        plan = steps[-1].left
    return steps


def known(connection: Connection, *run_ids: str) -> list[str]:
    """Return which of these runs are still known."""
    return [run_id for run_id in run_ids if runs.by_id(connection, run_id) is not None]


def test_few_runs_per_step(connection: Connection) -> None:
    """A step forgets no more runs than it may, in the order of the plan."""
    names = [f"run-{number}" for number in range(STEP_RUNS + 3)]
    for name in names:
        end(connection, name, events=0)

    first, second = carry_out(connection, Plan(tuple(names)))

    assert (first.runs, first.left) == (STEP_RUNS, Plan(tuple(names[STEP_RUNS:])))
    assert (second.runs, second.left) == (3, Plan(()))
    assert known(connection, *names) == []


def test_few_events_per_step(connection: Connection) -> None:
    """A step removes no more events than it may: of one run, or of several together."""
    end(connection, "a", events=STEP_EVENTS - 10)
    end(connection, "b", events=STEP_EVENTS + 20)
    end(connection, "c", events=10)

    steps = carry_out(connection, Plan(("a", "b", "c")))

    assert [(step.runs, step.events) for step in steps] == [
        (1, STEP_EVENTS),
        (0, STEP_EVENTS),
        (2, 20),
    ]
    assert steps[0].left == steps[1].left == Plan(("b", "c"))


def test_step_that_is_just_full(connection: Connection) -> None:
    """A run whose events fill a step is forgotten with it, and the next one waits for the next."""
    end(connection, "a", events=STEP_EVENTS)
    end(connection, "b", events=0)

    steps = carry_out(connection, Plan(("a", "b")))

    assert [(step.runs, step.events) for step in steps] == [(1, STEP_EVENTS), (1, 0)]


def test_few_bytes_per_step(connection: Connection) -> None:
    """A step ends with the event that fills it, however many could come after it."""
    end(connection, "a", events=5, data=b"x" * (STEP_BYTES // 2))

    steps = carry_out(connection, Plan(("a",)))

    assert [step.events for step in steps] == [2, 2, 1]
    assert [step.runs for step in steps] == [0, 0, 1]


def test_half_removed_run_says_so(connection: Connection) -> None:
    """Between two steps a run is there with the rest of its log, and says what is gone."""
    end(connection, "a", events=STEP_EVENTS + 1)

    retention.carry_out(connection, Plan(("a",)))

    record = runs.by_id(connection, "a")
    assert record is not None
    assert record.evicted_through == STEP_EVENTS
    assert logs.span(connection, "a") == ("epoch-1", STEP_EVENTS + 1, STEP_EVENTS + 1)


@pytest.mark.parametrize("excess", [None, 1000])
def test_what_changed_since_the_plan_was_made(connection: Connection, excess: int | None) -> None:
    """A run that is gone meanwhile is passed over, and one that is open is not touched."""
    runs.accept(connection, a_run("open"), putting(a_session()), None)
    logs.append(connection, [an_event(1, "open")])
    end(connection, "ended")

    steps = carry_out(connection, Plan(("gone", "open", "ended"), excess))

    assert sum(step.events for step in steps) == 1
    assert known(connection, "open") == ["open"]
    assert logs.span(connection, "open") == ("epoch-1", 1, 1)


def test_bytes_of_a_run_are_what_is_left_of_it(connection: Connection) -> None:
    """After a part of a log is gone the rest counts, and no more."""
    end(connection, "a", events=10, data=an_event(1).data)
    policy = Retention(log_bytes=4 * EVENT_BYTES)
    plan = retention.plan(connection, policy)
    assert plan == Plan(("a",), 6 * EVENT_BYTES)

    (step,) = carry_out(connection, plan)

    assert (step.events, step.left) == (6, Plan((), 0))
    assert retention.plan(connection, policy) is None
    assert retention.plan(connection, Retention(log_bytes=0)) == Plan(("a",), 4 * EVENT_BYTES)


def test_plan_is_no_longer_than_needed(connection: Connection) -> None:
    """The plan against too many bytes has the oldest runs, and only as many as it takes."""
    for name in ("c", "a", "b"):
        end(connection, name, events=2, data=an_event(1).data)

    plan = retention.plan(connection, Retention(log_bytes=3 * EVENT_BYTES))

    assert plan == Plan(("c", "a"), 3 * EVENT_BYTES)


@pytest.mark.parametrize(
    "policy",
    [Retention(log_bytes=0), Retention(runs_per_session=0), Retention(ended_before_ms=1 << 50)],
)
def test_plan_has_a_maximum(connection: Connection, policy: Retention) -> None:
    """However much there is to do, a plan has so many runs and no more."""
    for number in range(PLAN_RUNS + 2):
        end(connection, f"run-{number}")

    plan = retention.plan(connection, policy)

    assert plan is not None
    assert len(plan.run_ids) == PLAN_RUNS
    carry_out(connection, plan)
    rest = retention.plan(connection, policy)
    assert rest is not None
    assert len(rest.run_ids) == 2


def test_count_that_is_off_does_not_matter(connection: Connection) -> None:
    """Events that came after the end were not counted; a log is emptied all the same, once."""
    end(connection, "a")
    logs.append(connection, [an_event(seq, "a") for seq in (2, 3)])
    passes = 0

    while plan := retention.plan(connection, Retention(log_bytes=0)):
        carry_out(connection, plan)
        passes += 1

    assert passes == 3
    assert logs.span(connection, "a") == ("epoch-1", 4, 3)
