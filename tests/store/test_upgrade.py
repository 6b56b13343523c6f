"""Databases of older gateways, as those left them: upgraded, and nothing of them is lost."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from gateway.model import EventSpan, Retention, RunQuery, RunState, SessionQuery
from gateway.store import migrate, schema, sqlite
from gateway.store.store import SQLStore
from gateway.store.tables import REVISIONS, metadata
from gateway.testing import result_of

from .harness import KEY, NOW, an_end, an_ended_run, an_event, inline_store

DATA = Path(__file__).parent.parent / "data"
OLD = REVISIONS[:-1]


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Return the path of a database that does not exist yet."""
    return str(tmp_path / "gateway.db")


def leave_behind(revision: str, path: str) -> None:
    """Make the database that a gateway of this revision left behind."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript((DATA / f"store_{revision}.sql").read_text())


def rows(path: str) -> dict[str, list[dict[str, Any]]]:
    """Return every row of every table by its columns, in the order of the table."""
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        return {
            name: [dict(row) for row in connection.execute(f"SELECT * FROM {name} ORDER BY rowid")]
            for (name,) in tables.fetchall()
        }


def schema_of(path: str) -> list[tuple[str, str, str | None]]:
    """Return the schema as SQLite keeps it."""
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY type, name")
        return list(found)


@pytest.mark.parametrize("revision", OLD)
def test_fixture_is_what_its_revision_made(tmp_path: Path, path: str, revision: str) -> None:
    """The database kept for a revision has that revision's schema, and something in every table."""
    made = str(tmp_path / "made.db")
    migrate.upgrade(sqlite.url_of(made), revision)

    leave_behind(revision, path)

    assert schema_of(path) == schema_of(made)
    assert sqlite.inspect_file(path) == sqlite.inspect_file(made)
    assert all(rows(path).values())


@pytest.mark.parametrize("revision", OLD)
def test_upgraded_equals_fresh_and_keeps_its_data(tmp_path: Path, path: str, revision: str) -> None:
    """After the upgrade the schema is that of a new database, and every old value is where it was."""
    leave_behind(revision, path)
    before = rows(path)
    fresh = str(tmp_path / "fresh.db")
    schema.prepare_file(sqlite.make_engine(sqlite.parse_url(sqlite.url_of(fresh))), fresh)

    result_of(inline_store(sqlite.url_of(path)).stopService())

    assert schema_of(path) == schema_of(fresh)
    after = rows(path)
    assert after.pop("alembic_version") == [{"version_num": REVISIONS[-1]}]
    for table, old in before.items():
        if table != "alembic_version":
            kept = [
                {name: row[name] for name in was}
                for row, was in zip(after[table], old, strict=True)
            ]
            assert kept == old
    assert rows(f"{path}.before-{REVISIONS[-1]}") == before


@pytest.fixture
def store(path: str) -> Iterator[SQLStore]:
    """Return an open store on a database of the first revision."""
    leave_behind("0001", path)
    store = inline_store(sqlite.url_of(path))
    yield store
    result_of(store.stopService())


def test_first_revision_goes_on(store: SQLStore) -> None:
    """What the first revision stored is read, and what it left open is ended."""
    page = result_of(store.find_sessions(SessionQuery(limit=9)))
    assert [session.key for session in page.sessions] == [KEY, "agent:main:küche"]
    assert [run.run_id for run in result_of(store.open_runs())] == ["running", "queued"]
    listed = result_of(store.runs_of(RunQuery(limit=9)))
    assert [run.run_id for run in listed] == ["queued", "running", "failed", "done"]
    assert {run.evicted_through for run in listed} == {0}
    assert result_of(store.event_span("running")) == EventSpan("epoch-1", 1, 2)

    record = an_ended_run(
        "running", session_key="agent:main:küche", session_id="id of agent:main:küche"
    )
    result_of(store.finish_turn(an_end(run=record, events=(an_event(3, "running"),))))

    ended = result_of(store.get_run("running"))
    assert ended is not None
    assert (ended.state, ended.ended_at_ms) == (RunState.DONE, NOW + 1000)
    assert result_of(store.event_span("running")) == EventSpan("epoch-1", 1, 3)


def test_logs_of_the_first_revision_count(store: SQLStore) -> None:
    """The bytes of the logs that were there are known: they are evicted like those of today."""
    passes = result_of(store.apply_retention(Retention(log_bytes=1)))

    assert (passes.runs, passes.events) == (0, 4)
    assert result_of(store.event_span("done")) == EventSpan("epoch-1", 4, 3)
    assert result_of(store.event_span("running")) == EventSpan("epoch-1", 1, 2)


def test_order_of_acceptance_is_kept(tmp_path: Path, path: str) -> None:
    """Runs keep their order of acceptance, and their places when later ones are accepted."""
    leave_behind("0001", path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE runs SET position = 1000 WHERE run_id = 'done'")
        connection.commit()

    migrate.upgrade(sqlite.url_of(path))

    assert [row["run_id"] for row in rows(path)["runs"]] == ["failed", "running", "queued", "done"]
    engine = sqlite.make_engine(sqlite.parse_url(sqlite.url_of(path)))
    with engine.begin() as connection:
        values = {**rows(path)["runs"][0], "run_id": "next", "position": None}
        values["request_json"] = values.pop("request")
        values["state"] = RunState(values["state"])
        connection.execute(insert(metadata.tables["runs"]), values)
    assert rows(path)["runs"][-1]["position"] == 1001
