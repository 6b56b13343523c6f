"""The service that ``makeService`` returns: its parts, its defaults, and that stopping it stops all of it."""

from __future__ import annotations

import sqlite3
import ssl
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
import trustme
from twisted.application.service import IService, MultiService
from twisted.internet import reactor as installed_reactor
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThread

from gateway.app.periodic import Pruner
from gateway.config import load
from gateway.core.run import RunOutcome
from gateway.errors import StoreError
from gateway.model import RunState
from gateway.net.certificates import LOOK_S
from gateway.service import START_PAUSE_S, GatewayService, make_gateway
from gateway.statedir import StateDirectory
from gateway.store import sqlite
from gateway.store.health import PROBE_S
from gateway.tap import Options, makeService
from gateway.testing import FakeClock, FakeEntropy
from tests.integration.daemon import log_records, probe, soon

pytestmark = pytest.mark.integration

reactor: Any = installed_reactor
OUTCOME = RunOutcome(
    run_id="run",
    session_key="agent:main:main",
    session_id="session",
    state=RunState.DONE,
    started_at_ms=0,
    ended_at_ms=0,
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, and nothing about a gateway in the environment."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("GATEWAY_CONFIG", "GATEWAY_LISTEN", "GATEWAY_STATE_DIR", "GATEWAY_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def parts(service: IService) -> tuple[GatewayService, Pruner]:
    """Return the children of the service that makeService returned."""
    assert isinstance(service, MultiService)
    gateway, pruner = service
    assert isinstance(gateway, GatewayService)
    assert isinstance(pruner, Pruner)
    return gateway, pruner


def test_defaults(home: Path) -> None:
    """Without options it would listen on 127.0.0.1:18789 and keep its state in the user's directory."""
    gateway, pruner = parts(makeService(Options()))

    assert gateway.config.server.listen == ["127.0.0.1:18789"]
    assert gateway.state.path == home / "state" / "gateway"
    assert [agent.kind for agent in gateway.services.agents] == ["demo"]
    assert gateway.config.auth.mode == "token"
    assert pruner.interval_s == 60.0
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "pidfile"),
    [
        (["twistd", "gateway"], ""),
        (["twistd", "--pidfile=twistd.pid", "gateway"], "twistd.pid"),
        (["twistd", "--pidfile", "twistd.pid", "gateway"], "twistd.pid"),
        (["twistd", "--pidfile=/run/gateway.pid", "gateway"], "/run/gateway.pid"),
    ],
)
def test_pidfile(monkeypatch: pytest.MonkeyPatch, arguments: list[str], pidfile: str) -> None:
    """Twistd writes a pidfile only where the user asks for one: the state directory has a lock."""
    monkeypatch.setattr(sys, "argv", arguments)
    options: Any = Options()
    options.parent = {"pidfile": "/run/gateway.pid" if "/run" in pidfile else "twistd.pid"}

    options.parseOptions([])

    assert options.parent["pidfile"] == pidfile


class InProcess:
    """A gateway in the test's own process, on a fake clock and a free port."""

    def __init__(self, directory: Path, listen: str = "127.0.0.1:0") -> None:
        self.clock = FakeClock()
        self.state = StateDirectory(directory / "state")
        self.whole = make_gateway(
            GatewayService(
                loaded=load(None, {}),
                listen_specs=[listen],
                state=self.state,
                token_file=None,
                environ={},
                reactor=reactor,
                clock=self.clock,
                entropy=FakeEntropy(),
            )
        )
        self.gateway, self.pruner = parts(self.whole)

    async def stop(self) -> None:
        """Stop it, with nothing under way in the store."""
        await soon(reactor, lambda: self.gateway.store.pending == 0)
        await self.whole.stopService()


@pytest_twisted.ensureDeferred
async def test_parts_start_and_stop_together(tmp_path: Path) -> None:
    """The pruner sweeps every 60 s of the injected clock, and stops with the gateway: nothing is pending."""
    here = InProcess(tmp_path)
    gateway, clock, state = here.gateway, here.clock, here.state
    window = gateway.services.runs.window
    window.claim("key", "content", "run", clock.seconds())
    window.settle("key", OUTCOME, clock.seconds())
    here.whole.privilegedStartService()
    assert gateway.failing() == ["start", "agent"]
    here.whole.startService()
    assert gateway.failing() == ["start"]
    assert not gateway.started()
    await soon(reactor, gateway.started)
    assert gateway.failing() == []
    assert state.announced_url() == gateway.urls[0]

    for _ in range(5):
        assert "key" in window.claims
        clock.advance(60)
    assert "key" not in window.claims

    await here.stop()
    assert not gateway.running
    assert not here.pruner.running
    assert clock.getDelayedCalls() == []
    assert probe(int(gateway.urls[0].rpartition(":")[2]), "/healthz").status == 0
    state.lock(clock)
    state.unlock()


