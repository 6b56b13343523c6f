"""One connection from its challenge to its close line, over wires in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.logger import LogEvent, globalLogPublisher
from twisted.python.failure import Failure

from gateway.config import Config, LimitsConfig
from gateway.core.deviceproof import DeviceIdentity, SignedContext
from gateway.core.events import Event
from gateway.errors import CloseCause, CloseCode
from gateway.testing import TOKEN
from tests.net.gate import UI, Client, Gate
from tests.net.wire import close_frame, masked

DEVICE = DeviceIdentity.from_seed(b"\x07" * 32)


@pytest.fixture
def gate() -> Gate:
    """A gateway in memory."""
    return Gate()


@pytest.fixture
def log() -> Iterator[list[LogEvent]]:
    """Everything that is logged."""
    events: list[LogEvent] = []
    globalLogPublisher.addObserver(events.append)
    yield events
    globalLogPublisher.removeObserver(events.append)


def closings(log: list[LogEvent]) -> list[LogEvent]:
    """Return the close lines."""
    return [event for event in log if str(event.get("log_format", "")).startswith("closed conn=")]


def limited(**limits: Any) -> Gate:
    """Return a gateway with other limits."""
    return Gate(config=Config(limits=LimitsConfig(**limits)))


def test_the_challenge_comes_first(gate: Gate) -> None:
    """The server speaks first, with a nonce and its time, and without a number."""
    client = gate.open()
    (challenge,) = client.received()
    assert challenge["event"] == "connect.challenge"
    assert set(challenge["payload"]) == {"nonce", "ts"}
    assert "seq" not in challenge


@pytest.mark.parametrize("protocol", [3, 4])
def test_a_client_is_let_in_by_its_version(gate: Gate, protocol: int) -> None:
    """Version 3 and version 4 clients connect to the same port, each told its own version."""
    client = gate.open()
    hello = client.connect(protocol)
    assert hello["ok"]
    assert hello["payload"]["protocol"] == protocol
    assert client.call("health")["ok"]


def test_frames_sent_before_hello_are_handled_after_it() -> None:
    """Up to fifteen frames that arrive while connect is judged wait and are answered in order."""
    gate = Gate()
    client = gate.open()
    store, waiting = gate.wiring.store, []
    real = store.get_device

    def later(device_id: str) -> Any:
        done: Deferred[Any] = Deferred()
        waiting.append(lambda: real(device_id).chainDeferred(done))
        return done

    store.get_device = later  # type: ignore[method-assign]
    client.raw(connect_frame(client, DEVICE))
    for number in range(15):
        client.send(type="req", id=f"q{number}", method="health")
    assert client.received() == []
    waiting[0]()
    ids = [m["id"] for m in client.received() if m["type"] == "res"]
    assert ids == ["hello", *[f"q{number}" for number in range(15)]]


def connect_frame(client: Client, device: DeviceIdentity) -> str:
    """Return the connect request of a device, under the id ``hello``."""
    (challenge,) = client.received()
    context = SignedContext("test", "ui", "operator", ("operator.read",), TOKEN, "linux")
    proof = device.prove(
        context, nonce=challenge["payload"]["nonce"], signed_at_ms=client.gate.clock.now_ms()
    )
    params = {
        "minProtocol": 4,
        "maxProtocol": 4,
        "client": UI,
        "scopes": ["operator.read"],
        "auth": {"token": TOKEN},
        "device": {
            "id": proof.id,
            "publicKey": proof.public_key,
            "signature": proof.signature,
            "signedAt": proof.signed_at_ms,
            "nonce": proof.nonce,
        },
    }
    return json.dumps({"type": "req", "id": "hello", "method": "connect", "params": params})


def test_the_sixteenth_waiting_frame_closes(gate: Gate, log: list[LogEvent]) -> None:
    """The sixteenth frame that arrives before hello closes with 1008."""
    client = gate.open()
    gate.wiring.store.get_device = lambda device_id: Deferred()  # type: ignore[method-assign]
    client.raw(connect_frame(client, DEVICE))
    for number in range(16):
        client.send(type="req", id=f"q{number}", method="health")
    assert client.closed() == (1008, "too many pending handshake frames")
    client.wire.lose()
    assert closings(log)[0]["cause"] == "handshake-message-overflow"


def test_the_handshake_times_out_from_the_challenge_on(gate: Gate, log: list[LogEvent]) -> None:
    """A client that says nothing is closed 15 s after the challenge, with 1000 and no reason."""
    client = gate.open()
    client.received()
    gate.clock.advance(14.9)
    assert client.frames() == []
    gate.clock.advance(0.2)
    assert client.closed() == (1000, "")
    gate.clock.advance(1.1)
    assert ("abort",) in client.wire.log
    client.wire.lose()
    assert closings(log)[0]["cause"] == "handshake-timeout"


def test_an_established_connection_has_no_deadline(gate: Gate) -> None:
    """Nothing of the handshake's deadline is left once a client is in."""
    client = gate.join()
    gate.clock.advance(60)
    assert client.closed() is None
    assert len(gate.wiring.edge.deadlines) == 0
    assert len(gate.wiring.edge.strangers) == 0


