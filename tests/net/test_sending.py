"""The sending half of a connection: order, pauses, long messages, slow consumers, sends that fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.logger import LogEvent

from gateway.core.events import Event
from gateway.net.fastpath import PAUSE_ABOVE, SLICE
from gateway.net.sending import FRAMES_A_TURN, unacknowledged
from tests.net.gate import Client, Gate, closings, limited
from tests.net.wire import Wire, close_frame, masked

LONG = "x" * 200_000
HEALTH = b'{"type":"req","id":"h","method":"health"}'


def broadcast(gate: Gate, name: str = "agent", **payload: Any) -> None:
    """Send an event to everybody."""
    gate.wiring.services.hub.broadcast(Event(name, payload))


def order(client: Client) -> list[Any]:
    """Return what came as numbers of events, ids of answers and opcodes of control frames."""
    found: list[Any] = []
    for opcode, payload in client.frames():
        message = client.decoded(payload) if opcode == 1 else {"seq": f"opcode {opcode}"}
        found.append(message.get("seq", message.get("id")))
    return found


def pausing(client: Client, *, after: int = 1) -> list[int]:
    """Let the transport be full after so many writes, again and again; return how long each was."""
    real, sizes = client.wire.write, []

    def write(data: bytes) -> None:
        real(data)
        sizes.append(len(data))
        if len(sizes) % after == 0:
            client.server.pauseProducing()

    client.wire.write = write  # type: ignore[method-assign]
    return sizes


def test_numbers_rise_by_one_per_connection(gate: Gate) -> None:
    """Each connection counts its own broadcasts from 1; responses carry no number."""
    first = gate.join()
    gate.wiring.tick()
    second = gate.join()
    gate.wiring.tick()
    assert [m["seq"] for m in first.received()] == [1, 2]
    assert [m["seq"] for m in second.received()] == [1]
    assert "seq" not in first.call("health")


def test_a_paused_connection_queues_and_drains_in_order(gate: Gate) -> None:
    """While the transport is full everything waits in the outbox, and leaves in order afterwards."""
    client = gate.join()
    client.server.pauseProducing()
    for number in range(3):
        broadcast(gate, "presence", presence=[], n=number)
    client.raw(HEALTH)
    client.server.deliver_direct(Event("tick", {"ts": 1}))
    assert client.received() == []
    client.server.resumeProducing()
    assert order(client) == [1, 2, 3, "h", None]
    broadcast(gate)
    assert order(client) == [4]


def test_a_pause_while_draining_keeps_the_rest(gate: Gate) -> None:
    """Where the transport fills up again the rest waits again, and what is new goes behind it."""
    client = gate.join()
    client.server.pauseProducing()
    for _ in range(3):
        broadcast(gate, text="x" * 20_000)
    pausing(client)
    client.server.resumeProducing()
    assert order(client) == [1]
    broadcast(gate)
    for _ in range(3):
        client.server.resumeProducing()
    assert order(client) == [2, 3, 4]


def test_what_waited_leaves_in_few_writes(gate: Gate) -> None:
    """Small frames that waited are written together, at most 64 KiB at once."""
    client = gate.join()
    client.server.pauseProducing()
    for _ in range(500):
        broadcast(gate, text="x" * 300)
    client.wire.log.clear()
    client.server.resumeProducing()
    sizes = [len(entry[1]) for entry in client.wire.log if entry[0] == "write"]
    assert order(client) == list(range(1, 501))
    assert len(sizes) < 15
    assert max(sizes) <= PAUSE_ABOVE + SLICE == 65_536


def test_a_long_queue_leaves_in_turns(gate: Gate) -> None:
    """Of a long queue so many frames are written in one turn of the loop, and nothing overtakes the rest."""
    client = gate.join()
    client.server.pauseProducing()
    for _ in range(2 * FRAMES_A_TURN):
        broadcast(gate)
    client.server.resumeProducing()
    broadcast(gate)
    client.server.resumeProducing()
    assert order(client)[-1] == FRAMES_A_TURN
    client.server.pauseProducing()
    gate.clock.advance(0)
    assert order(client) == []
    client.server.resumeProducing()
    assert order(client)[-1] == 2 * FRAMES_A_TURN
    gate.clock.advance(0)
    assert order(client) == [2 * FRAMES_A_TURN + 1]
    assert not client.server.waiting
    assert client.server._next_turn is None


def test_a_close_ends_the_turns(gate: Gate) -> None:
    """A connection that is closed between two turns writes nothing more, and leaves no timer."""
    client = gate.join()
    client.server.pauseProducing()
    for _ in range(2 * FRAMES_A_TURN):
        broadcast(gate)
    client.server.resumeProducing()
    client.wire.lose()
    written = len(client.wire.sent)
    gate.clock.advance(0)
    assert len(client.wire.sent) == written
    gate.clock.advance(20)
    assert gate.clock.getDelayedCalls() == []


def test_a_slow_consumer_is_told_and_aborted(log: list[LogEvent]) -> None:
    """Over the cap our unsent queue is discarded, the 1008 frame goes out next, the abort comes after 1 s."""
    gate = limited(outbox_bytes=65_536)
    client = gate.join()
    client.server.pauseProducing()
    for _ in range(3):
        broadcast(gate, text="x" * 30_000)
    assert client.closed() == (1008, "slow consumer")
    assert client.server.outbox.queued == 0
    gate.clock.advance(0.9)
    assert ("abort",) not in client.wire.log
    gate.clock.advance(0.2)
    assert ("abort",) in client.wire.log
    client.wire.lose()
    (line,) = closings(log)
    assert line["cause"] == "slow-consumer"
    assert line["queuedBytes"] > 30_000


def test_answers_make_a_slow_consumer_too(log: list[LogEvent]) -> None:
    """A client that asks and does not read the answers ends as a slow consumer, and others are not hurt."""
    gate = limited(outbox_bytes=4096)
    client, other = gate.join(), gate.join()
    client.server.pauseProducing()
    client.wire.receive(masked(HEALTH) * 100)
    for _ in range(25):
        assert client.closed() is None
        gate.clock.advance(5)
        other.wire.receive(masked(b"", opcode=10))
        gate.wiring.factory.sweep()
    assert client.closed() == (1008, "slow consumer")
    client.wire.lose()
    assert closings(log)[0]["cause"] == "slow-consumer"
    assert other.call("health")["ok"]


def test_every_shed_frame_is_counted() -> None:
    """What a full outbox sheds is counted frame by frame, whether it was waiting or just came."""
    gate = limited(outbox_bytes=4096)
    client = gate.join()
    client.server.pauseProducing()
    for number in range(20):
        broadcast(gate, "presence", presence=["x" * 500], n=number)
    client.raw(HEALTH)
    dropped = client.server.outbox.dropped
    assert dropped > 10
    assert gate.wiring.metrics._dropped._series == {("droppable",): dropped}
    client.server.resumeProducing()
    numbers = [number for number in order(client) if number != "h"]
    assert numbers == list(range(numbers[0], 21))


# -- long messages


def test_long_messages_are_sent_in_fragments_between_pauses(gate: Gate) -> None:
    """Of a long message one slice is written at a time, and what comes meanwhile waits behind it."""
    client = gate.join()
    sizes = pausing(client)
    for text in (LONG, "short", LONG):
        broadcast(gate, text=text)
    assert len(sizes) == 1
    while client.server.waiting:
        client.server.resumeProducing()
    assert max(sizes) <= 65_536
    texts = [message["payload"]["text"] for message in client.received()]
    assert texts == [LONG, "short", LONG]


def test_a_long_answer_and_a_long_event(gate: Gate) -> None:
    """Messages of any length to a transport that takes all of it arrive whole, in order."""
    client = gate.join()
    client.send(type="req", id=LONG, method="health")
    broadcast(gate, text=LONG)
    client.server.deliver_direct(Event("agent", {"text": LONG}))
    assert order(client) == [LONG, 1, None]
    assert not client.server.waiting


def test_what_is_sent_in_the_middle_of_a_long_message_follows_it(gate: Gate) -> None:
    """A transport that calls back while it writes does not get a message inside another one."""
    client = gate.join()
    real = client.wire.write
    todo: list[Callable[[], object]] = [lambda: client.raw(HEALTH), lambda: broadcast(gate)]

    def write(data: bytes) -> None:
        real(data)
        if todo:
            todo.pop(0)()

    client.wire.write = write  # type: ignore[method-assign]
    broadcast(gate, text=LONG)
    assert order(client) == [1, "h", 2]


def test_a_close_goes_into_the_middle_of_a_long_message(gate: Gate) -> None:
    """The close frame does not wait for the rest of a long message, and nothing follows it."""
    client = gate.join()
    pausing(client)
    broadcast(gate, text=LONG)
    client.wire.receive(close_frame())
    client.server.resumeProducing()
    assert client.frames() == [(8, b"\x03\xe8")]


def test_the_hello_may_be_long(gate: Gate) -> None:
    """A hello that does not fit one slice is whole before the answers to what was sent meanwhile."""
    client = gate.open()
    gate.wiring.services.operations.state_dir = LONG
    pausing(client)
    client.connect()
    while client.server.waiting:
        client.server.resumeProducing()
    (hello,) = client.received()
    assert len(hello["payload"]["snapshot"]["stateDir"]) == 200_000


# -- pings of the peer


def test_a_ping_is_answered(gate: Gate) -> None:
    """A ping is answered with its own payload, at once, also between the fragments of a message."""
    client = gate.join()
    pausing(client, after=2)
    broadcast(gate, text=LONG)
    client.server._paused = False
    client.wire.receive(masked(b"between", 9))
    assert client.frames() == [(10, b"between")]


def test_a_stranger_s_pings_wait_too(gate: Gate) -> None:
    """Before connect the same holds: a full transport gets nothing, and the last ping its answer."""
    client = gate.open()
    client.frames()
    client.server.pauseProducing()
    client.wire.receive(masked(b"1", 9) + masked(b"2", 9))
    client.server.resumeProducing()
    assert client.frames() == [(10, b"2")]


def test_pings_of_a_peer_that_does_not_read(gate: Gate) -> None:
    """While the transport is full pings cost nothing; the last of them is answered when it drains."""
    client = gate.join()
    broadcast(gate)
    client.server.pauseProducing()
    broadcast(gate)
    written = len(client.wire.sent)
    for number in range(1000):
        client.wire.receive(masked(b"%d" % number, 9))
    assert len(client.wire.sent) == written
    client.server.resumeProducing()
    assert client.frames()[1] == (10, b"999")
    assert not client.server.waiting


def test_only_sockets_tell_what_is_not_acknowledged() -> None:
    """Of a transport under TLS the socket is asked; one that is closed, or is none, tells nothing."""

    class Closed:
        def getHandle(self) -> int:
            return -1

    class Secure:
        transport = Closed()

    assert unacknowledged(Secure()) == unacknowledged(Wire()) == 0


def test_frames_are_counted(gate: Gate, log: list[LogEvent]) -> None:
    """Every frame counts, of this connection and of all, in and out."""
    first, second = gate.join(), gate.join()
    first.call("health")
    gate.wiring.tick()
    for client in (first, second):
        client.wire.lose()
    lines = closings(log)
    assert [(line["framesIn"], line["framesOut"]) for line in lines] == [(2, 4), (1, 3)]
    metrics = gate.wiring.metrics
    assert (metrics.frames_in, metrics.frames_out) == (3, 7)
