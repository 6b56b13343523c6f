"""One connection from its challenge to its answers, over wires in memory."""

from __future__ import annotations

import json
from typing import Any

import pytest
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred
from twisted.logger import LogEvent

from gateway.core.deviceproof import DeviceIdentity, SignedContext
from gateway.errors import CloseCode, Unavailable
from gateway.testing import TOKEN
from tests.net.gate import DEVICE, UI, Client, Gate, boom, closings, limited
from tests.net.wire import Wire, masked


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


def test_frames_sent_before_hello_are_handled_after_it(gate: Gate, log: list[LogEvent]) -> None:
    """Up to fifteen frames that arrive while connect is judged wait, are answered in order, and count once."""  # noqa: E501
    client = gate.open()
    waiting = gate.stall_store()
    client.raw(connect_frame(client, DEVICE))
    for number in range(15):
        client.send(type="req", id=f"q{number}", method="health")
    assert client.received() == []
    waiting[0]()
    ids = [m["id"] for m in client.received() if m["type"] == "res"]
    assert ids == ["hello", *[f"q{number}" for number in range(15)]]
    client.wire.lose()
    assert closings(log)[0]["framesIn"] == gate.wiring.metrics.frames_in == 16


def test_a_waiting_frame_may_end_the_connection(gate: Gate, log: list[LogEvent]) -> None:
    """Where a frame that waited ends the connection, those behind it are not looked at."""
    client = gate.open()
    waiting = gate.stall_store()
    client.raw(connect_frame(client, DEVICE))
    for number in range(13):
        client.send(type="req", id=f"q{number}", method="node.event", params={"event": "x"})
    client.send(type="req", id="last", method="health")
    waiting[0]()
    answers = [json.loads(payload) for opcode, payload in client.frames() if opcode == 1]
    assert [m["id"] for m in answers if m["type"] == "res"][-1] == "q10"
    client.wire.lose()
    assert closings(log)[0]["cause"] == "repeated-unauthorized-requests"


def test_the_sixteenth_waiting_frame_closes(gate: Gate, log: list[LogEvent]) -> None:
    """The sixteenth frame that arrives before hello closes with 1008."""
    client = gate.open()
    gate.stall_store()
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
    (line,) = closings(log)
    assert (line["cause"], line["handshake"]) == ("handshake-timeout", "failed")


def test_the_deadline_is_the_client_s(gate: Gate) -> None:
    """A client that answered in time is let in, however long the gateway takes to judge it."""
    client = gate.open()
    waiting = gate.stall_store()
    gate.clock.advance(14)
    client.raw(connect_frame(client, DEVICE))
    gate.clock.advance(60)
    assert client.closed() is None
    waiting[0]()
    assert client.call("health")["ok"]


def test_a_refusal_by_the_store_s_word(gate: Gate, log: list[LogEvent]) -> None:
    """A device whose token the store does not know is refused like any other credential."""
    client = gate.open()
    answer = client.connect(device=DEVICE, auth={"token": "wrong"}, client=UI)
    assert answer["error"]["details"]["code"] == "AUTH_TOKEN_MISMATCH"
    assert client.closed() is not None
    client.wire.lose()
    assert closings(log)[0]["cause"] == "unauthorized"


def test_what_is_judged_for_a_client_that_left(gate: Gate, log: list[LogEvent]) -> None:
    """A client that is gone before it is judged is entered nowhere, and costs one close line."""
    client = gate.open()
    gate.stall_store()
    client.raw(connect_frame(client, DEVICE))
    client.wire.lose()
    assert len(gate.wiring.services.hub) == 0
    assert not client.server._running
    assert [line["cause"] for line in closings(log)] == ["peer-gone"]


def test_a_judgement_that_comes_too_late(gate: Gate) -> None:
    """A verdict that can not be called off any more changes nothing for a client that left."""
    client = gate.open()
    verdict: Deferred[Any] = Deferred(lambda late: late.callback(None))

    async def admit(proven: Any) -> Any:
        return await verdict

    gate.wiring.edge.admission.admit = admit  # type: ignore[method-assign]
    client.raw(connect_frame(client, DEVICE))
    client.wire.lose()
    assert client.server.context is None
    assert len(gate.wiring.services.hub) == 0


def test_an_established_connection_has_no_deadline(gate: Gate) -> None:
    """Nothing of the handshake's deadline is left once a client is in."""
    client = gate.join()
    gate.clock.advance(60)
    assert client.closed() is None
    assert len(gate.wiring.edge.deadlines) == 0
    assert len(gate.wiring.edge.strangers) == 0


def test_a_client_that_can_not_be_entered_is_entered_nowhere(gate: Gate) -> None:
    """Where the last of the registries refuses a client, the others have forgotten it again."""

    def full(connection: Any) -> None:
        raise Unavailable("too many nodes", retryable=True)

    gate.wiring.services.nodes.joined = full  # type: ignore[method-assign]
    client = gate.open()
    info = {"id": "node-host", "version": "1", "platform": "linux", "mode": "node"}
    answer = client.connect(device=DEVICE, client=info, role="node", scopes=[])
    assert answer["error"]["message"] == "too many nodes"
    assert client.server.closing is not None
    assert client.server.closing.code == CloseCode.TRY_LATER
    assert len(gate.wiring.services.hub) == 0
    assert [entry.reason for entry in gate.wiring.services.presence.list()][1:] == ["disconnect"]


