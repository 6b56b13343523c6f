"""Backups and restores that are killed at every step: what is there is whole, old or new."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import gateway
from gateway.model import Message
from gateway.store import backup
from gateway.store.sqlite import url_of
from gateway.store.store import SQLStore
from gateway.testing import FakeClock, result_of

pytestmark = pytest.mark.integration

ROOT = Path(gateway.__file__).parent.parent
PROGRAM = Path(__file__).parent / "store_killed.py"
STEPS_MAX = 40


def open_store(path: Path) -> SQLStore:
    """Return an open store whose operations run inline."""
    store = SQLStore(
        url_of(str(path)), clock=FakeClock(), call_from_thread=lambda *rest: None, threads=False
    )
    store.open()
    store.startService()
    return store


def add(store: SQLStore, *names: str) -> None:
    """Store messages of these names."""
    for name in names:
        message = Message(message_id=name, role="user", content=[], timestamp_ms=0)
        result_of(store.append_messages("s", [message]))


def names(path: Path) -> list[str]:
    """Return the names of the messages in a database, as a start of the gateway finds them."""
    store = open_store(path)
    messages = result_of(store.list_messages("s", limit=99))
    result_of(store.stopService())
    return [message.message_id for message in messages]


def die_at(step: int, what: str, source: Path, target: Path) -> bool:
    """Run the program so that it dies at a step; return whether it did."""
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(step), what, str(source), str(target)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 9), done.stderr
    return done.returncode == 9


def test_restore_that_is_killed(tmp_path: Path) -> None:
    """Whenever a restore is killed, the next start finds the old database or the new one, whole.

    The old one was left by a gateway that was killed itself: half of what it has is in its log.
    """
    source, live = tmp_path / "backup.db", tmp_path / "live.db"
    store = open_store(live)
    add(store, "old 1")
    backup.write(str(live), str(source))
    add(store, "old 2")
    found: list[list[str]] = []
    for step in range(1, STEPS_MAX):
        target = tmp_path / f"{step}" / "gateway.db"
        target.parent.mkdir()
        for end in ("", "-wal"):
            shutil.copy(f"{live}{end}", f"{target}{end}")
        died = die_at(step, "restore", source, target)
        found.append(names(target))
        if not died:
            break
        # Whoever does it again comes to the end.
        backup.restore(str(source), str(target))
        assert names(target) == ["old 1"]
    result_of(store.stopService())

    assert not died
    assert found[0] == ["old 1", "old 2"]
    assert found[-1] == ["old 1"]
    assert sorted(found, reverse=True) == found
    assert {len(each) for each in found} == {1, 2}


def test_backup_that_is_killed(tmp_path: Path) -> None:
    """Whenever a backup is killed, its name is not there yet, or is the older one, or whole."""
    live, target = tmp_path / "live.db", tmp_path / "backup.db"
    store = open_store(live)
    add(store, "one")
    died = True
    step = 0
    while died:
        step += 1
        died = die_at(step, "write", live, target)
        assert target.exists() is (not died) or backup.verify(str(target))
    assert names(target) == ["one"]
    add(store, "two")
    for again in range(1, step):
        assert die_at(again, "write", live, target)
        assert len(names(target)) in (1, 2)

    backup.write(str(live), str(target))

    assert names(target) == ["one", "two"]
    result_of(store.stopService())
    assert not [name for name in os.listdir(tmp_path) if "partial" in name]
