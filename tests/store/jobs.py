"""Jobs on a table of one column, for the tests of gateway.store.writer."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Engine

from gateway.store.writer import Job
from gateway.testing import result_of

TABLE = (
    "CREATE TABLE t (n INTEGER PRIMARY KEY, parent REFERENCES t (n) DEFERRABLE INITIALLY DEFERRED)"
)


def add(number: int, parent: int | None = None) -> Job[int]:
    """Return a job that adds a row."""

    def operation(connection: Connection) -> int:
        connection.exec_driver_sql("INSERT INTO t VALUES (?, ?)", (number, parent))
        return number

    return Job(operation)


def raising(error: Exception) -> Job[int]:
    """Return a job that adds row 99 and then raises."""

    def operation(connection: Connection) -> int:
        connection.exec_driver_sql("INSERT INTO t VALUES (99, NULL)")
        raise error

    return Job(operation)


def running(*statements: str) -> Job[None]:
    """Return a job that runs statements."""

    def operation(connection: Connection) -> None:
        for statement in statements:
            connection.exec_driver_sql(statement)

    return Job(operation)


def numbers(engine: Engine) -> list[int]:
    """Return what another connection sees in the table."""
    with engine.connect() as connection:
        return list(connection.exec_driver_sql("SELECT n FROM t ORDER BY n").scalars())


def outcome(job: Job[Any]) -> Any:
    """Return a job's result, or its exception."""
    job.fire()
    try:
        return result_of(job.deferred)
    except Exception as error:
        return error
