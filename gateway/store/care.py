"""What the connection that writes needs: a bound for its log, less patience while others hold the lock.

SQLite writes the log back by itself once it has 4 MiB, as far as no reader needs it. A reader that never
ends, such as a long backup, would let it grow for ever, and so would readers that leave no gap.
"""

from __future__ import annotations

import os
import sqlite3

from sqlalchemy import Connection

from gateway.store import sqlite
from gateway.store.trouble import Kind, Trouble
from gateway.store.writer import Care

LOG_LIMIT = 64 * 1024 * 1024
"""Bytes of the log from which on writes wait for readers, to have it emptied."""

CHECKPOINT_PATIENCE_MS = 100
CLOSING_PATIENCE_MS = 200
"""Who stops must not wait for a reader of a backup."""

HURRIED_MS = 100
"""How long a lock is waited for once it could not be had: what waits behind must not wait in turn."""


class WriterCare(Care):
    """Care for the one connection that writes to the database at ``path``."""

    def __init__(self, path: str, *, log_limit: int = LOG_LIMIT) -> None:
        self._log = f"{path}-wal"
        self._limit = log_limit
        self._next = log_limit
        self._seen = False
        self._hurried = False

    def opened(self, connection: Connection, failure: Trouble | None) -> None:
        """Take less time for a lock that another program did not give up."""
        self._seen = False
        self._hurried = failure is not None and failure.kind is Kind.LOCKED
        if self._hurried:
            sqlite.driver_of(connection).execute(f"PRAGMA busy_timeout={HURRIED_MS}")

    def committed(self, connection: Connection) -> str | None:
        """Keep the log within its bound. Raises sqlite3.OperationalError if the files were moved away."""
        if self._hurried:
            self._hurried = False
            sqlite.driver_of(connection).execute(f"PRAGMA busy_timeout={sqlite.BUSY_TIMEOUT_MS}")
        try:
            size = os.stat(self._log).st_size
        except FileNotFoundError:
            if self._seen:
                # What was written went to a file that has no name any more.
                raise _moved(self._log) from None
            return None
        self._seen = True
        if size <= self._limit:
            self._next = self._limit
        elif size >= self._next:
            return self._write_back(connection, size)
        return None

    def _write_back(self, connection: Connection, size: int) -> str | None:
        try:
            emptied = sqlite.checkpoint(connection, CHECKPOINT_PATIENCE_MS)
            reason = "a reader holds it back"
        except sqlite3.Error as error:
            emptied, reason = False, str(error)
        if emptied:
            return None
        # Not with every transaction: each attempt makes the writes wait.
        self._next = size + self._limit // 4
        return f"the write-ahead log has grown to {size / 1048576:.0f} MiB: {reason}"

    def closing(self, connection: Connection) -> None:
        """Leave a file without a log behind."""
        sqlite.checkpoint(connection, CLOSING_PATIENCE_MS)


def _moved(log: str) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(f"{log} is gone")
    error.sqlite_errorcode = sqlite3.SQLITE_READONLY_DBMOVED
    return error
