"""gateway.store.sqlite: URLs, pragmas, copies."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from gateway.errors import StartError
from gateway.store import sqlite


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("not a url", "not a database URL"),
        ("postgresql://host/db", "names postgresql; only sqlite"),
        ("sqlite+aiosqlite:///x.db", r"names sqlite\+aiosqlite; only sqlite"),
        ("sqlite:///x.db?mode=ro", "without options"),
        ("sqlite:///file:x.db", "without options"),
    ],
)
def test_refused_urls(url: str, text: str) -> None:
    """A URL that does not name a plain SQLite file is a StartError that never repeats the URL."""
    with pytest.raises(StartError, match=text):
        sqlite.parse_url(url)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite://", None),
        ("sqlite:///:memory:", None),
        ("sqlite+pysqlite:////srv/x.db", "/srv/x.db"),
    ],
)
def test_paths(url: str, path: str | None) -> None:
    """A URL names an absolute path, or none where the database is in memory."""
    assert sqlite.path_of(sqlite.parse_url(url)) == path


@pytest.mark.parametrize("path", ["/srv/a b.db", "/srv/100%20?#ü:@.db"])
def test_url_of_a_path(path: str) -> None:
    """The URL that is made of a path leads back to it."""
    assert sqlite.path_of(sqlite.parse_url(sqlite.url_of(path))) == path


@pytest.mark.parametrize(("synchronous", "level"), [("normal", 1), ("full", 2)])
def test_pragmas(url: str, synchronous: str, level: int) -> None:
    """A writer's connection has the log, the durability and the checks that were asked for."""
    engine = sqlite.make_engine(sqlite.parse_url(url), synchronous=synchronous)

    with engine.connect() as connection:
        values = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in (
                "journal_mode",
                "synchronous",
                "foreign_keys",
                "busy_timeout",
                "journal_size_limit",
                "wal_autocheckpoint",
            )
        }

    assert values == {
        "journal_mode": "wal",
        "synchronous": level,
        "foreign_keys": 1,
        "busy_timeout": sqlite.BUSY_TIMEOUT_MS,
        "journal_size_limit": sqlite.JOURNAL_SIZE_LIMIT,
        "wal_autocheckpoint": sqlite.CHECKPOINT_PAGES,
    }


def test_foreign_keys_can_be_off(url: str) -> None:
    """Migrations get a connection that does not check foreign keys."""
    engine = sqlite.make_engine(sqlite.parse_url(url), foreign_keys=False)

    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 0


def test_a_writer_takes_its_lock_at_the_beginning(url: str) -> None:
    """A transaction of a writer holds the lock before its first statement; a reader's never does."""
    writer = sqlite.make_engine(sqlite.parse_url(url))
    reader = sqlite.make_engine(sqlite.parse_url(url), read_only=True)
    with writer.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (n)")

    with writer.begin(), closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as other:
        other.execute("PRAGMA busy_timeout=0")
        with reader.begin() as reading:
            assert reading.exec_driver_sql("SELECT count(*) FROM t").scalar() == 0
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")


def test_a_reader_can_not_write(url: str) -> None:
    """A connection of a reader refuses to write."""
    with sqlite.make_engine(sqlite.parse_url(url)).begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (n)")
    reader = sqlite.make_engine(sqlite.parse_url(url), read_only=True)

    with reader.begin() as connection, pytest.raises(OperationalError, match="readonly"):
        connection.exec_driver_sql("INSERT INTO t VALUES (1)")


def test_checkpoint_empties_the_log(url: str) -> None:
    """A checkpoint moves the log into the file; with a reader in the way it just leaves it."""
    engine = sqlite.make_engine(sqlite.parse_url(url))
    log = url.removeprefix("sqlite:///") + "-wal"
    with engine.connect() as connection:
        with connection.begin():
            connection.exec_driver_sql("CREATE TABLE t (n)")
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as other:
            other.execute("BEGIN")
            other.execute("SELECT * FROM t").fetchall()
            with connection.begin():
                connection.exec_driver_sql("INSERT INTO t VALUES (1)")
            assert sqlite.checkpoint(connection, 50) is False
            assert os.path.getsize(log) > 0

        assert sqlite.checkpoint(connection, 50) is True

        assert os.path.getsize(log) == 0
        patience = connection.exec_driver_sql("PRAGMA busy_timeout").scalar()
        assert patience == sqlite.BUSY_TIMEOUT_MS


def test_copy_of_a_database_in_use(tmp_path: Path) -> None:
    """A copy has what was committed, log included, and only its owner may read it."""
    source, target = tmp_path / "a.db", tmp_path / "b.db"
    with closing(sqlite3.connect(source)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE t (n)")
        connection.execute("INSERT INTO t VALUES (7)")
        connection.commit()
        target.write_text("an older copy")

        sqlite.copy_file(str(source), str(target))

    with closing(sqlite3.connect(target)) as connection:
        assert connection.execute("SELECT n FROM t").fetchall() == [(7,)]
    assert target.stat().st_mode & 0o777 == 0o600


def test_failed_copy_leaves_nothing(tmp_path: Path) -> None:
    """A copy that fails leaves no file, and an older copy as it was."""
    source, target = tmp_path / "a.db", tmp_path / "b.db"
    source.write_text("this is not a database, and long enough to be sure of it" * 20)
    target.write_text("an older copy")

    with pytest.raises(sqlite3.DatabaseError):
        sqlite.copy_file(str(source), str(target))

    assert target.read_text() == "an older copy"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.db", "b.db"]
