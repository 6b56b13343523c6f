"""gateway.store.care: the write-ahead log is bounded, locks are not waited for twice."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Engine

from gateway.store import care, sqlite
from gateway.store.care import WriterCare
from gateway.store.trouble import Kind, Trouble
from gateway.store.writer import BatchReport, Job, Transactions
from gateway.testing import FakeClock

from .faults import Faults
from .jobs import add, numbers, outcome, running

LIMIT = 256 * 1024


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Return the path of the database that table_engine is on."""
    return str(tmp_path / "test.db")


@pytest.fixture
def faults() -> Faults:
    """Return what goes wrong with the connections; nothing, at first."""
    return Faults()


@pytest.fixture
def transactions(table_engine: Engine, path: str, faults: Faults) -> Iterator[Transactions]:
    """Return what runs jobs with a writer's care."""
    engine = sqlite.make_engine(table_engine.url, driver=faults.driver())
    transactions = Transactions(engine, WriterCare(path, log_limit=LIMIT), FakeClock())
    yield transactions
    transactions.close()


def fill(transactions: Transactions, size: int) -> BatchReport:
    """Write a job of about ``size`` bytes; return the report."""
    statements = (
        "CREATE TABLE IF NOT EXISTS big (data)",
        f"INSERT INTO big VALUES (zeroblob({size}))",
    )
    return transactions.run([running(*statements)])


def log_size(path: str) -> int:
    """Return the size of the write-ahead log."""
    return os.path.getsize(f"{path}-wal")


def patience(transactions: Transactions) -> int:
    """Return how long the connection waits for a lock, in milliseconds."""
    found: list[int] = []
    job = Job(
        lambda connection: found.append(
            connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one()
        )
    )
    transactions.run([job])
    return found[0]


def test_log_is_emptied_when_it_is_large(transactions: Transactions, path: str) -> None:
    """A log that has grown past its limit is written back after the transaction, and is empty."""
    below = fill(transactions, LIMIT // 2)
    assert 0 < log_size(path) < LIMIT

    beyond = fill(transactions, LIMIT)

    assert (below.warning, beyond.warning) == (None, None)
    assert log_size(path) == 0
    transactions.run([add(1)])
    assert 0 < log_size(path) < LIMIT


def test_reader_that_holds_the_log_back(transactions: Transactions, path: str) -> None:
    """While a reader needs the log it grows, told once per quarter of the limit, until it is gone."""
    fill(transactions, 1)
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM t").fetchall()
        warnings = [fill(transactions, LIMIT // 8).warning for _ in range(16)]
        assert log_size(path) > LIMIT

    recovered = fill(transactions, LIMIT // 4)

    told = [warning for warning in warnings if warning is not None]
    assert 2 <= len(told) <= 5
    assert told[0] == "the write-ahead log has grown to 0 MiB: a reader holds it back"
    assert recovered.warning is None
    assert log_size(path) == 0


def test_log_that_shrank_is_bounded_anew(transactions: Transactions, path: str) -> None:
    """After a reader had let the log grow, the limit is the old one again."""
    fill(transactions, 1)
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM t").fetchall()
        while fill(transactions, LIMIT // 4).warning is None:
            pass
        assert log_size(path) > LIMIT
    fill(transactions, LIMIT // 2)
    fill(transactions, 1)

    fill(transactions, LIMIT)

    assert log_size(path) == 0


def refuse_checkpoints(action: int, first: str | None, *rest: object) -> int:
    """Forbid a connection to write its log back, as an authorizer."""
    return sqlite3.SQLITE_DENY if first == "wal_checkpoint" else sqlite3.SQLITE_OK


def test_checkpoint_that_fails_is_a_warning(transactions: Transactions, path: str) -> None:
    """A log that can not be written back is told; what was committed is committed."""
    transactions.run(
        [Job(lambda connection: sqlite.driver_of(connection).set_authorizer(refuse_checkpoints))]
    )

    report = fill(transactions, 2 * LIMIT)

    assert report.failure is None
    assert report.warning == "the write-ahead log has grown to 1 MiB: not authorized"
    assert log_size(path) > LIMIT


@pytest.mark.parametrize("replaced", [False, True])
def test_database_that_was_moved_away(
    transactions: Transactions, path: str, replaced: bool
) -> None:
    """What was written to files without a name is not acknowledged; the next write opens anew."""
    transactions.run([add(1)])
    if replaced:
        with closing(sqlite3.connect(f"{path}.new")) as other:
            other.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, parent)")
    for end in ("", "-wal", "-shm"):
        os.unlink(path + end)
    if replaced:
        os.rename(f"{path}.new", path)
    lost = add(2)

    report = transactions.run([lost])

    assert str(outcome(lost)) == f"{path}-wal is gone"
    assert report.failure == Trouble(
        Kind.MOVED, f"the database was removed or replaced ({path}-wal is gone)"
    )
    again = add(3)
    assert (transactions.run([again]).failure is None) is replaced
    if replaced:
        assert numbers(transactions._engine) == [3]


def test_database_without_a_log(tmp_path: Path) -> None:
    """Where there is no write-ahead log, as on some network disks, nothing is missed."""
    engine = sqlite.make_engine(sqlite.parse_url(f"sqlite:///{tmp_path / 'x.db'}"))
    transactions = Transactions(engine, WriterCare(str(tmp_path / "other.db")), FakeClock())
    job = running("CREATE TABLE t (n)", "INSERT INTO t VALUES (1)")

    reports = [transactions.run([job]), transactions.run([running("DELETE FROM t")])]

    assert [report.failure for report in reports] == [None, None]
    transactions.close()


def test_lock_is_waited_for_once(transactions: Transactions, faults: Faults) -> None:
    """After a lock that could not be had the next ones are tried for a moment only, until one works."""
    normal = patience(transactions)
    faults.code, faults.where = sqlite3.SQLITE_BUSY, ("BEGIN",)
    transactions.run([add(1)])
    faults.code = None
    hurried = patience(transactions)

    assert (normal, hurried) == (sqlite.BUSY_TIMEOUT_MS, care.HURRIED_MS)
    assert patience(transactions) == sqlite.BUSY_TIMEOUT_MS


def test_other_failures_do_not_hurry(transactions: Transactions, faults: Faults) -> None:
    """A connection that was replaced for another reason waits for locks as ever."""
    faults.code = sqlite3.SQLITE_FULL
    transactions.run([add(1)])
    faults.code = None

    assert patience(transactions) == sqlite.BUSY_TIMEOUT_MS
