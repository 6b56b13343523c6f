"""The service that ``makeService`` returns: its parts, its defaults, and that stopping it stops all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.application.service import IService, MultiService
from twisted.internet import reactor as installed_reactor

from gateway.app.periodic import Pruner
from gateway.config import load
from gateway.core.run import RunOutcome
from gateway.model import RunState
from gateway.service import GatewayService, make_gateway
from gateway.statedir import StateDirectory
from gateway.tap import Options, makeService
from gateway.testing import FakeClock, FakeEntropy
from tests.integration.daemon import probe, soon

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


@pytest_twisted.ensureDeferred
async def test_parts_start_and_stop_together(tmp_path: Path) -> None:
    """The pruner sweeps every 60 s of the injected clock, and stops with the gateway: nothing is pending."""
    clock = FakeClock()
    state = StateDirectory(tmp_path / "state")
    whole = make_gateway(
        GatewayService(
            loaded=load(None, {}),
            listen_specs=["127.0.0.1:0"],
            state=state,
            token_file=None,
            environ={},
            reactor=reactor,
            clock=clock,
            entropy=FakeEntropy(),
        )
    )
    gateway, pruner = parts(whole)
    window = gateway.services.runs.window
    window.claim("key", "content", "run", clock.now_ms())
    window.settle("key", OUTCOME, clock.now_ms())
    whole.privilegedStartService()
    assert gateway.failing() == ["start", "agent"]
    whole.startService()
    assert gateway.failing() == ["start"]
    assert not gateway.started()
    await soon(reactor, gateway.started)
    assert gateway.failing() == []
    assert state.announced_url() == gateway.urls[0]

    for _ in range(5):
        assert "key" in window.claims
        clock.advance(60)
    assert "key" not in window.claims

    await soon(reactor, lambda: gateway.store.pending == 0)
    await whole.stopService()
    assert not gateway.running
    assert not pruner.running
    assert clock.getDelayedCalls() == []
    assert probe(int(gateway.urls[0].rpartition(":")[2]), "/healthz").status == 0
    state.lock(clock)
    state.unlock()
