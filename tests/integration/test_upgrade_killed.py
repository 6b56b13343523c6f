"""An upgrade of the database that is killed at any moment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gateway.store import migrate, sqlite
from gateway.store.tables import REVISIONS
from tests.store.test_upgrade import OLD, leave_behind, rows, schema_of

pytestmark = pytest.mark.integration

HELPER = Path(__file__).with_name("upgrade_killed.py")


@pytest.mark.parametrize("revision", OLD)
def test_killed_before_any_statement(tmp_path: Path, revision: str) -> None:
    """Whatever statement an upgrade dies at, the database is the old one, and the next start upgrades it."""
    old, fresh, copies = tmp_path / "old.db", tmp_path / "fresh.db", tmp_path / "copies"
    copies.mkdir()
    leave_behind(revision, str(old))
    before = rows(str(old))
    migrate.upgrade(sqlite.url_of(str(fresh)))
    done = subprocess.run(
        [sys.executable, str(HELPER), str(old), str(copies)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    *killed, whole = (str(copies / f"{n}.db") for n in range(1, int(done.stdout) + 1))
    assert len(killed) > 10
    upgraded = rows(whole)
    assert schema_of(whole) == schema_of(str(fresh))
    assert upgraded["alembic_version"] == [{"version_num": REVISIONS[-1]}]

    for number, path in enumerate(reversed(killed)):
        assert rows(path) == before
        if number % 6:
            continue
        migrate.upgrade(sqlite.url_of(path))
        assert rows(path) == upgraded
        assert schema_of(path) == schema_of(whole)
