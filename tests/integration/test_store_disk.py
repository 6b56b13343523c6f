"""A store on a small disk of its own that fills up, is read-only, and has room again."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import pytest
from twisted.internet.defer import Deferred

from gateway.errors import StartError, StoreError
from gateway.model import Message
from gateway.store import backup
from gateway.store.health import PROBE_S
from gateway.store.sqlite import url_of
from gateway.store.store import SQLStore
from gateway.testing import FakeClock, result_of

pytestmark = pytest.mark.integration

T = TypeVar("T")

DISK_BYTES = 4 * 1024 * 1024
PATIENCE_S = 30.0
FULL = "the disk is full (database or disk is full)"


def mount(*arguments: str) -> bool:
    """Run mount or umount; return whether it worked."""
    return subprocess.run(arguments, capture_output=True, check=False).returncode == 0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Return a directory on a disk of 4 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    if not mount("mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "gateway-test", str(path)):
        pytest.skip("whoever runs this may not mount")
    yield path
    mount("umount", "-l", str(path))


class Daemon:
    """A store with its threads, on a clock that stands still; the test's thread is the reactor's."""

    def __init__(self, path: Path) -> None:
        self.clock = FakeClock()
        self._calls: SimpleQueue[tuple[Callable[..., object], tuple[Any, ...]]] = SimpleQueue()
        self.store = SQLStore(
            url_of(str(path)),
            clock=self.clock,
            call_from_thread=lambda function, *rest: self._calls.put((function, rest)),
        )
        self.acknowledged: list[str] = []

    def wait(self, deferred: Deferred[T]) -> T:
        """Do what the threads ask for until the Deferred has fired; return its result."""
        while not deferred.called or deferred.paused:
            self.step()
        return result_of(deferred)

    def step(self) -> None:
        """Do one thing that the threads ask for."""
        function, arguments = self._calls.get(timeout=PATIENCE_S)
        function(*arguments)

    def write(self, size: int) -> None:
        """Write a message of so many bytes, and note it if it was acknowledged."""
        name = f"m{len(self.acknowledged)}"
        content = [{"type": "text", "text": name * (size // len(name))}]
        message = Message(message_id=name, role="user", content=content, timestamp_ms=0)
        self.wait(self.store.append_messages("s", [message]))
        self.acknowledged.append(name)

    def stored(self) -> list[str]:
        """Return the names of the messages that are stored."""
        messages = self.wait(self.store.list_messages("s", limit=100_000))
        return [message.message_id for message in messages]

    def probe(self) -> None:
        """Let it try whether it works again."""
        self.clock.advance(PROBE_S)
        self.step()

    def stop(self) -> None:
        """Stop the store."""
        self.wait(self.store.stopService())


@pytest.fixture
def daemon(disk: Path) -> Iterator[Daemon]:
    """Return a store on the disk that is not open yet; it is stopped after the test."""
    daemon = Daemon(disk / "gateway.db")
    yield daemon
    daemon.stop()


def fill(path: Path) -> None:
    """Write a file until the disk is full."""
    with path.open("wb", buffering=0) as stream:
        for size in (65_536, 4096):
            try:
                while True:
                    stream.write(b"x" * size)
            except OSError:
                continue


def test_disk_that_fills_up(disk: Path, daemon: Daemon) -> None:
    """On a full disk nothing acknowledged is lost, reads go on, and room alone mends it."""
    daemon.store.open()
    daemon.store.startService()
    ballast = disk / "ballast"
    ballast.write_bytes(b"x" * (DISK_BYTES // 2))
    with pytest.raises(StoreError):
        while True:
            daemon.write(50_000)
    assert daemon.store.failing == FULL

    with pytest.raises(StoreError, match="the disk is full"):
        daemon.write(10)
    assert len(daemon.acknowledged) > 5
    assert daemon.stored() == daemon.acknowledged
    daemon.probe()
    assert daemon.store.failing == FULL
    ballast.unlink()
    daemon.probe()

    assert daemon.store.failing is None
    daemon.write(50_000)
    assert daemon.stored() == daemon.acknowledged
    daemon.stop()
    assert backup.verify(str(disk / "gateway.db")).revision
    daemon.store.open()
    daemon.store.startService()
    assert daemon.stored() == daemon.acknowledged


def test_disk_that_stays_full_until_the_end(disk: Path, daemon: Daemon) -> None:
    """A store that is stopped on a full disk has kept everything acknowledged for the next start."""
    daemon.store.open()
    daemon.store.startService()
    with pytest.raises(StoreError):
        while True:
            daemon.write(50_000)
    fill(disk / "ballast")
    daemon.stop()

    (disk / "ballast").unlink()
    daemon.store.open()
    daemon.store.startService()

    assert daemon.stored() == daemon.acknowledged


def test_start_on_a_full_disk(disk: Path, daemon: Daemon) -> None:
    """A start on a full disk is refused with one line, and works when there is room."""
    fill(disk / "ballast")
    with pytest.raises(StartError, match=r"gateway\.db: .*(full|I/O error|No space)"):
        daemon.store.open()
    (disk / "ballast").unlink()

    daemon.store.open()
    daemon.store.startService()

    daemon.write(10)
    assert daemon.stored() == daemon.acknowledged


def test_disk_that_is_read_only_for_a_while(disk: Path, daemon: Daemon) -> None:
    """On a read-only disk writes are refused with the reason; once it can be written they go on."""
    daemon.store.open()
    daemon.store.startService()
    daemon.write(10)
    daemon.stop()
    daemon.store.open()
    assert mount("mount", "-o", "remount,ro", str(disk))
    daemon.store.startService()

    with pytest.raises(StoreError):
        daemon.write(10)
    failing = daemon.store.failing
    daemon.probe()
    still = daemon.store.failing
    assert mount("mount", "-o", "remount,rw", str(disk))
    daemon.probe()

    assert failing is not None
    assert failing.startswith(("the database can not be", "the disk fails"))
    assert still == failing
    assert daemon.store.failing is None
    daemon.write(10)
    assert daemon.stored() == daemon.acknowledged == ["m0", "m1"]


def test_start_on_a_read_only_disk(disk: Path, daemon: Daemon) -> None:
    """A start on a disk that can not be written is refused with one line that says so."""
    daemon.store.open()
    assert mount("mount", "-o", "remount,ro", str(disk))

    with pytest.raises(StartError, match=r"gateway\.db: the database can not be (written|opened)"):
        daemon.store.open()
    assert mount("mount", "-o", "remount,rw", str(disk))
    daemon.store.open()


def test_backup_that_does_not_fit(disk: Path, daemon: Daemon, tmp_path: Path) -> None:
    """A backup on a disk without room for it leaves nothing there, and the store as it was."""
    daemon.store.open()
    daemon.store.startService()
    for _ in range(8):
        daemon.write(200_000)
    (disk / "ballast").write_bytes(b"x" * 1_000_000)

    with pytest.raises(StoreError, match="the disk is full"):
        daemon.wait(daemon.store.backup(str(disk / "backup.db")))

    assert not [name for name in os.listdir(disk) if "backup" in name]
    assert daemon.store.failing is None
    daemon.wait(daemon.store.backup(str(tmp_path / "elsewhere.db")))
    assert backup.verify(str(tmp_path / "elsewhere.db")).revision
