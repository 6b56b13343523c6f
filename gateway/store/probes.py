"""What is tried while the store does not work, to find out whether it does again."""

from __future__ import annotations

import os

from sqlalchemy import Connection

from gateway.errors import StoreError
from gateway.store import sqlite
from gateway.store.trouble import Kind

FREE_MIN = 1024 * 1024
"""Bytes that have to be free again on a disk that was full: one page would be full again at once."""


def write(connection: Connection, *, kind: Kind, path: str | None) -> None:
    """Write something that changes nothing. Raises what a write raises, and StoreError."""
    if kind is Kind.FULL and path is not None:
        disk = os.statvfs(os.path.dirname(path))
        if disk.f_bavail * disk.f_frsize < FREE_MIN:
            raise StoreError(f"less than {FREE_MIN} bytes are free")
    sqlite.stamp_application(connection)


def read(connection: Connection) -> None:
    """Read something. Raises what a read raises."""
    connection.exec_driver_sql("SELECT version_num FROM alembic_version").all()


def check(connection: Connection) -> None:
    """Check the whole file, and write. Raises StoreError while it is damaged."""
    found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalars().all()
    if list(found) != ["ok"]:
        raise StoreError(f"the database is damaged: {found[0]}")
    sqlite.stamp_application(connection)
