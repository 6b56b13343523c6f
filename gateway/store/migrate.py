"""``python -m gateway.store.migrate URL``: bring a database to the newest revision.

The gateway runs it as a child process. It prints nothing when it succeeds; a failure is one line on
stderr and exit status 1, and the database is as it was.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from gateway.errors import StartError, StoreError
from gateway.store import sqlite

SCRIPTS = Path(__file__).parent / "migrations"


def configuration(connection: Connection | None = None) -> Config:
    """Return Alembic's configuration, which needs no file."""
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def known_revisions() -> tuple[str, ...]:
    """Return the revisions that there are scripts for, oldest first."""
    scripts = ScriptDirectory.from_config(configuration())
    return tuple(reversed([script.revision for script in scripts.walk_revisions()]))


def upgrade(url: str, revision: str = "head") -> None:
    """Upgrade in one transaction.

    Foreign keys are off meanwhile, since a table is changed by making it anew, and checked at the end.
    """
    engine = sqlite.make_engine(sqlite.parse_url(url), foreign_keys=False)
    try:
        with engine.begin() as connection:
            command.upgrade(configuration(connection), revision)
            broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
            if broken:
                raise StoreError(f"{len(broken)} rows refer to rows that do not exist")
            sqlite.stamp_application(connection)
    finally:
        engine.dispose()


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit status."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m gateway.store.migrate URL\n")
        return 2
    try:
        upgrade(arguments[0])
    except StartError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except Exception as error:
        line = " ".join(str(getattr(error, "orig", None) or error).split())
        sys.stderr.write(f"{type(error).__name__}: {line}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
