"""Strangers leave the daemon no descriptor, and never hold most of them (attack 14)."""

from __future__ import annotations

import resource
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.integration.daemon import running, until
from tests.net.wire import head, upgrade

pytestmark = pytest.mark.integration

EACH: Final = 100
HANDSHAKE_S: Final = 3
SAID: Final = {
    "nothing": b"",
    "half a head": b"GET / HTTP/1.1\r\nHost: 127",
    "an upgrade and no connect": upgrade(),
}
RESET: Final = struct.pack("ii", 1, 0)
"""The option of a socket whose close is a reset."""


def strangers(port: int, said: bytes) -> list[socket.socket]:
    """Connect strangers that have said this; a third of them ends by a reset."""
    made = []
    for number in range(EACH):
        stranger = socket.create_connection(("127.0.0.1", port))
        if number % 3 == 0:
            stranger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        stranger.sendall(said)
        made.append(stranger)
    return made


@contextmanager
def answered(port: int) -> Iterator[None]:
    """Hold a connection that was answered: by then whoever ended before it is forgotten."""
    with socket.create_connection(("127.0.0.1", port)) as held:
        held.sendall(head("/healthz"))
        assert held.recv(1024).startswith(b"HTTP/1.1 200")
        yield


@pytest.mark.parametrize("leave", [True, False], ids=["they leave", "they stay"])
def test_strangers_leave_no_descriptor(tmp_path: Path, leave: bool) -> None:
    """Whatever they said, and whether they end or are ended, the daemon has as many files open as before."""
    config = tmp_path / "gateway.toml"
    config.write_text(f"[limits]\nhandshake_timeout_s = {HANDSHAKE_S}\n")
    with running(tmp_path, "--config", config) as daemon, answered(daemon.port):
        before = daemon.descriptors
        crowd = [one for said in SAID.values() for one in strangers(daemon.port, said)]
        until(lambda: daemon.descriptors >= before + len(crowd), HANDSHAKE_S)
        if leave:
            for stranger in crowd:
                stranger.close()
        until(lambda: daemon.descriptors <= before, HANDSHAKE_S if leave else 3 * HANDSHAKE_S)
        for stranger in crowd:
            stranger.close()
        assert daemon.probe("/readyz").status == 200


def test_the_daemon_may_open_what_the_system_allows(tmp_path: Path) -> None:
    """The usual soft limit, of which a thousand silent sockets would be all, is not the daemon's."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, hard), hard))
    try:
        with running(tmp_path) as daemon:
            limits = Path(f"/proc/{daemon.process.pid}/limits").read_text()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    (line,) = (line for line in limits.splitlines() if line.startswith("Max open files"))
    assert int(line.split()[3]) == hard