def test_a_large_frame_before_authentication_is_refused(gate: Gate, log: list[LogEvent]) -> None:
    """A frame over 64 KiB is refused with 1009 from its header, before it is read."""
    client = gate.open()
    client.received()
    client.wire.receive(masked(b"", length=65_537))
    assert client.closed() == (1009, "preauth payload too large")
    client.wire.lose()
    assert closings(log)[0]["cause"] == "preauth-payload-too-large"


def test_a_large_frame_is_taken_after_authentication(gate: Gate) -> None:
    """After hello the limit is the announced maxPayload; beyond it the close is 1009."""
    client = gate.join()
    client.raw(b'"' + b"x" * 100_000 + b'"')
    (answer,) = client.received()
    assert answer["error"]["code"] == "INVALID_REQUEST"
    client.wire.receive(masked(b"", length=26_214_401))
    closed = client.closed()
    assert closed is not None
    assert closed[0] == 1009


@pytest.mark.parametrize(
    ("payload", "code", "reason"),
    [
        (b"garbage", 1000, ""),
        (b"[]", 1008, "invalid request frame"),
        (b'{"type":"req","method":"connect"}', 1008, "invalid request frame"),
        (b"[" * 5000, 1000, ""),
        (b'{"type":"req","id":"1","method":"connect"}', 1008, None),
    ],
)
def test_a_bad_first_frame_closes(
    gate: Gate, payload: bytes, code: int, reason: str | None
) -> None:
    """What is no connect request ends the connection with the code of the protocol."""
    client = gate.open()
    client.received()
    client.raw(payload)
    closed = client.closed()
    assert closed is not None
    assert closed[0] == code
    assert reason is None or closed[1] == reason


@pytest.mark.parametrize(
    "payload", [b"{nope", b"\xff\xfe", b"[" * 5000, b'{"type":"req","id":"\\ud800","method":"x"}']
)
def test_what_is_not_json_is_answered_and_the_connection_stays(gate: Gate, payload: bytes) -> None:
    """After connect, what is not JSON is answered with id invalid, INVALID_REQUEST."""
    client = gate.join()
    client.raw(payload, opcode=2)
    (answer,) = client.received()
    assert (answer["id"], answer["error"]["code"]) == ("invalid", "INVALID_REQUEST")
    assert client.call("health")["ok"]


def test_eleven_calls_of_another_role_close(gate: Gate, log: list[LogEvent]) -> None:
    """The eleventh wrong-role request in a row is answered, then closes with 1008."""
    client = gate.join()
    for _ in range(10):
        client.call("node.event", {"event": "x"})
    assert client.call("health")["ok"]
    for _ in range(10):
        answer = client.call("node.event", {"event": "x"})
        assert answer["error"]["message"] == "unauthorized role: operator"
    client.request("node.event", {"event": "x"})
    frames = client.frames()
    assert [opcode for opcode, _ in frames] == [1, 8]
    assert frames[1][1][2:] == b"repeated unauthorized calls"
    client.wire.lose()
    assert closings(log)[0]["cause"] == "repeated-unauthorized-requests"


