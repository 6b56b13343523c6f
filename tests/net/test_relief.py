"""All clients together hold too much: those who hold most give, and who keeps up notices nothing."""

from __future__ import annotations

from twisted.logger import LogEvent

from gateway.core.deviceproof import DeviceIdentity
from gateway.core.events import Event
from tests.net.gate import UI, Client, Gate, closings, limited

CAP = 100_000


def stuck(gate: Gate, count: int) -> list[Client]:
    """Return clients that read nothing any more."""
    clients = [gate.join() for _ in range(count)]
    for client in clients:
        client.server.pauseProducing()
    return clients


def publish(gate: Gate, name: str, size: int, clients: list[Client]) -> None:
    """Send an event to some clients."""
    conn_ids = [client.server.conn_id for client in clients]
    gate.wiring.services.hub.send_to(Event(name, {"x": "x" * size}), conn_ids, "main")


def test_the_largest_is_closed_and_told_why(log: list[LogEvent]) -> None:
    """Over the total the largest is closed as a slow consumer; its line names the setting and the losses."""
    gate = limited(outbox_total_bytes=CAP)
    quick = gate.join()
    small, large = stuck(gate, 2)
    total = gate.wiring.edge.outboxes
    for number in range(40):
        publish(gate, "session.message", 3_000, [large, quick])
        if number % 4 == 0:
            publish(gate, "session.message", 3_000, [small, quick])
        assert total.held <= CAP
    assert large.closed() == (1008, "slow consumer")
    assert small.closed() is None
    assert quick.server.closing is None
    assert [m["seq"] for m in quick.received()] == list(range(1, 51))
    large.wire.lose()
    (line,) = closings(log)
    assert (line["cause"], line["limit"]) == ("slow-consumer", "outbox_total_bytes")
    assert set(line["dropped"]) == {"must"}
    assert line["queuedBytes"] > 60_000
    small.server.resumeProducing()
    assert [m["seq"] for m in small.received()] == list(range(1, 11))
    assert total.held == 0


def test_what_is_droppable_goes_first(log: list[LogEvent]) -> None:
    """As long as there is something to shed nobody is closed, and each shed frame is counted."""
    gate = limited(outbox_total_bytes=CAP)
    small, large = stuck(gate, 2)
    publish(gate, "presence", 1_000, [small])
    for _ in range(300):
        publish(gate, "presence", 1_000, [large])
        assert gate.wiring.edge.outboxes.held <= CAP
    assert small.closed() is large.closed() is None
    shed = large.server.outbox.dropped
    assert shed > 200
    assert small.server.outbox.dropped == 0
    metrics = gate.wiring.metrics.render().decode()
    assert f'gateway_outbox_dropped_total{{class="droppable"}} {shed}.0' in metrics
    large.server.resumeProducing()
    assert large.received()[0]["seq"] == shed + 1


def test_the_rest_of_a_long_message_counts(log: list[LogEvent]) -> None:
    """What a client has not taken of a long message is held for it, and may cost it the connection."""
    gate = limited(outbox_total_bytes=1_000_000)
    clients = [gate.join() for _ in range(3)]
    for client in clients:
        real = client.wire.write

        def write(data: bytes, client: Client = client, real: object = real) -> None:
            real(data)  # type: ignore[operator]
            client.server.pauseProducing()

        client.wire.write = write  # type: ignore[method-assign]
    publish(gate, "session.message", 600_000, clients[:1])
    assert clients[0].server.outbox.queued == 0
    assert 500_000 < gate.wiring.edge.outboxes.held < 600_000
    publish(gate, "session.message", 400_000, clients[1:2])
    publish(gate, "session.message", 200_000, clients[2:])
    assert clients[0].closed() == (1008, "slow consumer")
    assert 500_000 < gate.wiring.edge.outboxes.held < 600_000
    clients[0].wire.lose()
    assert closings(log)[0]["dropped"] == {"must": 1}
    for client in clients[1:]:
        while client.server.waiting:
            client.server.resumeProducing()
        assert len(client.received()) == 1
    assert gate.wiring.edge.outboxes.held == 0


def test_a_close_that_tells_others_is_no_second_relief() -> None:
    """The news that one is closed waits for the others too; the relief under way takes care of that."""
    gate = limited(outbox_total_bytes=CAP)
    people = [
        gate.join(client=UI, device=DeviceIdentity.from_seed(bytes([seed]) * 32))
        for seed in range(1, 9)
    ]
    for client in people:
        client.server.pauseProducing()
    gate.clock.advance(5)  # so that the first to go is told of at once
    for _ in range(20):
        publish(gate, "session.message", 1_500, people)
        assert gate.wiring.edge.outboxes.held <= CAP
    left = [client for client in people if client.server.closing is None]
    assert 0 < len(left) < 8
    for client in people:
        assert client in left or client.closed() == (1008, "slow consumer")
    for client in left:
        client.server.resumeProducing()
    assert gate.wiring.edge.outboxes.held == 0
