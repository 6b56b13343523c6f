"""Getting a database ready before the gateway runs: made, checked, or upgraded in a child process.

Alembic is imported by the child alone, and only for a database of an older revision: neither the start
nor the memory of the gateway pays for it.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Engine, create_mock_engine, insert
from sqlalchemy.exc import SQLAlchemyError

import gateway
from gateway.errors import StartError
from gateway.store import sqlite
from gateway.store.tables import REVISIONS, alembic_version, metadata
from gateway.store.trouble import error_text, trouble_of

UPGRADE_TIMEOUT_S = 900.0


def create_all(engine: Engine) -> None:
    """Make every table in one transaction, and note the revision. Raises SQLAlchemyError."""
    with engine.begin() as connection:
        for statement in _STATEMENTS:
            connection.exec_driver_sql(statement)
        connection.execute(insert(alembic_version), {"version_num": REVISIONS[-1]})
        sqlite.stamp_application(connection)


def _statements() -> tuple[str, ...]:
    """Return the SQL that makes the tables."""
    statements: list[str] = []

    def note(statement: Any, *_: Any, **__: Any) -> None:
        statements.append(str(statement.compile(dialect=engine.dialect)))

    engine = create_mock_engine("sqlite://", note)
    metadata.create_all(engine, checkfirst=False)
    return tuple(statements)


_STATEMENTS: Final = _statements()
"""Made once, since that takes longer than to run them."""


def prepare_file(
    engine: Engine,
    path: str,
    *,
    revisions: Sequence[str] = REVISIONS,
    timeout_s: float = UPGRADE_TIMEOUT_S,
) -> None:
    """Make the database at ``path`` fit this gateway, or raise StartError with one line.

    ``revisions`` are the known schemas, oldest first. Whatever fails, the file stays as it was.
    """
    if not os.path.isdir(os.path.dirname(path)):
        raise StartError(f"database {path}: its directory does not exist")
    try:
        if not os.path.exists(path):
            sqlite.make_private(path)
        state = sqlite.inspect_file(path)
        if state.application_id != sqlite.APPLICATION_ID:
            if not state.empty or state.application_id != 0:
                raise StartError(f"database {path} belongs to another program")
            create_all(engine)
            return
        if state.revision not in (None, *revisions):
            raise StartError(
                f"database {path} was written by a newer gateway (revision {state.revision})"
            )
        if state.revision != revisions[-1]:
            _upgrade(engine.url, path, state.revision, revisions[-1], timeout_s)
        # What can not be written is better refused now than at the first message. It takes a write to
        # find out: on a read-only file BEGIN IMMEDIATE is content to read.
        with engine.begin() as connection:
            sqlite.stamp_application(connection)
    except (SQLAlchemyError, sqlite3.Error) as error:
        trouble = trouble_of(error)
        what = error_text(error) if trouble is None else trouble.advice
        raise StartError(f"database {path}: {what}") from error
    except OSError as error:
        raise StartError(f"database {path}: {error}") from error


def _upgrade(url: URL, path: str, old: str | None, new: str, timeout_s: float) -> None:
    copy = f"{path}.before-{new}"
    sqlite.copy_file(path, copy)
    command = [sys.executable, "-m", "gateway.store.migrate", url.render_as_string(False)]
    # The child has to find the package that is running here, wherever it was imported from.
    search = (str(Path(gateway.__file__).parent.parent), os.environ.get("PYTHONPATH", ""))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, search))}
    what = f"database {path}: the upgrade from revision {old or 'none'} to {new}"
    kept = f"the file is unchanged, a copy is {copy}"
    try:
        done = subprocess.run(  # noqa: S603 (our own interpreter and module)
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise StartError(f"{what} took longer than {timeout_s:g} s; {kept}") from None
    if done.returncode != 0:
        reason = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
        raise StartError(f"{what} failed: {reason}; {kept}")
    if sqlite.inspect_file(path).revision != new:
        raise StartError(f"{what} did not reach it; a copy of the old file is {copy}")
