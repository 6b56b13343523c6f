"""SQLStore.backup: written on a thread of its own while the store goes on."""

from __future__ import annotations

import os
from pathlib import Path
from threading import Event
from threading import enumerate as threads

import pytest
from twisted.internet.defer import CancelledError

from gateway.errors import StoreError
from gateway.store import backup, sqlite
from gateway.store.store import SQLStore
from gateway.testing import FakeClock, result_of

from .harness import PATIENCE_S, Pump, a_message, call_nothing, inline_store, threaded_store


@pytest.fixture
def target(tmp_path: Path) -> str:
    """Return the path of a backup that is not there yet."""
    return str(tmp_path / "backup.db")


class Gate:
    """Holds a backup before its first sync, the one thing of it that can be got hold of."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.open = Event(), Event()
        self._fsync = os.fsync
        monkeypatch.setattr(os, "fsync", self.fsync)
        monkeypatch.setattr(sqlite, "COPY_STEP_PAGES", 4)
        monkeypatch.setattr(sqlite, "COPY_SYNC_PAGES", 4)

    def fsync(self, descriptor: int) -> None:
        """Wait until the gate is open."""
        self.reached.set()
        assert self.open.wait(PATIENCE_S)
        self._fsync(descriptor)

    def hold(self) -> None:
        """Wait until a backup stands before the gate."""
        assert self.reached.wait(PATIENCE_S)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Return what holds a backup."""
    return Gate(monkeypatch)


def test_store_works_while_a_backup_is_written(
    url: str, pump: Pump, target: str, gate: Gate
) -> None:
    """Reads and writes are answered while a backup is half-way; it has what was there before."""
    store = threaded_store(url, pump)
    pump.wait(store.append_messages("s", [a_message("one")]))
    written = store.backup(target)
    gate.hold()

    pump.wait(store.append_messages("s", [a_message("two")]))
    assert pump.wait(store.count_messages("s")) == 2
    assert not written.called
    gate.open.set()
    assert pump.wait(written) is None

    pump.wait(store.stopService())
    assert backup.verify(target).size == os.path.getsize(target)
    copy = inline_store(sqlite.url_of(target))
    assert result_of(copy.count_messages("s")) == 1
    result_of(copy.stopService())


def test_one_backup_at_a_time(url: str, pump: Pump, target: str, gate: Gate) -> None:
    """A backup is refused while another one is being written, and can be had afterwards."""
    store = threaded_store(url, pump)
    first = store.backup(target)
    gate.hold()

    with pytest.raises(StoreError, match="a backup is being written already"):
        result_of(store.backup(f"{target}.2"))
    gate.open.set()
    pump.wait(first)

    pump.wait(store.backup(f"{target}.2"))
    pump.wait(store.stopService())


def test_cancelled_backup_leaves_nothing(url: str, pump: Pump, target: str, gate: Gate) -> None:
    """A backup that was cancelled is given up at its next step; then there can be another one."""
    store = threaded_store(url, pump)
    written = store.backup(target)
    gate.hold()

    written.cancel()
    with pytest.raises(CancelledError):
        result_of(written)
    with pytest.raises(StoreError, match="already"):
        result_of(store.backup(target))
    gate.open.set()
    pump.step()

    assert not [name for name in os.listdir(os.path.dirname(target)) if "backup" in name]
    pump.wait(store.backup(target))
    pump.wait(store.stopService())


def test_stop_gives_a_backup_up(url: str, pump: Pump, target: str, gate: Gate) -> None:
    """A store that stops does not wait for a whole backup, and leaves neither thread nor file."""
    store = threaded_store(url, pump)
    written = store.backup(target)
    gate.hold()
    stopped = store.stopService()
    gate.open.set()

    pump.wait(stopped)

    with pytest.raises(StoreError, match="given up"):
        result_of(written)
    assert os.listdir(os.path.dirname(target)) == ["gateway.db"]
    assert "gateway-store-backup" not in [thread.name for thread in threads()]


def test_failure_is_the_callers_alone(url: str, pump: Pump, tmp_path: Path) -> None:
    """A backup that fails says why; the store is none the worse for it."""
    store = threaded_store(url, pump)

    with pytest.raises(StoreError, match="No such file or directory"):
        pump.wait(store.backup(str(tmp_path / "missing" / "backup.db")))

    assert store.failing is None
    pump.wait(store.append_messages("s", [a_message()]))
    pump.wait(store.stopService())


def test_relative_path_is_refused(url: str) -> None:
    """A path that depends on where the daemon happens to be is refused."""
    store = inline_store(url)

    with pytest.raises(StoreError, match="has to be absolute"):
        result_of(store.backup("backup.db"))
    result_of(store.stopService())


def test_inline(url: str, target: str) -> None:
    """Without threads the backup is there when the call returns."""
    store = inline_store(url)

    assert result_of(store.backup(target)) is None

    assert os.path.exists(target)
    result_of(store.stopService())


def test_no_backup_of_what_is_not_there(target: str) -> None:
    """A store that is not open, or that is in memory, has no backup."""
    store = SQLStore("sqlite://", clock=FakeClock(), call_from_thread=call_nothing, threads=False)
    with pytest.raises(StoreError, match="not open"):
        result_of(store.backup(target))
    store.open()
    store.startService()

    with pytest.raises(StoreError, match="in memory"):
        result_of(store.backup(target))
    result_of(store.stopService())
