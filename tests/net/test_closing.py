"""How a connection ends, whoever ends it and whatever fails meanwhile: once, with one line."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.logger import LogEvent, formatEvent
from twisted.python.failure import Failure

from gateway.core.events import Event
from gateway.errors import CloseCause, CloseCode
from gateway.net.closing import MAX_REASON_BYTES
from tests.net.gate import DEVICE, UI, Client, Gate, KernelQueue, boom, closings, limited
from tests.net.wire import close_frame, masked


def drain(client: Client) -> None:
    """Close as a gateway that stops does."""
    client.server.close(CloseCause.DRAIN, CloseCode.RESTART, "service restart")


def test_close_five_times_from_five_hooks(gate: Gate, log: list[LogEvent]) -> None:
    """Calling close five times from five hooks closes once, with the first cause."""
    client = gate.join()
    server = client.server

    server.close(CloseCause.DRAIN, CloseCode.RESTART, "service restart", first=1)
    server.close(CloseCause.SLOW_CONSUMER, CloseCode.POLICY, "slow consumer", first=0, second=2)
    server.onClose(False, 1006, "gone")
    server.on_error(Failure(RuntimeError("late")))
    client.wire.lose(ConnectionLost("reset"))

    assert [f for f in client.frames() if f[0] == 8] == [(8, b"\x03\xf4service restart")]
    (line,) = closings(log)
    assert (line["cause"], line["code"]) == ("drain", 1012)
    assert (line["first"], line["second"]) == (1, 2)
    assert (line["alsoCause"], line["error"]) == ("slow-consumer", "RuntimeError")
    assert len(gate.wiring.services.hub) == 0
    assert len(gate.wiring.factory) == 0
    assert len(gate.wiring.edge.farewells) == 0


def test_an_error_after_the_end_is_told_in_a_line(gate: Gate, log: list[LogEvent]) -> None:
    """What fails after the end changes nothing and is logged in one line, cleaned; what is cancelled is not."""  # noqa: E501
    client = gate.join()
    drain(client)
    client.server.on_error(Failure(RuntimeError("two\nlines")))
    cancelled: Deferred[None] = Deferred()
    cancelled.addErrback(client.server.on_error)
    cancelled.cancel()
    lines = [formatEvent(e) for e in log if "after the end" in str(e.get("log_format"))]
    assert lines == [
        f"error after the end conn={client.server.conn_id} error=RuntimeError('two\\nlines')"
    ]


def test_an_unforeseen_error_closes_with_1011(
    gate: Gate, log: list[LogEvent], expected_failures: list[type[BaseException]]
) -> None:
    """An error in a hook is logged with its failure and closes the connection as internal-error."""
    expected_failures.append(ZeroDivisionError)
    client = gate.join()
    client.server._request = boom  # type: ignore[method-assign]
    client.send(type="req", id="1", method="health")
    assert client.closed() == (1011, "internal error")
    client.wire.lose()
    assert closings(log)[0]["cause"] == "internal-error"


def test_the_peer_closes(gate: Gate, log: list[LogEvent]) -> None:
    """A peer's close frame is answered, and recorded as peer-closed with its code."""
    client = gate.join()
    client.wire.receive(close_frame(1001, b"going"))
    assert client.closed() == (1000, "")
    client.wire.lose()
    (line,) = closings(log)
    assert (line["cause"], line["code"], line["reason"]) == ("peer-closed", 1001, "going")
    assert "alsoCause" not in line


def test_nothing_follows_the_answer_to_a_close(gate: Gate) -> None:
    """Once a peer's close frame is answered nothing more is written, whoever sends."""
    client = gate.join()
    client.wire.receive(masked(b'{"type":"req","id":"1","method":"health"}') + close_frame())
    gate.wiring.tick()
    client.server.deliver(Event("tick", {"ts": 1}))
    client.server.deliver_direct(Event("tick", {"ts": 1}))
    assert [opcode for opcode, _ in client.frames()] == [1, 8]
    assert len(gate.wiring.services.hub) == 0


def test_a_peer_that_closes_and_does_not_let_go(gate: Gate) -> None:
    """A peer that sent its close frame but takes no bytes is cut after the grace, like any other."""
    client = gate.join()
    client.wire.receive(close_frame(None))
    assert ("lose",) in client.wire.log
    gate.clock.advance(0.9)
    assert ("abort",) not in client.wire.log
    gate.clock.advance(0.2)
    assert ("abort",) in client.wire.log


def test_the_grace_counts_while_nothing_drains(gate: Gate) -> None:
    """A peer that still takes what stands before the close frame is not cut; once all is there, it is."""
    client = gate.join()
    queue = KernelQueue(client)
    queue.fill(5)
    drain(client)
    gate.clock.advance(0.6)
    for _ in range(5):
        assert ("abort",) not in client.wire.log
        queue.drain()
        gate.clock.advance(1)
    assert ("abort",) in client.wire.log
    queue.close()


