"""gateway.store.trouble: what is wrong with a database, in words."""

from __future__ import annotations

import sqlite3

import pytest
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

from gateway.errors import StoreError
from gateway.store.trouble import Kind, Trouble, describe, error_text, trouble_of

from .faults import driver_error


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (sqlite3.SQLITE_FULL, "the disk is full (database or disk is full)"),
        (sqlite3.SQLITE_IOERR_SHMSIZE, "the disk is full (disk I/O error)"),
        (
            sqlite3.SQLITE_READONLY,
            "the database can not be written (attempt to write a readonly database)",
        ),
        (
            sqlite3.SQLITE_READONLY_DBMOVED,
            "the database was removed or replaced (attempt to write a readonly database)",
        ),
        (sqlite3.SQLITE_BUSY, "another program has locked the database (database is locked)"),
        (
            sqlite3.SQLITE_BUSY_SNAPSHOT,
            "another program has locked the database (database is locked)",
        ),
        (sqlite3.SQLITE_IOERR_FSYNC, "the disk fails (disk I/O error)"),
        (sqlite3.SQLITE_CANTOPEN, "the database can not be opened (unable to open database file)"),
        (sqlite3.SQLITE_CORRUPT, "the database is damaged (database disk image is malformed)"),
    ],
)
def test_words_for_people(code: int, text: str) -> None:
    """A code of SQLite, extended or not, becomes words and what SQLite said; it is lasting."""
    error = driver_error(code)

    trouble = trouble_of(OperationalError("SELECT secret", {}, error))

    assert trouble is not None
    assert trouble.text == text
    assert trouble.lasting
    assert trouble == trouble_of(error) == describe(error, str(error))


def test_what_mends_damage() -> None:
    """Damage comes with the command that mends it; what mends by itself does not."""
    damaged = describe(driver_error(sqlite3.SQLITE_CORRUPT), "x")
    full = describe(driver_error(sqlite3.SQLITE_FULL), "x")

    moved = describe(driver_error(sqlite3.SQLITE_READONLY_DBMOVED), "x")

    assert moved.advice == "the database was removed or replaced (x); restart the gateway"
    assert (
        damaged.advice
        == "the database is damaged (x); stop the gateway and put a backup in its place"
    )
    assert full.advice == full.text == "the disk is full (x)"


def test_other_failures_are_told_as_they_are() -> None:
    """What has no kind is told in the driver's words, and may be a matter of one operation."""
    error = sqlite3.OperationalError("no such table: runs")

    assert trouble_of(OperationalError("x", {}, error)) == Trouble(
        Kind.OTHER, "no such table: runs"
    )
    assert not Trouble(Kind.OTHER, "no such table: runs").lasting


@pytest.mark.parametrize(
    "error",
    [
        None,
        LookupError("theirs"),
        StoreError("ours"),
        IntegrityError("x", {}, sqlite3.IntegrityError("UNIQUE constraint failed")),
        ProgrammingError("x", {}, sqlite3.ProgrammingError("wrong number of bindings")),
    ],
)
def test_mistakes_are_no_trouble(error: Exception | None) -> None:
    """What a caller did wrong is no fault of the database."""
    assert trouble_of(error) is None


def test_lost_connection_is_trouble() -> None:
    """A mistake that comes of a lost connection is the database's."""
    cause = sqlite3.ProgrammingError("Cannot operate on a closed database.")

    error = ProgrammingError("x", {}, cause, connection_invalidated=True)

    assert trouble_of(error) == Trouble(Kind.OTHER, "Cannot operate on a closed database.")


def test_text_hides_the_statement() -> None:
    """The text of an error has neither the statement nor its parameters."""
    error = OperationalError("SELECT secret", {"a": "secret"}, driver_error(sqlite3.SQLITE_FULL))

    assert error_text(error) == "database or disk is full"
    assert error_text(StoreError("as it is")) == "as it is"
