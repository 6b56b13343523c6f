"""Everything that is true of SQLite only: pragmas, how a transaction begins, copies of a file."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    Connection,
    Dialect,
    Engine,
    PoolProxiedConnection,
    create_engine,
    event,
    make_url,
)
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import NullPool, StaticPool
from sqlalchemy.util import LRUCache

from gateway.errors import StartError

APPLICATION_ID = 0x67617465
"""``gate``, in the header of every database of ours: what ``file`` shows, and what open() checks."""

BUSY_TIMEOUT_MS = 5000
JOURNAL_SIZE_LIMIT = 64 * 1024 * 1024
"""Bytes that the write-ahead log may keep after it has grown and was written back."""

CHECKPOINT_PAGES = 1000
"""Pages of 4 KiB in the write-ahead log after which a commit writes back what no reader needs."""

SYNCHRONOUS = ("normal", "full")

_STATEMENTS_MAX = 500

COPY_STEP_PAGES = 256
"""Pages that are copied before it is asked whether the copy is still wanted."""

COPY_SYNC_PAGES = 8192
"""Pages after which a copy is synced: all at once at its end would hold up the syncs of others."""


class GivenUp(Exception):
    """A copy that nobody wanted any more."""


@dataclass(frozen=True, slots=True)
class FileState:
    """What a database file holds. ``revision`` is None before the first migration."""

    application_id: int
    empty: bool
    revision: str | None


@dataclass(frozen=True, slots=True)
class Compiled:
    """Statements that SQLAlchemy has compiled, for databases in memory that share them.

    A test makes a database, runs some statements and throws it away: to compile them each time takes
    longer than to run them.
    """

    dialect: Dialect
    statements: LRUCache[Any, Any]


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
    url: URL,
    *,
    synchronous: str = "normal",
    read_only: bool = False,
    foreign_keys: bool = True,
    must_exist: bool = False,
    driver: type[sqlite3.Connection] = sqlite3.Connection,
    compiled: Compiled | None = None,
) -> Engine:
    """Return an engine whose connections are set up as the gateway needs them.

    A database in memory has one connection, which any thread may use, but one at a time. One that
    ``must_exist`` is never made by connecting: a file that was lost must not come back empty.
    ``driver`` is the class of the driver's connections, ``compiled`` what one in memory shares.
    """
    path = path_of(url)
    if path is None:
        engine = _engine_in_memory(url, driver, compiled)
    else:
        how: dict[str, Any] = {"connect_args": {"factory": driver}}
        if must_exist:
            how = {"creator": partial(_connect, f"{Path(path).as_uri()}?mode=rw", driver)}
        engine = create_engine(url, poolclass=NullPool, hide_parameters=True, **how)

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
        connection.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")

    # A writer takes its lock at once: a reader that became a writer could be refused half-way.
    begin = "BEGIN" if read_only else "BEGIN IMMEDIATE"

    def do_begin(connection: PoolProxiedConnection) -> None:
        connection.cursor().execute(begin)

    # A listener for "begin" would do, but a connection with any listener dispatches events with
    # every statement, which makes a turn a quarter slower.
    engine.dialect.do_begin = do_begin  # type: ignore[assignment, method-assign]
    event.listen(engine, "connect", on_connect)
    return engine


def make_compiled() -> Compiled:
    """Return what databases in memory may share, empty."""
    with create_engine("sqlite://", poolclass=StaticPool).connect() as connection:
        return Compiled(connection.dialect, LRUCache(_STATEMENTS_MAX))


def _engine_in_memory(
    url: URL, driver: type[sqlite3.Connection], compiled: Compiled | None
) -> Engine:
    """Return an engine with a database of its own."""
    compiled = compiled or make_compiled()

    def connect() -> Any:
        return sqlite3.connect(":memory:", factory=driver, check_same_thread=False)

    pool = StaticPool(connect, dialect=compiled.dialect)
    shared = {"compiled_cache": compiled.statements}
    return Engine(pool, compiled.dialect, url, hide_parameters=True, execution_options=shared)


def _connect(uri: str, driver: type[sqlite3.Connection]) -> sqlite3.Connection:
    return sqlite3.connect(uri, uri=True, factory=driver)


def stamp_application(connection: Connection) -> None:
    """Mark the database as ours."""
    connection.exec_driver_sql(f"PRAGMA application_id={APPLICATION_ID}")


def driver_of(connection: Connection) -> sqlite3.Connection:
    """Return the driver's connection, for what is done outside of any transaction."""
    return connection.connection.driver_connection  # type: ignore[return-value]


def checkpoint(connection: Connection, patience_ms: int) -> bool:
    """Write the log back into the database file and empty it; return whether that was possible.

    A reader, here or in another process, can hold it up; then the log stays, and nothing is lost.
    Raises sqlite3.Error.
    """
    driver = driver_of(connection)
    driver.execute(f"PRAGMA busy_timeout={patience_ms}")
    busy: int = driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    driver.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    return busy == 0


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


def copy_file(source: str, target: str, *, unwanted: Callable[[], bool] | None = None) -> None:
    """Copy a database, which may be in use, to ``target`` whole or not at all, without a log.

    The copy is what was committed when it began. Writers go on meanwhile; only their log can not be
    written back. Raises OSError, sqlite3.Error, and GivenUp soon after ``unwanted`` says so.
    """
    partial = f"{target}.partial"
    try:
        with suppress(FileNotFoundError):
            os.unlink(partial)
        _copy_pages(source, partial, unwanted)
        os.replace(partial, target)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(partial)
        raise
    sync_directory(target)


def _copy_pages(source: str, target: str, unwanted: Callable[[], bool] | None) -> None:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    descriptor = os.open(target, flags, 0o600)
    try:
        with closing(open_existing(source)) as old, closing(open_existing(target)) as new:
            new.execute("PRAGMA journal_mode=OFF")
            new.execute("PRAGMA synchronous=OFF")
            # One snapshot for the whole copy: without it, it would begin anew with every write.
            old.execute("BEGIN")
            old.execute("SELECT count(*) FROM sqlite_master").fetchall()
            synced = 0

            def progress(status: int, remaining: int, total: int) -> None:
                nonlocal synced
                if unwanted is not None and unwanted():
                    raise GivenUp
                if total - remaining - synced >= COPY_SYNC_PAGES:
                    synced = total - remaining
                    os.fsync(descriptor)

            old.backup(new, pages=COPY_STEP_PAGES, progress=progress)
        with closing(open_existing(target)) as new:
            new.execute("PRAGMA journal_mode=DELETE").fetchall()
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_existing(path: str) -> sqlite3.Connection:
    """Open a database outside of any engine; one that does not exist is not made."""
    uri = f"{Path(path).absolute().as_uri()}?mode=rw"
    return sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_MS / 1000, isolation_level=None)


def sync_directory(path: str) -> None:
    """Make the name of a file last. Raises OSError."""
    descriptor = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_private(path: str) -> None:
    """Create an empty file that only its owner may read, in place of what was there."""
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600))