def test_close_five_times_from_five_hooks(gate: Gate, log: list[LogEvent]) -> None:
    """Calling close five times from five hooks closes once, with the first cause."""
    client = gate.join()
    server = client.server

    server.close(CloseCause.DRAIN, CloseCode.RESTART, "service restart", first=1)
    server.close(CloseCause.SLOW_CONSUMER, CloseCode.POLICY, "slow consumer", second=2)
    server.onClose(False, 1006, "gone")
    server.on_error(failure_of(RuntimeError("late")))
    client.wire.lose(ConnectionLost("reset"))

    frames = [frame for frame in client.frames() if frame[0] == 8]
    assert frames == [(8, b"\x03\xf4service restart")]
    (line,) = closings(log)
    assert (line["cause"], line["code"]) == ("drain", 1012)
    assert (line["first"], line["second"]) == (1, 2)
    assert len(gate.wiring.services.hub) == 0
    assert len(gate.wiring.factory) == 0


def failure_of(error: Exception) -> Any:
    """Return the failure of an error."""
    return Failure(error)


def test_a_send_failure_closes_once(gate: Gate, log: list[LogEvent]) -> None:
    """A send failure is logged once with the connection id, recorded as `send-error`, and closes the connection; a second error on the same socket changes nothing and raises nothing."""  # noqa: E501
    client = gate.join()
    server = client.server

    def fail(data: bytes) -> None:
        raise OSError("broken pipe")

    client.wire.write = fail  # type: ignore[method-assign]
    gate.wiring.tick()
    gate.wiring.tick()
    server.on_error(failure_of(OSError("again")))
    client.wire.lose(ConnectionLost("reset"))

    sends = [e for e in log if str(e.get("log_format", "")).startswith("send failed")]
    assert [event["conn"] for event in sends] == [server.conn_id]
    (line,) = closings(log)
    assert line["cause"] == "send-error"
    assert ("abort",) in client.wire.log


def test_an_unforeseen_error_closes_with_1011(
    gate: Gate, log: list[LogEvent], expected_failures: list[type[BaseException]]
) -> None:
    """An error in a hook is logged with its failure and closes the connection as internal-error."""
    expected_failures.append(ZeroDivisionError)
    client = gate.join()

    def explode(*args: Any) -> None:
        raise ZeroDivisionError

    client.server._request = explode  # type: ignore[method-assign]
    client.send(type="req", id="1", method="health")
    assert client.closed() == (1011, "internal error")
    client.wire.lose()
    assert closings(log)[0]["cause"] == "internal-error"


def test_the_peer_closes(gate: Gate, log: list[LogEvent]) -> None:
    """A peer's close frame is answered, and recorded as peer-closed with its code."""
    client = gate.join()
    client.wire.receive(close_frame(1001, b"going"))
    assert client.closed() is not None
    client.wire.lose()
    (line,) = closings(log)
    assert (line["cause"], line["code"], line["reason"]) == ("peer-closed", 1001, "going")


def test_the_peer_vanishes(gate: Gate, log: list[LogEvent]) -> None:
    """A socket that is gone without a close frame is recorded as peer-gone, with what was last said."""
    client = gate.join(client=UI, device=DEVICE)
    client.call("health")
    client.wire.lose(ConnectionLost("reset"))
    (line,) = closings(log)
    assert (line["cause"], line["code"]) == ("peer-gone", 1006)
    assert (line["lastFrameMethod"], line["handshake"]) == ("health", "connected")
    assert line["framesIn"] == 2
    presence = gate.wiring.services.presence.list()
    assert [entry.reason for entry in presence] == ["self", "disconnect"]


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
        gate.wiring.services.hub.broadcast(Event("presence", {"presence": [], "n": number}))
    client.send(type="req", id="h", method="health")
    assert client.received() == []
    client.server.resumeProducing()
    got = client.received()
    assert [m.get("seq", m.get("id")) for m in got] == [1, 2, 3, "h"]


