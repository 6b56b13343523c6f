"""Deploys: the daemon drains, another takes over, and what was saved is put back."""

from __future__ import annotations

import http.client
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from gateway.client import ConnectionLost, RequestFailed
from gateway.client.chat import message_text
from tests.integration.daemon import STOP_S, Daemon, Ended, Watched, running, soon

pytestmark = pytest.mark.integration

reactor: Any = installed_reactor
GATEWAYCTL = Path(sys.executable).parent / "gatewayctl"
WORDS = 40
ANSWER = "".join(f"word{number} " for number in range(WORDS)).strip()


def ctl(daemon: Daemon, *args: str | Path) -> Any:
    """Run gatewayctl beside a daemon; returns a Deferred of how it ended."""
    run: Callable[..., Ended] = daemon.world.run
    return deferToThread(run, GATEWAYCTL, *args)


def probe_on(connection: http.client.HTTPConnection) -> tuple[int, list[str]]:
    """Ask whether the gateway is ready, on a connection that is open already."""
    connection.request("GET", "/readyz")
    response = connection.getresponse()
    return response.status, json.loads(response.read()).get("failing", [])


def answered(each: Watched, run_id: str) -> None:
    """Check that a client saw a run's whole answer and then the close of a restart."""
    (end,) = each.chat(run_id, "final", "aborted", "error")
    assert (end["state"], message_text(end["message"])) == ("final", ANSWER)
    names = [event.name for event in each.events]
    assert names.index("shutdown") < len(names) - names[::-1].index("chat")


@pytest_twisted.ensureDeferred
async def test_deploy(tmp_path: Path) -> None:
    """A drain by gatewayctl waits for the run, keeps what waits, and returns when the next one can start."""
    with running(tmp_path) as first:
        clients = [Watched(await first.connect(reactor, protocol=number)) for number in (3, 4)]
        for text, run_id in (("/hang", "going"), ("next", "waiting")):
            sent = {"sessionKey": "deploy", "message": text, "idempotencyKey": run_id}
            assert (await clients[0].client.call("chat.send", sent))["status"] == "started"

        draining = ctl(first, "drain", "--grace", "60", "--wait", "--reason", "deploy")
        await soon(reactor, lambda: all(each.payloads("shutdown") for each in clients))
        late = {"sessionKey": "other", "message": "hello", "idempotencyKey": "late"}
        with pytest.raises(RequestFailed) as refused:
            await clients[1].client.call("chat.send", late)
        assert (refused.value.retryable, refused.value.retry_after_ms) == (True, 1000)
        await clients[1].client.call("chat.abort", {"sessionKey": "deploy", "runId": "going"})
        done = await draining

        assert (done.status, done.stderr) == (0, "")
        first_line, *looks, closed, gone = done.stdout.splitlines()
        assert first_line == (
            "draining: 3 connections, 1 run may go on for 60 s, 1 waiting run kept for the next start"
        )
        assert looks in ([], ["0 runs left"])  # it may be closed before the next look
        assert (closed, gone) == ("closed: service restart (1012)", "the gateway is gone")
        for each in clients:
            lost = await each.closed
            assert isinstance(lost, ConnectionLost)
            assert (lost.code, lost.reason) == (1012, "service restart")
            (end,) = each.chat("going", "final", "aborted", "error")
            assert end["stopReason"] == "rpc"
            assert each.chat("waiting", "final", "aborted", "error") == []
        assert clients[0].payloads("shutdown") == [{"reason": "deploy", "restartExpectedMs": None}]
        assert clients[1].payloads("shutdown") == [{"reason": "deploy"}]
        assert await deferToThread(first.process.wait, STOP_S) == 0

    with running(tmp_path) as second:
        client = await second.connect(reactor)
        said = await client.call("chat.history", {"sessionKey": "deploy"})
        assert [message_text(each) for each in said["messages"]][:2] == ["/hang", "next"]
        await client.close()


