"""Connections that fail as a disk or another program would have it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

SAID = {
    sqlite3.SQLITE_FULL: "database or disk is full",
    sqlite3.SQLITE_READONLY: "attempt to write a readonly database",
    sqlite3.SQLITE_BUSY: "database is locked",
    sqlite3.SQLITE_IOERR: "disk I/O error",
    sqlite3.SQLITE_CANTOPEN: "unable to open database file",
    sqlite3.SQLITE_CORRUPT: "database disk image is malformed",
}


def driver_error(code: int) -> sqlite3.DatabaseError:
    """Return the error that the driver raises for a code of SQLite."""
    damaged = code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
    kind = sqlite3.DatabaseError if damaged else sqlite3.OperationalError
    error = kind(SAID.get(code & 0xFF, "something is wrong"))
    error.sqlite_errorcode = code
    return error


class Faults:
    """What goes wrong with the connections of one store.

    :ivar code: while it is set, every statement whose text begins with ``where`` fails with it.
    :ivar fails: called with the number of a commit, 1 for the first; returns the code to fail with.
    :ivar commits: how many commits were tried.
    :ivar statements: what was run.
    """

    def __init__(self) -> None:
        self.code: int | None = None
        self.where: tuple[str, ...] = ("INSERT", "UPDATE", "DELETE", "PRAGMA application_id")
        self.fails: Callable[[int], int | None] = lambda number: None
        self.stored_all_the_same = False
        self.commits = 0
        self.statements: list[str] = []

    def driver(self) -> type[sqlite3.Connection]:
        """Return the class of connections that fail like this."""
        faults = self

        class FaultyCursor(sqlite3.Cursor):
            def execute(self, statement: str, parameters: Any = ()) -> FaultyCursor:
                faults.run(statement)
                super().execute(statement, parameters)
                return self

            def executemany(self, statement: str, parameters: Any) -> FaultyCursor:
                faults.run(statement)
                super().executemany(statement, parameters)
                return self

        class FaultyConnection(sqlite3.Connection):
            def cursor(self, factory: object = None) -> sqlite3.Cursor:  # type: ignore[override]
                return super().cursor(FaultyCursor)

            def commit(self) -> None:
                if not self.in_transaction:
                    return
                faults.commits += 1
                code = faults.fails(faults.commits)
                if code is None or faults.stored_all_the_same:
                    super().commit()
                if code is not None:
                    raise driver_error(code)

        return FaultyConnection

    def run(self, statement: str) -> None:
        """A statement is about to be run."""
        self.statements.append(statement)
        if self.code is not None and statement.startswith(self.where):
            raise driver_error(self.code)
