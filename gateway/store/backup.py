"""Backups of a database: written while it is in use, verified, put back.

Nothing here needs a running gateway: another process of the same host may call it. Whatever fails raises
StoreError with one line that names the file, and leaves every file as it was.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass

from gateway.errors import StoreError
from gateway.store import sqlite
from gateway.store.tables import REVISIONS
from gateway.store.trouble import Kind, describe

_HEADER_BYTES = 72
_LOGS = ("-wal", "-journal")
"""Files beside a database that belong to it: SQLite would apply them to whatever has its name."""


@dataclass(frozen=True, slots=True)
class Verified:
    """A sound database of a gateway: the revision of its schema and its size in bytes."""

    revision: str
    size: int


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did: the revision that is there now, and where the old database lies, if any."""

    revision: str
    kept: str | None


def write(database: str, target: str, *, unwanted: Callable[[], bool] | None = None) -> None:
    """Write a backup of a database that may be in use; it appears under ``target`` whole or not at all.

    What was committed when it begins is in it. Writers go on meanwhile; only their log can not be
    written back until it is done. A backup that has the name already is replaced, nothing else is.

    :param unwanted: asked now and then, in this thread; once it says True the backup is given up.
    """
    with _naming(f"backup {target}"):
        if os.path.lexists(target):
            _refuse_to_replace(database, target)
        sqlite.copy_file(database, target, unwanted=unwanted)


def save(database: str, target: str) -> Verified:
    """Write a backup as :func:`write` does, and check it whole before it gets its name.

    What has the name already stays if the database can not be read, or is damaged.
    """
    with _naming(f"backup {target}"):
        if not os.path.exists(database):
            raise StoreError(f"there is no database {database}")
        if os.path.lexists(target):
            _refuse_to_replace(database, target)
        new = f"{target}.unchecked"
        sqlite.copy_file(database, new)
        try:
            verified = verify(new)
            os.replace(new, target)
        except BaseException:
            os.unlink(new)
            raise
        sqlite.sync_directory(target)
    return verified


def _refuse_to_replace(database: str, target: str) -> None:
    if stat.S_ISREG(os.lstat(target).st_mode):
        # It must not be looked into: closing a file of the database would free our locks on it.
        for end in ("", *_LOGS, "-shm"):
            if os.path.exists(database + end) and os.path.samefile(database + end, target):
                raise StoreError("that is the database itself")
        if _is_ours(target):
            return
    raise StoreError("there is something else, which is no backup")


def _is_ours(path: str) -> bool:
    with open(path, "rb") as stream:
        header = stream.read(_HEADER_BYTES)
    return header[68:] == sqlite.APPLICATION_ID.to_bytes(4, "big")


def verify(path: str) -> Verified:
    """Check a backup, or a database: every page, whose it is, and that this gateway knows its schema."""
    with _naming(path), closing(sqlite.open_existing(path)) as connection:
        application_id = connection.execute("PRAGMA application_id").fetchone()[0]
        if application_id != sqlite.APPLICATION_ID:
            raise StoreError("it is no database of a gateway")
        found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if found != "ok":
            raise StoreError(f"it is damaged: {' '.join(found.split())}")
        if connection.execute("PRAGMA foreign_key_check").fetchone() is not None:
            raise StoreError("it is damaged: rows refer to rows that do not exist")
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        revision = row[0] if row else None
        if revision not in REVISIONS:
            raise StoreError(f"it was written by a newer gateway (revision {revision})")
        return Verified(revision=revision, size=os.path.getsize(path))


def restore(source: str, database: str, *, mark: str = "") -> Restored:
    """Put a backup in the place of a database, which is kept as ``….before-restore`` and ``mark``.

    The caller holds the lock of the state directory. The backup is verified first and stays; the new
    database is there whole or not at all, whenever the power goes.
    """
    with _naming(f"restore {database}"):
        revision = verify(source).revision
        if os.path.exists(database) and os.path.samefile(source, database):
            raise StoreError("the backup is the database itself")
        new = f"{database}.restoring"
        sqlite.copy_file(source, new)
        try:
            kept = _set_aside(database, mark)
            os.replace(new, database)
        except BaseException:
            os.unlink(new)
            raise
        sqlite.sync_directory(database)
    return Restored(revision, kept)


def _set_aside(database: str, mark: str) -> str | None:
    """Give the old database and its log second names, and let go of the log; return the new name."""
    present = [end for end in ("", *_LOGS) if os.path.exists(database + end)]
    if "" in present:
        _fold(database)
        present = [end for end in present if os.path.exists(database + end)]
    kept = _free_name(f"{database}.before-restore{mark}")
    for end in present:
        os.link(database + end, kept + end)
    sqlite.sync_directory(database)
    for end in (*_LOGS, "-shm"):
        with suppress(FileNotFoundError):
            os.unlink(database + end)
    return kept if "" in present else None


def _fold(database: str) -> None:
    """Write the log back into the database, which nobody else may have open."""
    try:
        with closing(sqlite.open_existing(database)) as connection:
            connection.execute("PRAGMA journal_mode=DELETE").fetchall()
    except sqlite3.Error as error:
        trouble = describe(error, str(error))
        if trouble.kind is Kind.LOCKED:
            raise StoreError(trouble.text) from error
        # Whatever else is wrong with it is the reason for all this: it is kept as it is, with its log.


def _free_name(wanted: str) -> str:
    name, number = wanted, 1
    while any(os.path.lexists(name + end) for end in ("", *_LOGS)):
        number += 1
        name = f"{wanted}.{number}"
    return name


@contextmanager
def _naming(what: str) -> Iterator[None]:
    """Say in every failure what it is about."""
    try:
        yield
    except StoreError as error:
        raise StoreError(f"{what}: {error}") from error
    except sqlite.GivenUp as error:
        raise StoreError(f"{what}: given up") from error
    except sqlite3.Error as error:
        raise StoreError(f"{what}: {describe(error, str(error)).text}") from error
    except OSError as error:
        raise StoreError(f"{what}: {error.strerror}") from error
