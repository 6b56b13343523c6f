"""A client that asks faster than it is served: it is not read from, and what it costs is bounded."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.logger import LogEvent

from gateway.core.events import Event
from gateway.errors import CloseCause, CloseCode
from gateway.net.factory import SWEEP_S
from gateway.net.websocket import UNREAD_ANSWERS_BYTES
from tests.net.gate import Client, Gate, closings, limited
from tests.net.wire import close_frame, masked

GIGABYTE = 1_000_000_000


def numbered(first: int, count: int) -> bytes:
    """Return so many requests, as they come in one read."""
    return b"".join(
        masked(b'{"type":"req","id":"%d","method":"health"}' % number)
        for number in range(first, first + count)
    )


def reads(client: Client) -> bool:
    """Return whether the server takes bytes of this client."""
    state: str = client.wire.producerState
    return state == "producing"


def answered(client: Client) -> list[int]:
    """Return the numbers of the requests that were answered."""
    return [int(message["id"]) for message in client.received()]


def catch_up(client: Client) -> None:
    """Let the transport take whatever waits."""
    while client.server.waiting:
        client.server.resumeProducing()
        client.gate.clock.advance(0)


def test_a_flood_that_does_not_read_costs_a_bounded_amount(gate: Gate) -> None:
    """Of 1 GB of requests a client that reads nothing gets in what fills 1 MiB of answers, and all is answered when it reads."""  # noqa: E501
    client = gate.join()
    client.server.pauseProducing()
    offered = count = 0
    while reads(client) and offered < GIGABYTE:
        read = numbered(count, 1000)
        client.wire.receive(read)
        offered, count = offered + len(read), count + 1000
    box = client.server.outbox
    assert UNREAD_ANSWERS_BYTES < box.answers < UNREAD_ANSWERS_BYTES + 2_000
    assert box.answers == box.held == gate.wiring.edge.outboxes.held
    assert offered + len(client.server._unread) < 1_000_000
    assert answered(client) == []

    catch_up(client)
    assert reads(client)
    assert answered(client) == list(range(count))
    assert box.held == box.answers == 0
    assert client.server._unread == b""
    client.wire.receive(numbered(count, 1))
    assert answered(client) == [count]


def test_reading_goes_on_when_half_of_the_answers_are_gone() -> None:
    """A small outbox pauses at half of its bytes, and reading goes on at a quarter, not before."""
    gate = limited(outbox_bytes=100_000)
    client = gate.join()
    client.server.pauseProducing()
    client.wire.receive(numbered(0, 400))
    box = client.server.outbox
    assert 50_000 < box.answers < 52_000
    left = len(client.server._unread)
    while len(client.server._unread) == left:
        assert not reads(client)
        least = box.answers
        client.server._write_next()
        client.server.pace()
    assert 25_000 < least < 26_000
    assert 50_000 < box.answers < 52_000


def test_what_others_say_does_not_stop_the_reading(gate: Gate) -> None:
    """A client that is behind with events, its own included, can still say stop."""
    client = gate.join()
    client.server.pauseProducing()
    for _ in range(40):
        gate.wiring.services.hub.broadcast(Event("agent", {"text": "x" * 100_000}))
        client.server.deliver_direct(Event("agent", {"text": "x" * 100_000}))
    assert client.server.outbox.held > 7_000_000
    client.wire.receive(numbered(1, 1))
    assert reads(client)
    catch_up(client)
    assert client.received()[-1]["id"] == "1"


def test_requests_in_work_stop_the_reading() -> None:
    """With all places taken by what ends by itself nothing more is read, and nobody is told busy."""
    gate = limited(request_queue=2)
    client = gate.join()
    work = [Deferred[None](), Deferred[None](), Deferred[None]()]
    client.server._run(work[0], waits=True)
    assert reads(client)
    client.server._run(work[1], waits=False)
    assert not reads(client)
    client.wire.receive(numbered(0, 3))
    assert answered(client) == []
    work[1].callback(None)
    assert reads(client)
    assert answered(client) == [0, 1, 2]
    client.server._run(work[2], waits=False)
    client.wire.lose()
    work[2].callback(None)
    assert client.server._running == {}


def test_what_only_waits_does_not_keep_the_reading_stopped() -> None:
    """Once its answers are read a client is read again, though its places wait for what it says next."""
    gate = limited(request_queue=2)
    client = gate.join()
    waits = [Deferred[None](), Deferred[None]()]
    for work in waits:
        client.server._run(work, waits=True)
    client.server.pauseProducing()
    client.server._send(b"x" * (UNREAD_ANSWERS_BYTES + 1), answer=True)
    client.server.pace()
    assert not reads(client)
    client.wire.receive(numbered(0, 1))
    client.server.resumeProducing()
    assert reads(client)
    assert client.frames()[-1][1].startswith(b'{"type":"res","id":"0"')
    for work in waits:
        work.callback(None)


def test_nobody_is_held_to_a_pong_that_is_not_read(gate: Gate) -> None:
    """While we do not read, the silence is ours: no ping, no timeout; afterwards it is counted anew."""
    client = gate.join()
    work: Deferred[None] = Deferred()
    client.server._run(work, waits=False)
    client.server.pause_reading()
    for _ in range(60):
        gate.clock.advance(SWEEP_S)
        gate.wiring.factory.sweep()
    assert client.frames() == []
    work.callback(None)
    assert reads(client)
    seen = []
    for _ in range(9):
        gate.clock.advance(SWEEP_S)
        gate.wiring.factory.sweep()
        seen.append([opcode for opcode, _ in client.frames()])
    assert seen == [[], [], [], [9], [], [], [], [8], []]


def test_a_close_ends_while_nothing_is_read(gate: Gate, log: list[LogEvent]) -> None:
    """Our close is written at once, and its answer is found behind all that was not read."""
    client = gate.join()
    client.server.pauseProducing()
    count = 0
    while reads(client):
        client.wire.receive(numbered(count, 1000))
        count += 1000
    client.server.close(CloseCause.DRAIN, CloseCode.RESTART, "service restart")
    assert client.closed() == (1012, "service restart")
    assert reads(client)
    client.wire.receive(numbered(count, 1000) + close_frame(1012))
    assert client.wire.log[-1] == ("lose",)
    client.wire.lose()
    (line,) = closings(log)
    assert (line["cause"], "alsoCause" in line) == ("drain", False)
    waited = line["dropped"]["must"]
    assert line["queuedBytes"] > UNREAD_ANSWERS_BYTES
    metrics = gate.wiring.metrics.render().decode()
    assert f'gateway_outbox_dropped_total{{class="must"}} {waited}.0' in metrics
    assert gate.wiring.edge.outboxes.held == 0


def test_a_peer_that_is_lost_while_nothing_is_read(gate: Gate, log: list[LogEvent]) -> None:
    """A connection that is lost while it is not read from leaves nothing, and its transport alone."""
    client = gate.join()
    client.server.pauseProducing()
    while reads(client):
        client.wire.receive(numbered(0, 1000))
    client.wire.log.clear()
    client.wire.lose()
    assert client.wire.log == []
    assert len(gate.wiring.factory) == 0
    assert closings(log)[0]["cause"] == "peer-gone"
    gate.clock.advance(20)
    assert gate.clock.getDelayedCalls() == []
