"""A transport that fails at the n-th write, for every n of a connection's life."""

from __future__ import annotations

import pytest
from twisted.internet.error import ConnectionLost
from twisted.logger import LogEvent

from gateway.core.events import Event
from gateway.errors import CloseCause, CloseCode
from gateway.testing import TOKEN
from tests.net.gate import CLI, SCOPES, Client, Gate, closings
from tests.net.wire import Wire, masked
from tests.unmeasured import unmeasured

LONG = "x" * 150_000
WRITES = 60
"""More than the scenario has; a test says so."""


class FailingWire(Wire):
    """Fails at its n-th write, and at all that follow if it is to stay broken."""

    def __init__(self, fails_at: int, *, stays: bool) -> None:
        super().__init__()
        self.writes = 0
        self._fails_at = fails_at
        self._stays = stays

    def write(self, data: bytes) -> None:
        self.writes += 1
        if self.writes == self._fails_at or (self._stays and self.writes > self._fails_at):
            raise OSError("broken pipe")
        super().write(data)


def live(gate: Gate, wire: FailingWire, run_id: str) -> tuple[Client, int]:
    """Live a whole life on a wire: shake hands, ask, listen, wait, close. Return where the close begins."""
    hub = gate.wiring.services.hub
    client = Client(gate, wire)
    params = {"minProtocol": 4, "maxProtocol": 4, "client": CLI, "scopes": SCOPES}
    client.request("connect", params | {"auth": {"token": TOKEN}})
    client.request("health")
    client.request("sessions.list")
    client.wire.receive(masked(b"are you there", 9))
    for _ in range(3):
        hub.broadcast(Event("tick", {"ts": 1}))
    client.server.deliver_direct(Event("tick", {"ts": 2}))
    client.server.pauseProducing()
    for name in ("agent", "presence", "agent"):
        hub.broadcast(Event(name, {"text": "x" * 1000}))
    client.request("health")
    client.server.resumeProducing()
    hub.broadcast(Event("agent", {"text": LONG}))
    client.send(type="req", id=LONG, method="health")
    client.request("chat.send", {"sessionKey": "main", "message": "a b", "idempotencyKey": run_id})
    gate.clock.pump([0.05] * 20)
    gate.clock.advance(5)
    gate.wiring.factory.sweep()
    begin = wire.writes
    client.server.close(CloseCause.DRAIN, CloseCode.RESTART, "service restart")
    wire.lose(ConnectionLost("reset"))
    return client, begin


def test_the_scenario_has_many_writes(gate: Gate, log: list[LogEvent]) -> None:
    """On a wire that does not fail there are some twenty writes, the last of them the close frame."""
    wire = FailingWire(0, stays=False)
    client, begin = live(gate, wire, "k")
    assert 20 < wire.writes == begin + 1 < WRITES
    assert client.closed() == (1012, "service restart")
    assert closings(log)[0]["cause"] == "drain"


def writes(wire: FailingWire) -> list[bytes]:
    """Return what was written."""
    return [entry[1] for entry in wire.log if entry[0] == "write"]


@pytest.mark.parametrize("stays", [True, False], ids=["for good", "once"])
@unmeasured
def test_whichever_write_fails_it_is_told_once(
    gate: Gate, log: list[LogEvent], stays: bool
) -> None:
    """One close as send-error, one `send failed` line, an abort, nothing left, others are served."""
    other = gate.join()
    last = 0
    for number in range(1, WRITES):
        del log[:]
        other.wire.receive(masked(b"", 10))
        wire = FailingWire(number, stays=stays)
        client, begin = live(gate, wire, f"run-{number}")
        failed = [e["conn"] for e in log if str(e.get("log_format")).startswith("send failed")]
        (line,) = closings(log)
        if number <= begin:
            assert (line["cause"], line["code"]) == ("send-error", 1011), number
            assert failed == [client.server.conn_id]
            assert ("abort",) in wire.log
            assert len(writes(wire)) == number - 1, "something was written after the failure"
        else:
            assert (line["cause"], line["alsoCause"]) == ("drain", "send-error")
            assert failed == []
            assert ("abort",) in wire.log
        edge = gate.wiring.edge
        assert len(gate.wiring.factory) == len(gate.wiring.services.hub) == 1
        assert edge.outboxes.held == 0
        assert len(edge.strangers) == len(edge.deadlines) == 0
        assert len(edge.farewells) == len(edge.halfway) == 0
        assert client.server._running == {}
        numbers = [m["seq"] for m in other.received() if m["type"] == "event"]
        assert numbers == list(range(last + 1, last + 1 + len(numbers)))
        assert len(numbers) >= 7, "the others get every broadcast"
        last = numbers[-1]
        if number > begin:
            break
    else:
        raise AssertionError("the scenario has more writes than that")
    assert other.call("health")["ok"]
    gate.clock.advance(600)
    assert gate.clock.getDelayedCalls() == []
