"""How the daemon ends: told to stop, killed, with an agent that is dead; and what the next one finds."""

from __future__ import annotations

import json
import signal
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as installed_reactor
from twisted.internet.threads import deferToThread

from gateway.client import ConnectionLost
from gateway.client.chat import message_text
from tests.integration.daemon import STOP_S, TWISTD, Daemon, Watched, running, soon, until

pytestmark = pytest.mark.integration

reactor: Any = installed_reactor
LONG_RUN = "/tokens 100000"
PARTIAL = "word0 word1 "


async def history(daemon: Daemon, session: str) -> list[tuple[str, str]]:
    """Return who said what in a session."""
    client = await daemon.connect(reactor)
    answer = await client.call("chat.history", {"sessionKey": session})
    await client.close()
    return [(each["role"], message_text(each) or "") for each in answer["messages"]]


@pytest_twisted.ensureDeferred
async def test_sigterm_with_clients_and_a_run(tmp_path: Path) -> None:
    """SIGTERM: every client hears of it, sees the run's one end and 1012; the partial answer is kept."""
    with running(tmp_path) as daemon:
        clients = [Watched(await daemon.connect(reactor, protocol=number)) for number in (3, 4, 4)]
        run = clients[1].client.chat(LONG_RUN, "long")
        await soon(reactor, lambda: all(PARTIAL in each.text(run.run_id) for each in clients))

        await deferToThread(daemon.stop)

        for each in clients:
            lost = await each.closed
            assert isinstance(lost, ConnectionLost)
            assert (lost.code, lost.reason) == (1012, "service restart")
            assert [p["reason"] for p in each.payloads("shutdown")] == ["gateway stopping"]
            (end,) = each.chat(run.run_id, "final", "aborted", "error")
            assert end["state"] == "aborted"
        assert len(daemon.lines(f"run ended run={run.run_id}")) == 1
        assert len(daemon.lines("closed conn=")) == len(clients)
        assert {each["cause"] for each in daemon.records() if "cause" in each} == {"drain"}

    with running(tmp_path) as daemon:
        (_, said), (role, kept) = await history(daemon, "long")
        assert said == LONG_RUN
        assert role == "assistant"
        assert kept.startswith(PARTIAL)
        assert kept == clients[1].text(run.run_id)


@pytest_twisted.ensureDeferred
async def test_sigterm_with_strangers(tmp_path: Path) -> None:
    """Who says nothing, and who asks for a page by half, holds the end up for nobody, and is gone."""
    with running(tmp_path) as daemon:
        client = Watched(await daemon.connect(reactor))
        address = "127.0.0.1", daemon.port
        with socket.create_connection(address) as mute, socket.create_connection(address) as half:
            half.sendall(b"GET / HTTP/1.1\r\nHost: ")
            await client.client.call("health")  # both are accepted by now
            await deferToThread(daemon.stop)
            for stranger in (mute, half):
                stranger.settimeout(STOP_S)
                with suppress(ConnectionResetError):
                    assert stranger.recv(1) == b""
        lost = await client.closed
        assert isinstance(lost, ConnectionLost)
        assert (lost.code, lost.reason) == (1012, "service restart")


@pytest_twisted.ensureDeferred
async def test_kill_in_a_run(tmp_path: Path) -> None:
    """While one runs, another is refused; after kill -9 the next starts at once and ends the open run."""
    with running(tmp_path) as first:
        client = await first.connect(reactor)
        sent = {"sessionKey": "killed", "message": "/hang", "idempotencyKey": "the run"}
        assert (await client.call("chat.send", sent))["status"] == "started"
        other = first.world.run(TWISTD, "-n", "gateway", "--listen", "127.0.0.1:0")
        assert other.status == 1
        since = json.loads((first.state / "lock").read_text())["since"]
        assert other.stderr == (
            f"gateway: state directory {first.state} is in use by gateway pid {first.process.pid}"
            f" since {since}\n"
        )
        first.kill()
        await client.when_closed()

    with running(tmp_path) as second:
        assert second.lines("1 runs were open after a crash; ended")
        client = await second.connect(reactor)
        ended = await client.call("agent.wait", {"runId": "the run", "timeoutMs": 5000})
        assert (ended["status"], ended["error"]) == ("error", "interrupted by a restart")
        listed = await client.call("sessions.list")
        assert [each["key"] for each in listed["sessions"]] == ["agent:main:killed"]
        assert (await client.chat("again", "killed").result()).text == "again"
        await client.close()
        assert [text for _, text in await history(second, "killed")] == ["/hang", "again", "again"]


AGENTS = """
[agents.main]
backend = "acp"
command = ["false"]
[agents.starting]
backend = "acp"
command = ["sleep", "1000"]
[agents.other]
backend = "demo"
"""


@pytest_twisted.ensureDeferred
async def test_agents_that_are_not_there(tmp_path: Path) -> None:
    """While the default agent is dead, /readyz says 503 and why; the rest works, and stops.

    An agent that never gets ready does not hold up the start; at the stop a second and a third signal do no
    harm, and no process of an agent stays.
    """
    config = tmp_path / "gateway.toml"
    config.write_text(AGENTS)
    with running(tmp_path, "--config", config, ready="/startupz") as daemon:
        until(lambda: any("exit status 1" in each["message"] for each in daemon.records()), 5)
        assert daemon.probe("/healthz").status == 200
        ready = daemon.probe("/readyz")
        assert (ready.status, ready.body["ready"], ready.body["failing"]) == (503, False, ["agent"])
        client = await daemon.connect(reactor)
        assert (await client.chat("hello", "agent:other:main").result()).text == "hello"
        await client.close()
        until(lambda: any("sleep 1000" in line for line in daemon.world.processes()), 5)

        # The sleeping agent does not end by itself, so that there is time for another signal.
        daemon.process.send_signal(signal.SIGTERM)
        until(lambda: f"(TCP Port {daemon.port} Closed)" in daemon.output, STOP_S)
        for again in (signal.SIGTERM, signal.SIGINT):
            daemon.process.send_signal(again)
        assert daemon.process.wait(STOP_S) == -signal.SIGTERM