def test_a_hello_that_can_not_be_made(
    gate: Gate, log: list[LogEvent], expected_failures: list[type[BaseException]]
) -> None:
    """A fault while a client is let in is logged, closes with 1011, and leaves nothing behind."""
    expected_failures.append(ZeroDivisionError)
    gate.wiring.edge.hello.payload = boom  # type: ignore[method-assign]
    client = gate.open()
    assert client.connect() == {}
    client.wire.lose()
    (line,) = closings(log)
    assert (line["cause"], line["code"]) == ("internal-error", 1011)
    assert len(gate.wiring.services.hub) == 0


def test_a_large_frame_before_authentication_is_refused(gate: Gate, log: list[LogEvent]) -> None:
    """A frame over 64 KiB is refused with 1009 from its header, before it is read."""
    client = gate.open()
    client.received()
    client.wire.receive(masked(b"", length=65_537))
    assert client.closed() == (1009, "preauth payload too large")
    client.wire.lose()
    (line,) = closings(log)
    assert line["cause"] == "preauth-payload-too-large"
    assert (line["payloadBytes"], line["limitBytes"]) == (65_537, 65_536)


def test_a_large_frame_is_taken_after_authentication(gate: Gate, log: list[LogEvent]) -> None:
    """After hello the limit is the announced maxPayload; beyond it the close is 1009."""
    client = gate.join()
    client.raw(b'"' + b"x" * 100_000 + b'"')
    (answer,) = client.received()
    assert answer["error"]["code"] == "INVALID_REQUEST"
    client.wire.receive(masked(b"", length=26_214_401))
    closed = client.closed()
    assert closed is not None
    assert closed[0] == 1009
    client.wire.lose()
    assert closings(log)[0]["cause"] == "protocol-error"


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


def test_one_principal_has_so_many_connections() -> None:
    """An identity's connections over its budget are refused with 1013; those of this machine are free."""
    gate = limited(connections_per_principal=2)
    far = "192.0.2.7"
    first, _ = gate.join(host=far), gate.join(host=far)
    third = gate.open(far)
    answer = third.connect()
    assert answer["error"]["message"] == "too many connections of this principal"
    assert third.closed() == (1013, "too many connections of this principal")
    for _ in range(3):
        gate.join()
    first.wire.lose()
    assert gate.join(host=far).call("health")["ok"]


def test_a_client_on_a_unix_socket_is_local(gate: Gate, log: list[LogEvent]) -> None:
    """Whoever comes over a UNIX socket is on this machine, and is logged as that."""
    wire = Wire()
    wire.peerAddr = UNIXAddress("/run/gateway.sock")
    client = Client(gate, wire)
    assert client.connect()["ok"]
    assert client.server.caller.peer.local
    client.wire.lose()
    assert closings(log)[0]["peer"] == "unix"


def test_a_refused_handshake_never_names_the_secret(gate: Gate, log: list[LogEvent]) -> None:
    """A wrong token appears neither in the answer nor in the close reason nor in the log."""
    client = gate.open()
    wrong = "canary-0123456789"
    answer = client.connect(auth={"token": wrong})
    client.wire.lose()
    assert answer["error"]["details"]["code"] == "AUTH_TOKEN_MISMATCH"
    assert wrong not in client.wire.sent.decode("latin-1")
    assert not any(wrong in str(value) for event in log for value in event.values())


def spend(gate: Gate) -> None:
    """Let strangers have used up their time."""
    gate.wiring.edge.turnstile._pay(1.0)


def test_a_stranger_that_writes_on_stands_in_line(gate: Gate) -> None:
    """Before its hello a client is read in its turn; once it is in it is read at once, as it comes."""
    turnstile = gate.wiring.edge.turnstile
    client = gate.open()
    spend(gate)
    client.wire.receive(b"\x81")
    assert client.server in turnstile
    assert client.wire.producerState == "paused"
    gate.clock.advance(1)
    assert client.wire.producerState == "producing"
    spend(gate)
    assert gate.join().call("health")["ok"]
    assert len(turnstile) == 0


def test_who_is_let_in_leaves_the_line(gate: Gate) -> None:
    """A client that wrote more while the store was asked is read again with its hello."""
    waiting = gate.stall_store()
    client = gate.open()
    client.raw(connect_frame(client, DEVICE))
    spend(gate)
    client.send(type="req", id="later", method="health")
    assert client.server in gate.wiring.edge.turnstile
    waiting[0]()
    assert client.server not in gate.wiring.edge.turnstile
    assert client.wire.producerState == "producing"


def test_the_time_in_line_is_not_the_client_s(gate: Gate) -> None:
    """Whose handshake is over time while it stands in line has its time once more, and not for ever."""
    edge, client = gate.wiring.edge, gate.open()
    for _ in range(2):
        gate.clock.advance(14.999)
        spend(gate)
        client.wire.receive(b"\x81" if len(client.received()) else b"")
        assert client.server in edge.turnstile
        assert client.closed() is None
        gate.clock.advance(0.001)
    assert client.closed() == (1000, "")
