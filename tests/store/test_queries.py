"""How gateway.store finds its rows: by an index, never by a walk over a table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from sqlalchemy import Connection, Engine, event, update

from gateway.errors import VersionConflict
from gateway.model import (
    DaySpan,
    DeviceToken,
    ModelUsage,
    Pairing,
    Retention,
    RunQuery,
    RunRecord,
    RunState,
    Session,
    SessionQuery,
    UsageQuery,
)
from gateway.store import (
    logs,
    pairings,
    retention,
    runs,
    schema,
    sessions,
    sqlite,
    tables,
    transcripts,
    usage,
)
from gateway.store.store import SQLStore
from gateway.testing import result_of

from .harness import (
    KEY,
    NOW,
    a_device,
    a_message,
    a_run,
    a_session,
    a_token,
    an_end,
    an_event,
    as_it_is,
    putting,
)

DAY_MS = 86_400_000
A_MONTH = UsageQuery(
    since_ms=NOW - 30 * DAY_MS,
    until_ms=NOW,
    by=("day", "agent", "provider", "model"),
    days=(DaySpan(NOW - 30 * DAY_MS, 0, DAY_MS),),
)
USED = ModelUsage(provider="p", model="m")

Plan = Callable[[Callable[[Connection], object]], str]


def a_pairing(name: str, tokens: tuple[DeviceToken, ...] = (), **fields: Any) -> Pairing:
    """Return a paired device."""
    return Pairing(device_id=name, device=a_device(name, **fields), tokens=tokens)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    """Return an engine on a new database."""
    path = str(tmp_path / "gateway.db")
    engine = sqlite.make_engine(sqlite.parse_url(sqlite.url_of(path)))
    schema.prepare_file(engine, path)
    return engine


@pytest.fixture
def plan(engine: Engine) -> Plan:
    """Return what runs an operation and tells how SQLite carries out its statements."""
    ran: list[tuple[str, Any]] = []

    def collect(
        connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
    ) -> None:
        ran.append((statement, parameters[0] if many else parameters))

    def plan(operation: Callable[[Connection], object]) -> str:
        with engine.begin() as connection:
            event.listen(engine, "before_cursor_execute", collect)
            operation(connection)
            event.remove(engine, "before_cursor_execute", collect)
            rows = [
                str(row.detail)
                for statement, parameters in ran
                for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            ]
            connection.rollback()
        return "; ".join(rows)

    return plan


@pytest.mark.parametrize(
    ("filters", "index"),
    [
        ({}, "SCAN sessions USING INDEX ix_sessions_updated"),
        ({"offset": 100}, "SCAN sessions USING INDEX ix_sessions_updated"),
        (
            {"include_global": False, "include_unknown": False},
            "SCAN sessions USING INDEX ix_sessions_updated",
        ),
        (
            {"updated_since_ms": NOW},
            "SEARCH sessions USING INDEX ix_sessions_updated (updated_at_ms>?)",
        ),
        ({"agent_id": "ops"}, "SEARCH sessions USING INDEX ix_sessions_agent (agent_id=?)"),
        ({"parent_key": KEY}, "SEARCH sessions USING INDEX ix_sessions_parent (parent_key=?)"),
    ],
)
def test_a_page_of_sessions_is_read_in_the_order_of_an_index(
    plan: Plan, filters: dict[str, Any], index: str
) -> None:
    """A page is the first rows of an index, so that 100,000 sessions are neither read nor sorted."""
    query = SessionQuery(limit=100, **filters)

    page_plan = plan(lambda connection: sessions.find(connection, query)).split("; ")[0]

    assert page_plan == index


def test_a_page_that_ends_the_list_is_one_statement(plan: Plan) -> None:
    """The sessions are counted only if the page does not show how many there are."""
    query = SessionQuery(limit=1)

    assert "COVERING INDEX" not in plan(lambda connection: sessions.find(connection, query))


@pytest.mark.parametrize(
    "operation",
    [
        lambda connection: sessions.by_key(connection, KEY),
        lambda connection: sessions.by_id(connection, "s"),
        lambda connection: sessions.find(connection, SessionQuery(limit=9, label="x")),
        lambda connection: sessions.update_by(connection, KEY, putting(a_session())),
        lambda connection: sessions.remove(connection, KEY, delete_transcript=True),
        lambda connection: transcripts.append(connection, "s", [a_message()]),
        lambda connection: transcripts.newest(connection, "s", 20, None, 0),
        lambda connection: transcripts.newest(connection, "s", 20, 7, 5),
        lambda connection: transcripts.count(connection, "s"),
        lambda connection: transcripts.delete_all(connection, "s"),
        lambda connection: transcripts.newest_summary(connection, "s"),
        lambda connection: usage.add_up(connection, A_MONTH),
        lambda connection: usage.add_up(connection, structs.replace(A_MONTH, session_keys=(KEY,))),
        lambda connection: usage.latency(connection, A_MONTH),
        lambda connection: usage.prune(connection, NOW, 100),
        lambda connection: runs.accept(connection, a_run(), putting(a_session()), a_message()),
        lambda connection: runs.finish(connection, an_end(events=(an_event(1),), usage=(USED,))),
        lambda connection: runs.by_id(connection, "run-1"),
        lambda connection: runs.open_runs(connection),
        lambda connection: runs.newest(connection, RunQuery(limit=9, session_key=KEY)),
        lambda connection: runs.newest(
            connection, RunQuery(limit=9, session_key=KEY, states=(RunState.DONE,))
        ),
        lambda connection: runs.newest(
            connection, RunQuery(limit=9, states=(RunState.DONE, RunState.FAILED))
        ),
        lambda connection: logs.read(connection, "run-1", 0, 100, None),
        lambda connection: logs.read(connection, "run-1", 0, 100, "epoch-1"),
        lambda connection: logs.span(connection, "run-1"),
        lambda connection: runs.prune(connection, NOW, 100),
        lambda connection: retention.plan(connection, Retention(ended_before_ms=NOW)),
        lambda connection: retention.carry_out(connection, retention.Plan(("run-1",))),
        lambda connection: retention.carry_out(connection, retention.Plan(("run-1",), 100)),
        lambda connection: pairings.of_device(connection, "device-1"),
        lambda connection: pairings.of_request(connection, "request"),
    ],
)
def test_no_operation_walks_over_a_table(
    plan: Plan, operation: Callable[[Connection], object]
) -> None:
    """Every other statement searches by an index."""
    found = plan(operation)

    assert "SCAN runs" not in found
    assert "SCAN run_events" not in found
    assert "SCAN messages" not in found
    assert "SCAN sessions" not in found
    assert "SCAN usage" not in found
    assert "SCAN device" not in found


@pytest.fixture
def one_ended_run(engine: Engine) -> None:
    """Store a run with one event, and its end."""
    with engine.begin() as connection:
        runs.finish(connection, an_end(events=(an_event(1),)))


@pytest.mark.usefixtures("one_ended_run")
def test_retention_reads_nothing_but_indexes(plan: Plan) -> None:
    """What is too much is found in indexes that hold all that is asked, without a row being read."""

    def too_many(connection: Connection) -> None:
        assert retention.plan(connection, Retention(runs_per_session=0)) is not None

    def too_large(connection: Connection) -> None:
        assert retention.plan(connection, Retention(log_bytes=0)) is not None

    assert plan(too_many).split("; ") == [
        "SCAN runs USING COVERING INDEX ix_runs_session",
        "SEARCH runs USING INDEX ix_runs_session (session_key=? AND position<?)",
        "SCALAR SUBQUERY 1",
        "SEARCH runs USING INDEX ix_runs_session (session_key=?)",
    ]
    assert plan(too_large).split("; ")[-2:] == [
        "SCAN runs USING COVERING INDEX ix_runs_log",
        "SCAN runs USING INDEX ix_runs_log",
    ]


@pytest.mark.usefixtures("one_ended_run")
def test_no_operation_on_an_ended_run_walks_over_a_table(plan: Plan) -> None:
    """The events of a run that are removed, and the run, are found by an index."""
    whole = plan(lambda connection: retention.carry_out(connection, retention.Plan(("run-1",))))
    part = plan(lambda connection: retention.carry_out(connection, retention.Plan(("run-1",), 1)))

    assert "SCAN" not in whole + part
    assert "SEARCH run_events USING INDEX sqlite_autoindex_run_events_1 (run_id=?" in whole
    assert "TEMP B-TREE" not in whole + part


def test_taking_over_a_run_walks_over_no_table(plan: Plan) -> None:
    """A run is found and changed by its id."""

    def operation(connection: Connection) -> None:
        runs.accept(connection, a_run(), putting(a_session()), None)
        runs.update_by(connection, "run-1", putting(a_run(epoch="epoch-2")))

    assert "SCAN" not in plan(operation)


def test_changing_a_pairing_walks_over_no_table(plan: Plan) -> None:
    """A device, its tokens and its request are found by an index, and changed by it."""

    def operation(connection: Connection) -> None:
        for digest in ("aa", "bb"):
            pairing = a_pairing("device-1", tokens=(a_token(digest),))
            pairings.update_by(connection, "device-1", putting(pairing))

    assert "SCAN" not in plan(operation)


def test_a_session_changed_by_another_writer_is_a_conflict(engine: Engine) -> None:
    """An update finds no row when the version is not the one that was read, and changes nothing."""

    def meanwhile(current: Session | None) -> Session:
        connection.execute(update(tables.sessions).values(version=7))
        return as_it_is(current)

    with engine.begin() as connection:
        sessions.update_by(connection, KEY, putting(a_session()))
        with pytest.raises(VersionConflict):
            sessions.update_by(connection, KEY, meanwhile)


def test_a_run_changed_by_another_writer_is_a_conflict(engine: Engine) -> None:
    """An update finds no row when the epoch is not the one that was read, and changes nothing."""

    def meanwhile(current: RunRecord | None) -> RunRecord | None:
        connection.execute(update(tables.runs).values(epoch="another"))
        return current

    with engine.begin() as connection:
        runs.accept(connection, a_run(), putting(a_session()), None)
        with pytest.raises(VersionConflict):
            runs.update_by(connection, "run-1", meanwhile)


def test_the_list_of_runs_is_bounded(store: SQLStore) -> None:
    """Not more than 1000 runs are listed, those accepted last, whatever the limit is."""
    for number in range(runs.LIST_LIMIT + 1):
        result_of(store.accept_turn(a_run(f"run-{number}"), putting(a_session()), None))

    for query in (RunQuery(limit=5000), RunQuery(limit=5000, states=(RunState.ACCEPTED,))):
        listed = result_of(store.runs_of(query))
        assert len(listed) == runs.LIST_LIMIT
        assert listed[-1].run_id == "run-1"


def test_the_list_of_devices_is_bounded(store: SQLStore) -> None:
    """Not more than 1000 devices are listed, the newest of them."""
    for number in range(pairings.LIST_LIMIT + 1):
        name = f"device-{number}"
        pairing = a_pairing(name, created_at_ms=NOW + number)
        result_of(store.update_pairing(name, putting(pairing)))

    listed = result_of(store.list_pairings())

    assert len(listed) == pairings.LIST_LIMIT
    assert listed[-1].device_id == "device-1"
