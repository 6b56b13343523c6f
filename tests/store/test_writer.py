"""gateway.store.writer: jobs in transactions and savepoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event

from gateway.errors import StoreError
from gateway.store import sqlite
from gateway.store.trouble import Kind, Trouble
from gateway.store.writer import (
    BatchReport,
    Care,
    ChangeRaised,
    Job,
    Transactions,
)
from gateway.testing import FakeClock

from .jobs import add, numbers, outcome, raising, running


@pytest.fixture
def statements(table_engine: Engine) -> list[str]:
    """Collect the statements that are run on the engine."""
    collected: list[str] = []

    def collect(
        connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
    ) -> None:
        collected.append(statement)

    event.listen(table_engine, "before_cursor_execute", collect)
    return collected


class TestTransactions:
    """Jobs in one transaction."""

    def test_one_job_needs_no_savepoint(
        self, transactions: Transactions, table_engine: Engine, statements: list[str]
    ) -> None:
        """A job that is alone is one transaction by itself."""
        job = add(1)

        report = transactions.run([job])

        assert outcome(job) == 1
        assert statements == ["INSERT INTO t VALUES (?, ?)"]
        assert report == BatchReport(size=1, seconds=0.0, failure=None)
        assert numbers(table_engine) == [1]

    def test_one_job_that_raises(self, transactions: Transactions, table_engine: Engine) -> None:
        """What a job that is alone has written is rolled back when it raises."""
        job = raising(LookupError("x"))

        transactions.run([job])

        assert isinstance(outcome(job), LookupError)
        assert numbers(table_engine) == []

    def test_a_job_that_raises_takes_back_only_its_own(
        self, transactions: Transactions, table_engine: Engine
    ) -> None:
        """In a batch each job fails alone, and the others are committed."""
        cause = LookupError("x")
        changed = ChangeRaised()
        changed.__cause__ = cause
        jobs = [add(1), raising(changed), add(1), add(2), raising(StoreError("no"))]

        report = transactions.run(jobs)

        outcomes = [outcome(job) for job in jobs]
        assert outcomes[0] == 1
        assert outcomes[1] is cause
        assert isinstance(outcomes[2], StoreError)
        assert str(outcomes[2]) == "UNIQUE constraint failed: t.n"
        assert outcomes[3] == 2
        assert str(outcomes[4]) == "no"
        assert (report.size, report.failure) == (5, None)
        assert numbers(table_engine) == [1, 2]

    def test_failed_commit_fails_all(
        self, transactions: Transactions, table_engine: Engine
    ) -> None:
        """When the commit fails no job was done, and a job's own error stays its own."""
        jobs: list[Job[Any]] = [add(1), add(2, parent=77), raising(LookupError("x"))]

        transactions.run(jobs)

        outcomes = [outcome(job) for job in jobs]
        assert [str(error) for error in outcomes[:2]] == ["FOREIGN KEY constraint failed"] * 2
        assert all(isinstance(error, StoreError) for error in outcomes[:2])
        assert outcomes[0] is not outcomes[1]
        assert isinstance(outcomes[2], LookupError)
        assert numbers(table_engine) == []
        again = add(3)
        transactions.run([again])
        assert outcome(again) == 3

    def test_transaction_ended_by_the_database(
        self, transactions: Transactions, table_engine: Engine
    ) -> None:
        """When the database ends the transaction under a job, as on a full disk, all of it failed."""
        broken = running("ROLLBACK", "SELECT * FROM missing")
        jobs: list[Job[Any]] = [add(1), broken, add(2)]

        report = transactions.run(jobs)

        assert {str(outcome(job)) for job in jobs} == {"no such table: missing"}
        assert report.failure == Trouble(Kind.OTHER, "no such table: missing")
        assert numbers(table_engine) == []
        again = add(3)
        assert transactions.run([again]).failure is None
        assert numbers(table_engine) == [3]

    def test_transaction_ended_by_a_constraint(
        self, transactions: Transactions, table_engine: Engine
    ) -> None:
        """A statement that rolls back the whole transaction fails the others, not with its error."""
        jobs: list[Job[Any]] = [
            add(1),
            running("INSERT OR ROLLBACK INTO t VALUES (1, NULL)"),
            add(2),
        ]

        transactions.run(jobs)

        texts = [str(outcome(job)) for job in jobs]
        assert texts[1] == "UNIQUE constraint failed: t.n"
        assert texts[0] == texts[2] == "no such savepoint: job"
        assert numbers(table_engine) == []

    @pytest.mark.parametrize("batch", [1, 3])
    def test_full_disk(self, transactions: Transactions, table_engine: Engine, batch: int) -> None:
        """On a full disk what is acknowledged is stored, the rest is not, and room mends it."""
        transactions.run([running("CREATE TABLE big (data)", "PRAGMA max_page_count=20")])
        big = running("INSERT INTO big VALUES (zeroblob(1000000))")
        jobs = list[Job[Any]]((big, add(1), add(2)))[:batch]

        transactions.run(jobs)

        assert str(outcome(big)) == "database or disk is full"
        stored = [outcome(job) for job in jobs if job.error is None]
        assert numbers(table_engine) == stored
        # Where there is room again: the limit was that of the connection.
        transactions.run([running("PRAGMA max_page_count=1000000")])
        assert transactions.run([running("INSERT INTO big VALUES (zeroblob(1000000))")]) == (
            BatchReport(size=1, seconds=0.0, failure=None)
        )

    def test_failure_stays_until_a_success(self, transactions: Transactions) -> None:
        """The database's failure stays through refusals, until a job succeeds."""
        failures = [
            transactions.run([job]).failure
            for job in (running("SELECT * FROM missing"), raising(LookupError("x")), add(1))
        ]

        missing = Trouble(Kind.OTHER, "no such table: missing")
        assert failures == [missing, missing, None]

    def test_failure_in_a_batch(self, transactions: Transactions) -> None:
        """A batch in which every job failed keeps what the database said last."""
        jobs: list[Job[Any]] = [running("SELECT * FROM missing"), raising(LookupError("x"))]

        failure = transactions.run(jobs).failure

        assert failure == Trouble(Kind.OTHER, "no such table: missing")

    def test_unreachable_database(self, tmp_path: Path) -> None:
        """A database that can not be opened fails the jobs, and is tried again with the next."""
        directory = tmp_path / "later"
        engine = sqlite.make_engine(sqlite.parse_url(f"sqlite:///{directory / 'test.db'}"))
        transactions = Transactions(engine, Care(), FakeClock())
        first, second = running("SELECT 1"), running("SELECT 1")

        failed = transactions.run([first])
        directory.mkdir()
        worked = transactions.run([second])

        assert isinstance(outcome(first), StoreError)
        assert failed.failure == Trouble(
            Kind.UNREACHABLE, "the database can not be opened (unable to open database file)"
        )
        assert worked.failure is None
        assert transactions.close() is None

    def test_closed_connection_is_replaced(
        self, transactions: Transactions, table_engine: Engine
    ) -> None:
        """A connection that was lost fails the job at hand; the next one gets another."""

        def lose(connection: Connection) -> None:
            driver: Any = connection.connection.driver_connection
            driver.close()
            connection.exec_driver_sql("SELECT 1")

        job = Job(lose)
        report = transactions.run([job])
        again = add(1)
        transactions.run([again])

        assert isinstance(outcome(job), StoreError)
        assert report.failure == Trouble(Kind.OTHER, "Cannot operate on a closed database.")
        assert numbers(table_engine) == [1]

    def test_close_reports_trouble(self, table_engine: Engine) -> None:
        """What tidying up raises is returned as text, and the connection is closed all the same."""

        class Careless(Care):
            def closing(self, connection: Connection) -> None:
                raise RuntimeError("no more")

        transactions = Transactions(table_engine, Careless(), FakeClock())
        transactions.run([add(1)])

        assert transactions.close() == "no more"
        assert transactions.close() is None

    def test_seconds_are_the_clocks(self, table_engine: Engine) -> None:
        """The report has the time that the transaction took by the injected clock."""
        clock = FakeClock()
        transactions = Transactions(table_engine, Care(), clock)
        job = Job(lambda connection: clock.advance(2.5))

        assert transactions.run([job]).seconds == 2.5
        transactions.close()