def test_a_peer_that_stops_taking_bytes_is_cut(gate: Gate) -> None:
    """What drains in the first moment is no progress: a peer that takes nothing then is cut after 1 s."""
    client = gate.join()
    queue = KernelQueue(client)
    queue.fill(5)
    drain(client)
    queue.drain()
    gate.clock.advance(0.6)
    assert ("abort",) not in client.wire.log
    gate.clock.advance(0.4)
    assert ("abort",) in client.wire.log
    queue.close()


def test_nobody_drains_for_ever(gate: Gate) -> None:
    """A peer that takes its last bytes drop by drop is cut after ten seconds."""
    client = gate.join()
    queue = KernelQueue(client)
    queue.fill(30)
    drain(client)
    for _ in range(19):
        gate.clock.advance(0.5)
        queue.drain()
    assert ("abort",) not in client.wire.log
    gate.clock.advance(0.5)
    assert ("abort",) in client.wire.log
    queue.close()


def test_the_answer_to_our_close_ends_in_order(gate: Gate, log: list[LogEvent]) -> None:
    """A peer that answers our close frame sees the end of the stream, not a reset."""
    client = gate.join()
    drain(client)
    client.wire.receive(close_frame(1012))
    assert client.wire.log[-1] == ("lose",)
    client.wire.lose()
    gate.clock.advance(5)
    assert ("abort",) not in client.wire.log
    assert closings(log)[0]["cause"] == "drain"


@pytest.mark.parametrize(
    ("frame", "code"), [(masked(b"\x03\xec", 8), 1002), (masked(b"\x03\xe8\xff", 8), 1007)]
)
def test_a_close_frame_that_is_none(gate: Gate, frame: bytes, code: int) -> None:
    """An invalid close frame is answered with 1002 or 1007, and that answer is not overtaken by a reset."""
    client = gate.join()
    client.wire.receive(frame)
    closed = client.closed()
    assert closed is not None
    assert closed[0] == code
    assert client.wire.log[-1] == ("lose",)


def test_the_peer_vanishes(gate: Gate, log: list[LogEvent]) -> None:
    """A socket that is gone without a close frame is recorded as peer-gone, with what was last said."""
    client = gate.join(client=UI, device=DEVICE)
    client.call("health")
    written = len(client.wire.sent)
    client.wire.lose(ConnectionLost("reset"))
    assert len(client.wire.sent) == written
    (line,) = closings(log)
    assert (line["cause"], line["code"]) == ("peer-gone", 1006)
    assert "lost" in line["reason"]
    assert (line["lastFrameMethod"], line["handshake"]) == ("health", "connected")
    assert line["framesIn"] == 2
    presence = gate.wiring.services.presence.list()
    assert [entry.reason for entry in presence] == ["self", "disconnect"]


def test_a_socket_that_ends_without_a_goodbye(gate: Gate, log: list[LogEvent]) -> None:
    """A peer that ends its socket and sends no close frame is not said to have closed cleanly."""
    client = gate.join(client=UI, device=DEVICE)

    client.wire.lose()

    (line,) = closings(log)
    assert (line["cause"], line["code"]) == ("peer-gone", 1006)
    assert line["reason"] == "closed without a close frame"


def test_after_the_loss_the_transport_is_left_alone(gate: Gate) -> None:
    """Nothing that comes after the loss touches the transport: TLS can not even be aborted then."""
    client = gate.join()
    client.wire.lose()
    client.wire.log.clear()
    drain(client)
    client.server.abort()
    client.server.resumeProducing()
    client.server.stopProducing()
    gate.clock.advance(5)
    assert client.wire.log == []


@pytest.mark.parametrize("registry", ["hub.remove", "nodes.left", "presence.left"])
def test_teardown_goes_on_whatever_fails(
    gate: Gate, log: list[LogEvent], expected_failures: list[type[BaseException]], registry: str
) -> None:
    """Where a step of the end raises it is logged; the peer is told, and the next steps follow."""
    expected_failures.append(ZeroDivisionError)
    node = gate.open()
    info = {"id": "node-host", "version": "1", "platform": "linux", "mode": "node"}
    assert node.connect(device=DEVICE, client=info, role="node", scopes=[])["ok"]
    owner, method = registry.split(".")
    setattr(getattr(gate.wiring.services, owner), method, boom)
    drain(node)
    assert node.closed() == (1012, "service restart")
    node.wire.lose()
    assert len(closings(log)) == 1
    assert len(gate.wiring.factory) == 0
    if owner == "nodes":
        assert [e.reason for e in gate.wiring.services.presence.list()] == ["self", "disconnect"]


def test_each_wait_is_cancelled_whatever_another_does(
    gate: Gate, expected_failures: list[type[BaseException]]
) -> None:
    """A call whose cancelling raises does not keep the other calls from being cancelled."""
    expected_failures.append(ZeroDivisionError)
    client = gate.join()
    bad, good, busy = Deferred[None](boom), Deferred[None](), Deferred[None]()
    client.server._run(bad, waits=True)
    client.server._run(good, waits=True)
    client.server._run(busy, waits=False)
    client.wire.lose()
    assert good.called
    assert list(client.server._running) == [bad, busy]
    bad.callback(None)
    busy.callback(None)
    assert not client.server._running