@pytest_twisted.ensureDeferred
async def test_start_waits_for_the_store(tmp_path: Path) -> None:
    """While the store can't do what the start needs, /startupz says 503; the start goes on when it can."""
    here = InProcess(tmp_path)
    here.whole.privilegedStartService()
    with closing(sqlite3.connect(here.state.database)) as database:
        database.execute("ALTER TABLE runs RENAME TO away")
        here.whole.startService()
        await soon(reactor, lambda: log_lines(here, "the start waits for the store"))
        assert here.gateway.failing() == ["start"]
        database.execute("ALTER TABLE away RENAME TO runs")

    here.clock.advance(START_PAUSE_S)
    await soon(reactor, here.gateway.started)

    await here.stop()
    assert len(log_lines(here, "gateway ready")) == 1


@pytest_twisted.ensureDeferred
async def test_degraded_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing can be written /readyz and one line of the log say so and why; then it goes on."""
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_MS", 200)
    here = InProcess(tmp_path)
    here.whole.privilegedStartService()
    here.whole.startService()
    await soon(reactor, here.gateway.started)
    sessions = here.gateway.services.sessions
    port = int(here.gateway.urls[0].rpartition(":")[2])
    with closing(sqlite3.connect(here.state.database, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        for _ in range(2):
            with pytest.raises(StoreError, match="database is locked"):
                await sessions.create("agent:main:refused")
        ready = await deferToThread(probe, port, "/readyz")
        database.execute("ROLLBACK")

    assert (ready.status, ready.body["failing"], ready.body["state"]) == (
        503,
        ["store"],
        "degraded",
    )
    reason = ready.body["reasons"]["store"]
    assert reason.startswith("another program has locked the database")
    assert log_lines(here, "store failing") == [f"store failing reason={reason}"]
    here.clock.advance(PROBE_S)
    await soon(reactor, lambda: here.gateway.failing() == [])
    await sessions.create("agent:main:taken")
    assert await sessions.get("agent:main:refused") is None
    assert log_lines(here, "store works again")

    await here.stop()


@pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning")
@pytest_twisted.ensureDeferred
async def test_a_certificate_renewed_under_it(tmp_path: Path) -> None:
    """Who connects after the renewal is shown the new certificate; nobody restarted anything."""
    authority, pem = trustme.CA(), tmp_path / "both.pem"

    def issue() -> None:
        issued = authority.issue_cert("127.0.0.1")
        pem.write_bytes(issued.private_key_and_cert_chain_pem.bytes())

    def shown() -> str:
        port = int(here.gateway.urls[0].rpartition(":")[2])
        return ssl.get_server_certificate(("127.0.0.1", port), timeout=10)

    issue()
    here = InProcess(tmp_path, f"ssl:0:interface=127.0.0.1:privateKey={pem}")
    here.whole.privilegedStartService()
    here.whole.startService()
    await soon(reactor, here.gateway.started)
    passing = LoopingCall(here.clock.advance, 0.01)  # strangers may have to wait for their turn
    passing.start(0.01)
    before = await deferToThread(shown)
    issue()

    def taken() -> bool:
        here.clock.advance(LOOK_S)
        return bool(log_lines(here, "certificate read again"))

    await soon(reactor, taken)
    assert before != await deferToThread(shown)
    passing.stop()
    await here.stop()


@pytest_twisted.ensureDeferred
async def test_stop_in_the_middle_of_the_start(tmp_path: Path) -> None:
    """A gateway that is stopped before it was ready stops as any other, and never says that it is ready."""
    here = InProcess(tmp_path)
    here.whole.privilegedStartService()
    here.whole.startService()

    await here.whole.stopService()

    assert log_lines(here, "gateway stopped")
    assert not log_lines(here, "gateway ready")
    assert here.clock.getDelayedCalls() == []


def log_lines(here: InProcess, start: str) -> list[str]:
    """Return the messages of the log that start so."""
    messages = [record["message"] for record in log_records(here.state.path)]
    return [message for message in messages if message.startswith(start)]