@pytest_twisted.ensureDeferred
async def test_sigterm_lets_a_run_finish(tmp_path: Path) -> None:
    """SIGTERM: a run that needs less than the grace ends by itself; then everything is over at once.

    Clients of both versions see the whole answer, then 1012.
    """
    config = tmp_path / "gateway.toml"
    config.write_text("[limits]\ndrain_grace_s = 600.0\n")
    with running(tmp_path, "--config", config) as daemon:
        clients = [Watched(await daemon.connect(reactor, protocol=number)) for number in (3, 4)]
        run = clients[1].client.chat(f"/tokens {WORDS}", "short")
        await soon(reactor, lambda: all("word1" in each.text(run.run_id) for each in clients))

        await deferToThread(daemon.stop)

        for each in clients:
            lost = await each.closed
            assert isinstance(lost, ConnectionLost)
            assert (lost.code, lost.reason) == (1012, "service restart")
            answered(each, run.run_id)


@pytest_twisted.ensureDeferred
async def test_second_signal(tmp_path: Path) -> None:
    """Ctrl-C twice: the grace, however long it is, is over; the run gets its one end.

    Before that the gateway drains: no port, and a probe on an old connection hears that it is not ready.
    """
    config = tmp_path / "gateway.toml"
    config.write_text("[limits]\ndrain_grace_s = 600.0\n")
    with running(tmp_path, "--config", config) as daemon:
        each = Watched(await daemon.connect(reactor))
        await each.client.call(
            "chat.send", {"sessionKey": "s", "message": "/hang", "idempotencyKey": "run"}
        )
        old = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=STOP_S)
        assert probe_on(old) == (200, [])
        daemon.process.send_signal(signal.SIGINT)
        await soon(reactor, lambda: each.payloads("shutdown"))
        assert each.chat("run", "aborted") == []
        assert daemon.probe("/readyz").status == 0
        assert probe_on(old) == (503, ["draining"])
        old.close()
        daemon.process.send_signal(signal.SIGINT)
        await each.closed
        (end,) = each.chat("run", "final", "aborted", "error")
        assert (end["state"], end["stopReason"]) == ("aborted", "shutdown")
        await deferToThread(daemon.process.wait, STOP_S)


@pytest_twisted.ensureDeferred
async def test_takeover_after_kill(tmp_path: Path) -> None:
    """After kill -9, in a run, the next process on the directory and the port is ready at once."""
    with running(tmp_path) as first:
        client = await first.connect(reactor)
        sent = {"sessionKey": "killed", "message": "/hang", "idempotencyKey": "run"}
        await client.call("chat.send", sent)
        first.kill()
        with running(tmp_path, port=first.port, GATEWAY_LISTEN=f"127.0.0.1:{first.port}") as second:
            # At once means with the first attempt: the start was not refused.
            assert json.loads((second.state / "lock").read_text())["pid"] == second.process.pid
            assert second.probe("/readyz").status == 200
        await client.when_closed()


@pytest_twisted.ensureDeferred
async def test_backup_under_load(tmp_path: Path) -> None:
    """A backup that is written while turns are stored has what was said before it, and is put back."""
    with running(tmp_path) as daemon:
        client = await daemon.connect(reactor)
        assert (await client.chat("before", "kept").result()).text == "before"
        said: list[str] = []
        writing = True

        async def write() -> None:
            while writing:
                text = f"turn {len(said)}"
                await client.chat(text, "load").result()
                said.append(text)

        load = Deferred.fromCoroutine(write())
        # A backup of so little may be done before the next turn is: another is taken until one was not.
        for number in range(100):
            saved, before = tmp_path / f"saved-{number}.db", len(said)
            done = await ctl(daemon, "backup", saved)
            assert (done.status, done.stderr) == (0, "")
            if len(said) > before > 0:
                break
        else:
            pytest.fail("no turn was stored while a backup was taken")
        writing = False
        await load

        refused = await ctl(daemon, "restore", saved)
        assert refused.status == 1
        assert f"is in use by gateway pid {daemon.process.pid}" in refused.stderr
        await client.chat("after", "kept").result()
        await client.close()
        await deferToThread(daemon.stop)

        restored = await ctl(daemon, "restore", saved)
        assert (restored.status, restored.stderr) == (0, "")
        assert "kept what was there" in restored.stdout

    with running(tmp_path) as daemon:
        client = await daemon.connect(reactor)
        history = await client.call("chat.history", {"sessionKey": "kept"})
        assert [message_text(each) for each in history["messages"]] == ["before", "before"]
        await client.close()