def test_a_line_that_can_not_be_written(
    gate: Gate, expected_failures: list[type[BaseException]]
) -> None:
    """Where the close line itself fails that is logged, and the connection is forgotten all the same."""
    expected_failures.append(AttributeError)
    client = gate.join()
    client.server.remote = None  # type: ignore[assignment]
    client.wire.lose()
    assert len(gate.wiring.factory) == 0


@pytest.mark.parametrize("reason", ["ä" * 100, "x" * 122 + "€", "x" * 500])
def test_a_close_reason_is_cut_between_characters(gate: Gate, reason: str) -> None:
    """A reason that is too long for a close frame is cut to valid UTF-8 of at most 123 bytes."""
    client = gate.join()
    client.server.close(CloseCause.DRAIN, CloseCode.RESTART, reason)
    closed = client.closed()
    assert closed is not None
    assert reason.startswith(closed[1])
    assert MAX_REASON_BYTES - 2 <= len(closed[1].encode()) <= MAX_REASON_BYTES


def test_what_comes_while_closing_is_not_kept(gate: Gate) -> None:
    """Megabytes that a peer sends while it is closed are read and dropped, and its answer is still seen."""
    client = gate.join()
    drain(client)
    size = 10_000_000
    client.wire.receive(masked(b"", opcode=2, length=size))
    client.wire.receive(b"x" * (size // 2))
    assert client.server.frame_data == []
    client.wire.receive(b"x" * (size // 2) + close_frame(1012))
    assert client.wire.log[-1] == ("lose",)


def test_garbage_after_a_violation_is_only_drained(gate: Gate) -> None:
    """Once the WebSocket protocol is broken nothing more is parsed, and the grace ends it."""
    client = gate.join()
    client.wire.receive(b"\x81\x01x")
    assert client.closed() == (1002, "unmasked client-to-server frame")
    frames_in = client.server.frames_in
    client.wire.receive(masked(b'{"type":"req","id":"1","method":"health"}') * 100)
    client.wire.receive(close_frame())
    assert client.server.frames_in == frames_in
    assert client.server.data == b""
    gate.clock.advance(1.1)
    assert client.wire.log[-1] == ("abort",)


def test_a_second_violation_changes_nothing(gate: Gate, log: list[LogEvent]) -> None:
    """A peer that we close and that then breaks the protocol is recorded under the first cause."""
    client = gate.join()
    drain(client)
    client.wire.receive(b"\x83\x80aaaa")
    client.wire.lose()
    (line,) = closings(log)
    assert (line["cause"], line["alsoCause"]) == ("drain", "protocol-error")


def test_what_waited_is_counted_and_dropped(gate: Gate, log: list[LogEvent]) -> None:
    """The close line tells how much was unsent: the queue, the rest of a long message, the transport's."""
    client = gate.join()
    real = client.wire.write

    def write(data: bytes) -> None:
        real(data)
        client.server.pauseProducing()

    client.wire.write = write  # type: ignore[method-assign]
    for _ in range(2):
        gate.wiring.services.hub.broadcast(Event("agent", {"text": "x" * 200_000}))
    drain(client)
    client.wire.lose()
    assert 350_000 < closings(log)[0]["queuedBytes"] < 360_000


def let_go(client: Client) -> None:
    """Lose a connection, break the cycles of the test's own transport, and see that all is freed."""
    server = weakref.ref(client.server)
    client.wire.lose()
    client.wire.protocol = client.wire.producer = None
    del client.server
    assert server() is None


def leaves() -> dict[str, Any]:
    """Ways for a connection to end."""

    def refused(gate: Gate) -> None:
        client = gate.open()
        client.connect(auth={"token": "wrong"})
        let_go(client)

    def denied(gate: Gate) -> None:
        kept = [gate.open(), gate.open()]
        client = gate.open()
        assert "503" in client.status
        for each in (client, *kept):
            let_go(each)

    def served(gate: Gate) -> None:
        client = gate.join(device=DEVICE)
        client.call("health")
        client.request("agent.wait", {"runId": "none"})
        client.call("no.such.method")
        client.raw(b"nonsense")
        drain(client)
        let_go(client)

    def violated(gate: Gate) -> None:
        client = gate.join()
        client.wire.receive(b"\x81\x01x")
        let_go(client)

    return {"refused": refused, "denied": denied, "served": served, "violated": violated}


@pytest.mark.parametrize("way", leaves())
def test_a_connection_leaves_no_cycle(way: str) -> None:
    """A connection is freed when it is lost: none of its objects waits for the cyclic collector."""
    gate = limited(preauth_connections_loopback=2)
    gc.disable()
    try:
        for _ in range(3):
            leaves()[way](gate)
    finally:
        gc.enable()
