"""gateway.store.probes: what is tried, and how it fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import DatabaseError, OperationalError

from gateway.errors import StoreError
from gateway.store import probes, schema, sqlite
from gateway.store.trouble import Kind


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Return the path of a database."""
    return str(tmp_path / "gateway.db")


@pytest.fixture
def connection(path: str) -> Iterator[Connection]:
    """Return a connection in a transaction."""
    engine = sqlite.make_engine(sqlite.parse_url(sqlite.url_of(path)))
    schema.prepare_file(engine, path)
    with engine.begin() as connection:
        yield connection


@pytest.mark.parametrize("kind", Kind)
def test_write(connection: Connection, path: str, kind: Kind) -> None:
    """A write is tried on the file, whatever was wrong; a full disk is looked at before."""
    before = connection.exec_driver_sql("PRAGMA application_id").scalar()

    probes.write(connection, kind=kind, path=path)
    probes.write(connection, kind=kind, path=None)

    assert connection.exec_driver_sql("PRAGMA application_id").scalar() == before


def test_write_is_a_write(path: str, connection: Connection) -> None:
    """On a connection that may only read the attempt fails."""
    connection.rollback()
    reader = sqlite.make_engine(sqlite.parse_url(sqlite.url_of(path)), read_only=True)

    with reader.begin() as reading, pytest.raises(OperationalError, match="readonly"):
        probes.write(reading, kind=Kind.DISK, path=path)


def test_disk_without_room(
    connection: Connection, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With too little room on a disk that was full nothing is written."""
    monkeypatch.setattr(probes, "FREE_MIN", 1 << 62)

    with pytest.raises(StoreError, match="bytes are free"):
        probes.write(connection, kind=Kind.FULL, path=path)
    probes.write(connection, kind=Kind.DISK, path=path)


def test_read(connection: Connection) -> None:
    """Reading reads a table."""
    probes.read(connection)
    connection.exec_driver_sql("DROP TABLE alembic_version")

    with pytest.raises(OperationalError, match="no such table"):
        probes.read(connection)


def test_check(connection: Connection, path: str) -> None:
    """A sound file passes the check; one with a torn page does not."""
    probes.check(connection)
    sqlite.driver_of(connection).commit()
    assert sqlite.checkpoint(connection, 0)
    with open(path, "r+b") as stream:
        stream.seek(4096)
        stream.write(b"\xa5" * 8192)

    engine = sqlite.make_engine(sqlite.parse_url(sqlite.url_of(path)))
    with engine.begin() as fresh, pytest.raises((StoreError, DatabaseError)):
        probes.check(fresh)
