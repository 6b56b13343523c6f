"""Upgrades copies of a database, each in a process that kills itself before its n-th statement.

``python upgrade_killed.py DATABASE DIRECTORY`` leaves ``DIRECTORY/1.db``, ``2.db`` …, until one came
through, and prints how many there are.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

from gateway.store import migrate, sqlite


def upgrade_until(statement: int, path: Path) -> None:
    """Upgrade a database, and die before its n-th statement; the commit counts as one."""
    left = [statement]

    def count(*_: Any) -> None:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(Engine, "before_cursor_execute", count)
    event.listen(Engine, "commit", count)
    migrate.upgrade(sqlite.url_of(str(path)))


def main(database: str, directory: str) -> None:
    """Do it for every statement there is."""
    number, status = 0, -1
    while status != 0:
        number += 1
        path = Path(directory) / f"{number}.db"
        shutil.copy(database, path)
        child = os.fork()
        if child == 0:
            upgrade_until(number, path)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        assert status in (0, signal.SIGKILL), status
    print(number)


if __name__ == "__main__":
    main(*sys.argv[1:])