def test_a_slow_consumer_is_told_and_aborted(log: list[LogEvent]) -> None:
    """Over the cap our unsent queue is discarded, the 1008 frame goes out next, the abort comes after 1 s."""
    gate = limited(outbox_bytes=65_536)
    client = gate.join()
    client.server.pauseProducing()
    message = {"runId": "r", "text": "x" * 30_000}
    for _ in range(3):
        gate.wiring.services.hub.broadcast(Event("agent", message))
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


def test_a_frame_that_waits_too_long_is_a_slow_consumer() -> None:
    """A must frame that waited longer than the age cap ends the connection."""
    gate = limited(outbox_age_s=30)
    client = gate.join()
    client.server.pauseProducing()
    gate.wiring.services.hub.broadcast(Event("agent", {"runId": "r"}))
    for _ in range(7):
        gate.clock.advance(5)
        client.wire.receive(masked(b"", opcode=10))
        gate.wiring.factory.sweep()
    assert client.closed() == (1008, "slow consumer")


def test_long_messages_are_sent_in_fragments_between_pauses(gate: Gate) -> None:
    """Of a long message at most one slice is written while the transport is full; a close goes between."""
    client = gate.join()
    server = client.server
    pauses = iter([True, False])

    real = client.wire.write

    def write(data: bytes) -> None:
        real(data)
        if next(pauses, False):
            server.pauseProducing()

    client.wire.write = write  # type: ignore[method-assign]
    before = len(client.wire.sent)
    gate.wiring.services.hub.broadcast(Event("agent", {"text": "x" * 200_000}))
    assert len(client.wire.sent) - before <= 48 * 1024
    server.resumeProducing()
    (message,) = client.received()
    assert len(message["payload"]["text"]) == 200_000


def test_a_silent_peer_is_pinged_and_then_given_up(gate: Gate, log: list[LogEvent]) -> None:
    """After 20 s of silence a ping goes out; without an answer or progress the peer is gone within 45 s."""
    client = gate.join()
    waited = 0
    pinged = closed = False
    while waited < 45 and not closed:
        gate.clock.advance(5)
        waited += 5
        gate.wiring.factory.sweep()
        opcodes = [opcode for opcode, _ in client.frames()]
        pinged = pinged or 9 in opcodes
        closed = 8 in opcodes
    assert pinged
    assert closed
    assert 35 <= waited <= 45
    client.wire.lose()
    assert closings(log)[0]["cause"] == "keepalive-timeout"


def test_a_slow_link_that_drains_is_kept(gate: Gate) -> None:
    """A peer whose bytes drain is alive even if its pong is late."""
    client = gate.join()
    for _ in range(40):
        gate.clock.advance(5)
        client.server.resumeProducing()
        gate.wiring.factory.sweep()
        assert 8 not in [opcode for opcode, _ in client.frames()]


def test_a_node_sees_only_what_nodes_may_see(gate: Gate) -> None:
    """A node gets tick, health and shutdown, and none of agent, chat or presence."""
    node = gate.open()
    client_info = {"id": "node-host", "version": "1", "platform": "linux", "mode": "node"}
    hello = node.connect(device=DEVICE, client=client_info, role="node", scopes=[])
    assert hello["ok"], hello
    hub = gate.wiring.services.hub
    for name in ("agent", "chat", "presence", "health", "tick", "shutdown"):
        hub.broadcast(Event(name, {"x": 1}))
    assert [m["event"] for m in node.received()] == ["health", "tick", "shutdown"]


