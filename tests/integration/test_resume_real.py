"""Runs read over real sockets that break, from a gateway in a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint
from zope.interface import implementer

from gateway.client import Outcome
from gateway.client.actions import Event
from gateway.client.retry import Reconnect
from tests.integration.daemon import Daemon, running

pytestmark = pytest.mark.integration

reactor: Any = installed_reactor
CONFIG = '[agents.main]\nbackend = "demo"\nword_delay_ms = 5\n'
CUTS = 20
TEXT = " ".join(f"word{number}" for number in range(500))


@implementer(IStreamClientEndpoint)
class Breaking:
    """An endpoint whose connections are reset after so many events each, as often as is asked for."""

    def __init__(self, port: int, cuts: list[int]) -> None:
        self._endpoint = HostnameEndpoint(reactor, b"127.0.0.1", port)
        self._cuts = cuts
        self._events = 0
        self._protocol: Any = None
        self.connections = 0

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        self.connections += 1
        self._events = 0
        connecting: Deferred[Any] = self._endpoint.connect(protocolFactory)
        return connecting.addCallback(self._made)

    def _made(self, protocol: Any) -> Any:
        self._protocol = protocol
        return protocol

    def heard(self, notice: Any) -> None:
        """Count an event; the connection is cut right behind it."""
        if not isinstance(notice, Event) or not self._cuts or self._protocol is None:
            return  # what was read before the cut is still told
        self._events += 1
        if self._events == self._cuts[0]:
            self._cuts.pop(0)
            self._protocol.transport.abortConnection()
            self._protocol = None


async def read(daemon: Daemon, number: int) -> tuple[Any, str, int]:
    """Read a run on connections that break; return its end, what was told, and how many there were."""
    endpoint = Breaking(daemon.port, [1 + number, 2 + number % 7])
    policy = Reconnect(first_s=0.05, fraction=lambda: 1.0)
    client = await daemon.connect(
        reactor, endpoint=endpoint, reconnect=policy, caps=("session-scoped-events",)
    )
    await client.call("sessions.messages.subscribe", {"key": f"session-{number}"})
    client.on_event(endpoint.heard)
    told, ended = "", []
    async for event in client.chat("/tokens 500", f"session-{number}"):
        if hasattr(event, "outcome"):
            ended.append(event)
        else:
            told = told + event.text if type(event).__name__ == "TextDelta" else event.text
    await client.close()
    (end,) = ended
    return end, told, endpoint.connections


@pytest_twisted.ensureDeferred
async def test_connections_that_are_cut_in_a_run(tmp_path: Path) -> None:
    """Twenty runs, each read on connections that are reset twice, are told byte for byte, with one end."""
    config = tmp_path / "gateway.toml"
    config.write_text(CONFIG)
    with running(tmp_path, "--config", config) as daemon:
        reads = [Deferred.fromCoroutine(read(daemon, number)) for number in range(CUTS)]
        results = await gatherResults(reads, consumeErrors=True)

    for end, told, connections in results:
        assert end.outcome is Outcome.FINAL
        assert end.text == told == TEXT
        assert connections == 3
