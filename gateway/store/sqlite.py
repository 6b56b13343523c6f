"""Everything that is true of SQLite only: pragmas, how a transaction begins, copies of a file."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    PoolProxiedConnection,
    create_engine,
    event,
    make_url,
)
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import NullPool, StaticPool

from gateway.errors import StartError

APPLICATION_ID = 0x67617465
"""``gate``, in the header of every database of ours: what ``file`` shows, and what open() checks."""

BUSY_TIMEOUT_MS = 5000
JOURNAL_SIZE_LIMIT = 64 * 1024 * 1024
"""Bytes that the write-ahead log may keep after it has grown and was written back."""

SYNCHRONOUS = ("normal", "full")


@dataclass(frozen=True, slots=True)
class FileState:
    """What a database file holds. ``revision`` is None before the first migration."""

    application_id: int
    empty: bool
    revision: str | None


def parse_url(url: str) -> URL:
    """Return the parts of ``sqlite:///path``. Raises StartError for anything else."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise StartError("store.url is not a database URL such as sqlite:////path/file") from None
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite"):
        raise StartError(f"store.url names {parsed.drivername}; only sqlite is supported")
    if parsed.query or (parsed.database or "").startswith("file:"):
        raise StartError("store.url has to be sqlite:/// and a plain path, without options")
    return parsed


def url_of(path: str) -> str:
    """Return the URL of a file, whatever characters its path has."""
    return URL.create("sqlite", database=path).render_as_string(hide_password=False)


def path_of(url: URL) -> str | None:
    """Return the absolute path of the database file, or None where it lives in memory."""
    if url.database in (None, "", ":memory:"):
        return None
    return os.path.abspath(url.database or "")


def make_engine(
    url: URL, *, synchronous: str = "normal", read_only: bool = False, foreign_keys: bool = True
) -> Engine:
    """Return an engine whose connections are set up as the gateway needs them.

    A database in memory has one connection, which any thread may use, but one at a time.
    """
    in_memory = path_of(url) is None
    engine = create_engine(
        url,
        poolclass=StaticPool if in_memory else NullPool,
        connect_args={"check_same_thread": False} if in_memory else {},
        hide_parameters=True,
    )

    def on_connect(connection: sqlite3.Connection, record: object) -> None:
        # The driver would begin transactions by itself, and only before the first write.
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        if read_only:
            connection.execute("PRAGMA query_only=ON")
            return
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={synchronous.upper()}")
        connection.execute(f"PRAGMA foreign_keys={'ON' if foreign_keys else 'OFF'}")
        connection.execute(f"PRAGMA journal_size_limit={JOURNAL_SIZE_LIMIT}")

    # A writer takes its lock at once: a reader that became a writer could be refused half-way.
    begin = "BEGIN" if read_only else "BEGIN IMMEDIATE"

    def do_begin(connection: PoolProxiedConnection) -> None:
        connection.cursor().execute(begin)

    # A listener for "begin" would do, but a connection with any listener dispatches events with
    # every statement, which makes a turn a quarter slower.
    engine.dialect.do_begin = do_begin  # type: ignore[assignment, method-assign]
    event.listen(engine, "connect", on_connect)
    return engine


def stamp_application(connection: Connection) -> None:
    """Mark the database as ours."""
    connection.exec_driver_sql(f"PRAGMA application_id={APPLICATION_ID}")


def checkpoint(connection: Connection) -> None:
    """Write the log back into the database file and empty it, outside of any transaction.

    A reader in another process can hold it up; then the log stays, and nothing is lost. Raises
    sqlite3.Error.
    """
    driver: sqlite3.Connection = connection.connection.driver_connection  # type: ignore[assignment]
    # Who stops must not wait for a reader of a backup.
    driver.execute("PRAGMA busy_timeout=200")
    driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def inspect_file(path: str) -> FileState:
    """Read what a file holds, without changing it. Raises sqlite3.Error."""
    with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_MS / 1000)) as connection:
        application_id = connection.execute("PRAGMA application_id").fetchone()[0]
        tables = {
            row[0]
            for row in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")
        }
        revision = None
        if "alembic_version" in tables:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
            revision = row[0] if row else None
    return FileState(application_id=application_id, empty=not tables, revision=revision)


def copy_file(source: str, target: str) -> None:
    """Copy a database, which may be in use, to ``target`` whole or not at all.

    Raises OSError and sqlite3.Error.
    """
    partial = f"{target}.partial"
    make_private(partial)
    try:
        with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(partial)) as new:
            old.backup(new)
        with open(partial, "rb") as copied:
            os.fsync(copied.fileno())
        os.replace(partial, target)
    except BaseException:
        os.unlink(partial)
        raise


def make_private(path: str) -> None:
    """Create an empty file that only its owner may read, in place of what was there."""
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600))
