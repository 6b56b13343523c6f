"""``twistd -n gateway`` without any configuration: its files, its lines, a turn, its probes, lost clients."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import gatherResults
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint
from zope.interface import implementer

from gateway.client import Outcome
from tests.integration.daemon import TWISTD, Daemon, running, soon, until

pytestmark = pytest.mark.integration

reactor: Any = installed_reactor
LOST = 50


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A gateway that was told nothing but a port."""
    with running(tmp_path_factory.mktemp("daemon")) as daemon:
        print(f"\nready after {daemon.started_in_s:.2f} s, {daemon.rss_mb:.1f} MB")
        yield daemon


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_files_of_the_first_start(daemon: Daemon) -> None:
    """The first start makes a private state directory with a token that only its owner may read."""
    assert daemon.state == daemon.world.directory / "xdg" / "gateway"
    assert mode_of(daemon.state) == 0o700
    assert mode_of(daemon.state / "token") == 0o600
    assert len(daemon.token) == 43
    private = [path for path in daemon.state.rglob("*") if path.is_file()]
    assert {mode_of(path) for path in private} == {0o600}


def test_three_lines(daemon: Daemon) -> None:
    """Three lines say where it listens, where the token lies and how to connect; none has the token."""
    until(lambda: daemon.lines("connect with"), 5)
    said = [
        each["message"]
        for each in daemon.records()
        if each["logger"].startswith("gateway.service") and each["message"] in daemon.output
    ]

    assert said[:3] == [
        f"gateway ready url={daemon.url}",
        f"token: {daemon.state / 'token'}",
        "connect with: gatewayctl chat (here), or any OpenClaw client at that address",
    ]
    assert daemon.token not in daemon.output


def test_no_line_of_the_start_comes_twice(daemon: Daemon) -> None:
    """The log has each line once, those included that came before twistd began its own."""
    until(lambda: daemon.lines("connect with"), 5)
    lines = daemon.records()
    early = [each for each in lines if each["message"].startswith("SwitchFactory starting on ")]
    assert len(early) == 1
    assert lines[0] == early[0]


@pytest_twisted.ensureDeferred
async def test_a_turn(daemon: Daemon) -> None:
    """The demo agent answers a turn; the log has the end of the run and of the connection."""
    client = await daemon.connect(reactor)
    run = client.chat("hello  out\tthere")
    ended = await run.result()
    await client.close()

    assert (ended.outcome, ended.text) == (Outcome.FINAL, "hello  out\tthere")
    closed = f"closed conn={client.hello.conn_id} cause=peer-closed code=1000"
    await soon(reactor, lambda: daemon.lines(closed))
    assert len(daemon.lines(f"run ended run={run.run_id}")) == 1
    assert len(daemon.lines(f"closed conn={client.hello.conn_id}")) == 1


def test_log_file_is_of_the_day(daemon: Daemon) -> None:
    """The structured log is a file by day, and every line says when it was written."""
    (file,) = (daemon.state / "logs").iterdir()
    record = daemon.records()[0]

    assert file.name == f"gateway-{record['time'][:10]}.jsonl"


def test_probes(daemon: Daemon) -> None:
    """The three probes answer 200 on the port of the clients, and take nothing but reading."""
    assert daemon.probe("/healthz").body == {"ok": True, "status": "live"}
    ready, started = daemon.probe("/readyz"), daemon.probe("/startupz")
    assert (ready.status, ready.body["ready"], ready.body["failing"]) == (200, True, [])
    assert (started.status, started.body["status"]) == (200, "started")
    assert [daemon.probe(path, "HEAD").status for path in ("/healthz", "/readyz")] == [200, 200]
    assert daemon.probe("/readyz", "POST").status == 405
    assert daemon.probe("/readyz/deeper").status == 404


@implementer(IStreamClientEndpoint)
class Kept:
    """An endpoint that keeps the protocols that it made."""

    def __init__(self, port: int) -> None:
        self.endpoint = HostnameEndpoint(reactor, b"127.0.0.1", port)
        self.made: list[Any] = []

    def connect(self, protocolFactory: Any) -> Any:
        def keep(protocol: Any) -> Any:
            self.made.append(protocol)
            return protocol

        return self.endpoint.connect(protocolFactory).addCallback(keep)


@pytest_twisted.ensureDeferred
async def test_clients_that_vanish(daemon: Daemon) -> None:
    """Fifty clients that end by a reset leave no socket, and each has one line that says so."""
    before = daemon.descriptors
    endpoint = Kept(daemon.port)
    clients = await gatherResults([daemon.connect(reactor, endpoint=endpoint) for _ in range(LOST)])
    assert daemon.descriptors >= LOST

    closing = [client.when_closed() for client in clients]
    for protocol in endpoint.made:
        protocol.transport.abortConnection()
    await gatherResults(closing)

    await soon(reactor, lambda: daemon.descriptors <= before)
    for client in clients:
        (line,) = daemon.lines(f"closed conn={client.hello.conn_id}")
        assert "cause=peer-gone code=1006" in line


def test_defaults_are_told(daemon: Daemon) -> None:
    """The help names the options, the default address and the environment."""
    told = daemon.world.run(TWISTD, "gateway", "--help").stdout

    for word in ("--config", "--listen", "--state-dir", "--token-file", "127.0.0.1:18789"):
        assert word in told
    for word in ("GATEWAY_CONFIG", "GATEWAY_LISTEN", "GATEWAY_STATE_DIR", "GATEWAY_TOKEN"):
        assert word in told