def test_too_many_strangers_of_one_address_get_503() -> None:
    """The connection over the cap of unauthenticated sockets is refused before the upgrade."""
    gate = limited(preauth_connections_per_address=2)
    first, second, third = (gate.open(host="192.0.2.7") for _ in range(3))
    assert "101" in first.response.splitlines()[0]
    assert "101" in second.response.splitlines()[0]
    assert "503" in third.response.splitlines()[0]
    first.wire.lose()
    assert "101" in gate.open(host="192.0.2.7").response.splitlines()[0]


def test_a_busy_connection_is_told_to_wait() -> None:
    """More requests at once than the limit are answered UNAVAILABLE, retryable."""
    gate = limited(request_queue=2)
    client = gate.join()
    for _ in range(3):
        client.request("agent.wait", {"runId": "none"})
    (answer,) = client.received()
    assert answer["error"]["code"] == "UNAVAILABLE"
    assert answer["error"]["retryable"] is True


def test_what_waits_ends_with_its_connection(gate: Gate) -> None:
    """A call that only waits is cancelled when its connection is gone, and leaves nothing behind."""
    client = gate.join()
    client.request("agent.wait", {"runId": "none"})
    client.wire.lose()
    assert len(gate.wiring.services.runs._awaited) == 0
    assert not client.server._running


def test_a_whole_turn_streams(gate: Gate) -> None:
    """A message is answered by agent and chat events whose last carry the whole text, byte for byte."""
    client = gate.join()
    client.request(
        "chat.send", {"sessionKey": "main", "message": "ab  cd\n", "idempotencyKey": "k1"}
    )
    gate.clock.pump([0.01] * 100)
    received = client.received()
    (started,) = [m for m in received if m["type"] == "res"]
    assert started["payload"]["runId"] == "k1"
    assert started["payload"]["status"] == "started"
    events = [m for m in received if m["type"] == "event"]
    chat = [m["payload"] for m in events if m["event"] == "chat"]
    assert [m["seq"] for m in events] == list(range(1, len(events) + 1))
    assert "".join(c.get("deltaText", "") for c in chat) == "ab  cd\n"
    assert chat[-1]["state"] == "final"
    assert chat[-1]["message"]["content"] == [{"type": "text", "text": "ab  cd\n"}]
    assert [c["state"] for c in chat].count("final") == 1


def test_too_many_connections_are_asked_to_come_later() -> None:
    """A client beyond the maximum is refused with UNAVAILABLE and 1013, and entered nowhere."""
    gate = limited(connections_max=1)
    gate.join()
    second = gate.open()
    answer = second.connect()
    assert answer["error"]["code"] == "UNAVAILABLE"
    assert answer["error"]["retryable"] is True
    assert second.server.closing is not None
    assert second.server.closing.code == CloseCode.TRY_LATER
    assert len(gate.wiring.services.hub) == 1


def test_header_values_are_cleaned_for_the_log(gate: Gate, log: list[LogEvent]) -> None:
    """Control characters of headers do not reach the log, nor more than 300 characters of one."""
    client = gate.open(User_Agent="a\tb" + "c" * 500)
    client.wire.lose()
    (line,) = closings(log)
    assert line["userAgent"].startswith("a b")
    assert len(line["userAgent"]) == 300


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
    assert len(gate.wiring.edge.strangers) == 0


def test_a_refused_handshake_never_names_the_secret(gate: Gate, log: list[LogEvent]) -> None:
    """A wrong token appears neither in the answer nor in the close reason nor in the log."""
    client = gate.open()
    wrong = "canary-0123456789"
    answer = client.connect(auth={"token": wrong})
    client.wire.lose()
    assert answer["error"]["details"]["code"] == "AUTH_TOKEN_MISMATCH"
    assert wrong not in client.wire.sent.decode("latin-1")
    assert not any(wrong in str(value) for event in log for value in event.values())


def test_raw_payloads_are_copied_as_they_are(gate: Gate) -> None:
    """The cached health snapshot is sent byte for byte."""
    client = gate.join()
    gate.wiring.services.health.snapshot = msgspec.Raw(b'{"ok":true,"marker":1}')
    assert client.call("health")["payload"] == {"ok": True, "marker": 1}
