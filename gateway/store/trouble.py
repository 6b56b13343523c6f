"""What can be wrong with a database, in words for people and as a kind for the store."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from enum import Enum

from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    NotSupportedError,
    ProgrammingError,
    StatementError,
)


class Kind(Enum):
    """What is wrong; the value is said to people, before what the database says itself."""

    FULL = "the disk is full"
    READ_ONLY = "the database can not be written"
    LOCKED = "another program has locked the database"
    DISK = "the disk fails"
    UNREACHABLE = "the database can not be opened"
    MOVED = "the database was removed or replaced"
    DAMAGED = "the database is damaged"
    OTHER = ""


_ADVICE = {
    Kind.MOVED: "; restart the gateway",
    Kind.DAMAGED: "; stop the gateway and put a backup in its place",
}

_KINDS = {
    sqlite3.SQLITE_FULL: Kind.FULL,
    # The index of the log could not grow: what a full disk says when it is asked for shared memory.
    sqlite3.SQLITE_IOERR_SHMSIZE: Kind.FULL,
    sqlite3.SQLITE_READONLY_DBMOVED: Kind.MOVED,
    sqlite3.SQLITE_READONLY: Kind.READ_ONLY,
    sqlite3.SQLITE_PERM: Kind.READ_ONLY,
    sqlite3.SQLITE_BUSY: Kind.LOCKED,
    sqlite3.SQLITE_LOCKED: Kind.LOCKED,
    sqlite3.SQLITE_PROTOCOL: Kind.LOCKED,
    sqlite3.SQLITE_IOERR: Kind.DISK,
    sqlite3.SQLITE_CANTOPEN: Kind.UNREACHABLE,
    sqlite3.SQLITE_CORRUPT: Kind.DAMAGED,
    sqlite3.SQLITE_NOTADB: Kind.DAMAGED,
}
_MISTAKES = (IntegrityError, DataError, ProgrammingError, NotSupportedError)


@dataclass(frozen=True, slots=True)
class Trouble:
    """One failure of the database itself. ``text`` is one line for people."""

    kind: Kind
    text: str

    @property
    def advice(self) -> str:
        """The text, and what mends it if that is a command."""
        return self.text + _ADVICE.get(self.kind, "")

    @property
    def lasting(self) -> bool:
        """Whether it is the place that fails, not one operation: then nothing can be written."""
        return self.kind is not Kind.OTHER


def error_text(error: Exception) -> str:
    """Return one line without the statement and its parameters, which may be somebody's words."""
    if isinstance(error, StatementError) and error.orig is not None:
        return str(error.orig)
    return str(error)


def trouble_of(error: Exception | None) -> Trouble | None:
    """Return what is wrong if the database is at fault: full, read-only, locked, damaged; else None."""
    if isinstance(error, DBAPIError):
        if isinstance(error, _MISTAKES) and not error.connection_invalidated:
            return None
        return describe(error.orig, error_text(error))
    return describe(error, str(error)) if isinstance(error, sqlite3.Error) else None


def describe(error: BaseException | None, said: str) -> Trouble:
    """Return the trouble that an error of the driver tells of."""
    code = getattr(error, "sqlite_errorcode", 0)
    kind = _KINDS.get(code) or _KINDS.get(code & 0xFF, Kind.OTHER)
    if kind is Kind.OTHER:
        return Trouble(kind, said)
    return Trouble(kind, f"{kind.value} ({said})")
