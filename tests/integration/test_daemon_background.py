"""``twistd gateway`` in the background: pidfile, log file, and who owns the state directory."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as installed_reactor

from tests.integration.daemon import (
    STOP_S,
    TWISTD,
    World,
    assert_clean,
    free_port,
    join,
    probe,
    until,
)

pytestmark = pytest.mark.integration

reactor: Any = installed_reactor


@pytest_twisted.ensureDeferred
async def test_background(tmp_path: Path) -> None:
    """The command returns 0 once the daemon runs; the lock has the daemon's pid; SIGTERM ends it."""
    port, state, socket = free_port(), tmp_path / "state", tmp_path / "socket"
    listen = f"127.0.0.1:{port} unix:{socket}"
    world = World(tmp_path, GATEWAY_LISTEN=listen, GATEWAY_STATE_DIR="state")
    pidfile, log = tmp_path / "pid", tmp_path / "log"
    start = TWISTD, "--pidfile", pidfile, "--logfile", log, "gateway"

    ended = world.run(*start)
    assert ended == (0, "", ""), ended
    pid = int(pidfile.read_text())
    try:
        until(lambda: probe(port, "/readyz").status == 200, STOP_S, log.read_text)
        lock = json.loads((state / "lock").read_text())
        assert (lock["pid"], lock["url"]) == (pid, f"ws://127.0.0.1:{port}")
        token = (state / "token").read_text().strip()
        client = await join(reactor, lock["url"], token)
        assert (await client.call("status"))["pid"] == pid
        assert str((tmp_path / "socket.lock").readlink()) == str(pid)
        assert (await client.chat("hello").result()).text == "hello"
        await client.close()

        second = world.run(TWISTD, "--pidfile", tmp_path / "pid2", "--logfile", log, "gateway")
        assert second.status == 1
        assert second.stderr == (
            f"gateway: state directory {state} is in use by gateway pid {pid} since {lock['since']}\n"
        )
        assert not (tmp_path / "pid2").exists()
    finally:
        os.kill(pid, signal.SIGTERM)

    until(lambda: not world.processes(), STOP_S, log.read_text)
    assert {path.name for path in tmp_path.iterdir()} == {"log", "state"}
    assert_clean(log.read_text(), state)
    assert "gateway stopped" in log.read_text()
