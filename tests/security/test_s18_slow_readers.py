"""A client asks for much and reads nothing of it (attack 18)."""

from __future__ import annotations

from twisted.logger import LogEvent

from gateway.core.events import Event
from tests.net.gate import Gate, closings, limited


def test_s18_who_does_not_read_his_answers_is_not_read_either(gate: Gate) -> None:
    """Requests of who does not read are not taken up any more: what waits for him is bounded."""
    client = gate.join()
    client.server.pauseProducing()
    for _ in range(200):
        if client.wire.producerState != "producing":
            break
        for _ in range(50):
            client.request("config.get", {})
    assert client.wire.producerState == "paused"
    assert client.server.queued_bytes < gate.wiring.edge.limits.outbox_bytes / 2


def test_s18_who_reads_nothing_is_let_go(log: list[LogEvent]) -> None:
    """When too much waits for one client it is closed with 1008, and all of it is freed."""
    gate = limited(outbox_bytes=100_000)
    client, other = gate.join(), gate.join()
    client.server.pauseProducing()
    while client.server.closing is None:
        gate.wiring.services.hub.broadcast(Event("chat", {"state": "final", "text": "x" * 9000}))
        other.received()
    assert client.server.queued_bytes < 100_000
    gate.clock.advance(12)
    client.wire.lose()
    (line,) = closings(log)
    assert (line["cause"], line["code"]) == ("slow-consumer", 1008)
    assert other.call("health")["ok"], "nobody else notices"


def test_s18_twin_a_slow_reader_that_reads_is_kept(log: list[LogEvent]) -> None:
    """Who reads slowly but does read gets everything that must arrive, in order."""
    gate = limited(outbox_bytes=100_000)
    client = gate.join()
    for number in range(40):
        client.server.pauseProducing()
        for part in range(4):
            payload = {"state": "final", "n": 4 * number + part, "text": "x" * 9000}
            gate.wiring.services.hub.broadcast(Event("chat", payload))
        gate.clock.advance(3)
        client.server.resumeProducing()
        gate.clock.advance(0)
    got = [f["payload"]["n"] for f in client.received() if f.get("event") == "chat"]
    assert got == list(range(160))
    assert closings(log) == []
