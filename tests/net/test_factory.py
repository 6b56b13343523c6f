"""The watch over all connections: pings, progress, age, and one that fails among many."""

from __future__ import annotations

from twisted.logger import LogEvent

from gateway.core.events import Event
from gateway.net import websocket
from gateway.net.factory import SWEEP_S
from tests.net.gate import Client, Gate, KernelQueue, boom, closings, limited
from tests.net.wire import close_frame, masked


def watch(gate: Gate, seconds: float, *alive: Client) -> None:
    """Let time pass with a look every 5 s; clients that are ``alive`` send a pong before each."""
    for _ in range(round(seconds / SWEEP_S)):
        gate.clock.advance(SWEEP_S)
        for client in alive:
            client.wire.receive(masked(b"", opcode=10))
        gate.wiring.factory.sweep()


def opcodes(client: Client) -> list[int]:
    """Return the opcodes of what came."""
    return [opcode for opcode, _ in client.frames()]


def test_a_silent_peer_is_pinged_and_then_given_up(gate: Gate, log: list[LogEvent]) -> None:
    """After 20 s of silence a ping goes out; without an answer or progress the peer is gone within 45 s."""
    client = gate.join()
    watch(gate, 15)
    assert opcodes(client) == []
    watch(gate, 10)
    assert opcodes(client) == [9]
    watch(gate, 10)
    assert opcodes(client) == []
    watch(gate, 10)
    assert client.closed() == (1008, "keepalive timeout")
    client.wire.lose()
    assert closings(log)[0]["cause"] == "keepalive-timeout"


def test_a_peer_that_answers_is_kept(gate: Gate) -> None:
    """Whatever a peer sends is a sign of life, and the next silence is counted anew."""
    client = gate.join()
    watch(gate, 25)
    client.wire.receive(masked(b"", opcode=10))
    watch(gate, 20)
    assert opcodes(client) == [9]
    watch(gate, 20)
    assert opcodes(client) == [9]
    assert client.server.closing is None


def test_a_slow_link_that_drains_is_kept(gate: Gate) -> None:
    """A peer whose bytes drain is alive even if its pong is late."""
    client = gate.join()
    for _ in range(40):
        watch(gate, 5)
        client.server.resumeProducing()
        assert 8 not in opcodes(client)


def test_what_the_kernel_drains_is_progress(gate: Gate) -> None:
    """Bytes that only the kernel still holds keep a peer alive while they become fewer, and no longer."""
    client = gate.join()
    queue = KernelQueue(client)
    queue.fill(30)
    watch(gate, 25)
    assert opcodes(client) == [9]
    for _ in range(20):
        queue.drain()
        watch(gate, 10)
    assert client.server.closing is None
    watch(gate, 20)
    assert client.closed() == (1008, "keepalive timeout")
    queue.close()


def test_a_frame_that_waits_too_long_is_a_slow_consumer() -> None:
    """A frame that waited longer than the age cap ends the connection."""
    gate = limited(outbox_age_s=30)
    client = gate.join()
    client.server.pauseProducing()
    gate.wiring.services.hub.broadcast(Event("agent", {"runId": "r"}))
    watch(gate, 30, client)
    assert client.closed() is None
    watch(gate, 5, client)
    assert client.closed() == (1008, "slow consumer")


def test_a_long_message_that_drains_holds_nobody_guilty() -> None:
    """What waits behind a long message does not age while that drains, but does when it sticks."""
    gate = limited(outbox_age_s=30)
    client = gate.join()
    real = client.wire.write

    def write(data: bytes) -> None:
        real(data)
        client.server.pauseProducing()

    client.wire.write = write  # type: ignore[method-assign]
    hub = gate.wiring.services.hub
    hub.broadcast(Event("agent", {"text": "x" * 300_000}))
    hub.broadcast(Event("agent", {"text": "behind"}))
    for _ in range(4):
        watch(gate, 25, client)
        client.server.resumeProducing()
    assert client.closed() is None
    watch(gate, 35, client)
    assert client.closed() == (1008, "slow consumer")


def test_strangers_and_the_closed_are_not_watched(gate: Gate) -> None:
    """Before connect the deadline judges, after the close the grace: neither is pinged."""
    stranger, closed = gate.open(), gate.join()
    closed.wire.receive(close_frame())
    for client in (stranger, closed):
        client.frames()
    watch(gate, 10)
    assert opcodes(stranger) == opcodes(closed) == []


def test_one_that_fails_does_not_keep_the_others_from_being_watched(
    gate: Gate, log: list[LogEvent], expected_failures: list[type[BaseException]]
) -> None:
    """Where looking after one connection raises, that one ends with 1011, and the others are looked after."""
    expected_failures.append(ZeroDivisionError)
    first, second, third = (gate.join() for _ in range(3))
    second.server.sendPing = boom
    watch(gate, 25)
    assert opcodes(first) == opcodes(third) == [9]
    assert second.closed() == (1011, "internal error")


def test_the_bytes_that_wait_are_a_gauge(gate: Gate) -> None:
    """Every look says how many bytes wait in all outboxes."""
    clients = [gate.join(), gate.join()]
    for client in clients:
        client.server.pauseProducing()
    gate.wiring.services.hub.broadcast(Event("agent", {"text": "x" * 10_000}))
    watch(gate, 5)
    assert 20_000 < gate.wiring.metrics.outbox_bytes < 22_000
    for client in clients:
        client.server.resumeProducing()
    watch(gate, 5)
    assert gate.wiring.metrics.outbox_bytes == 0


def test_nothing_is_left_of_closed_connections(gate: Gate) -> None:
    """After a hundred connections came and went no timer, no entry and no protocol is left."""
    for number in range(100):
        client = gate.join() if number % 2 else gate.open()
        if number % 3:
            client.wire.lose()
        else:
            client.wire.receive(close_frame(1000))
            client.wire.lose()
    gate.clock.advance(60)
    assert gate.clock.getDelayedCalls() == []
    assert len(gate.wiring.factory) == 0
    assert len(gate.wiring.services.hub) == 0
    edge = gate.wiring.edge
    assert len(edge.strangers) == len(edge.deadlines) == len(edge.farewells) == 0
    assert len(edge.halfway) == 0


def test_a_connection_is_a_key(gate: Gate) -> None:
    """Connections are told apart by identity: registries keep them as keys."""
    first, second = gate.open().server, gate.open().server
    assert first != second
    assert gate.wiring.factory.open_connections == [first, second]
    assert websocket.GatewayProtocol.__hash__ is object.__hash__
