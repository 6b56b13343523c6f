"""The one line that tells of a connection's end, refused upgrades included."""

from __future__ import annotations

import pytest
from twisted.logger import LogEvent, formatEvent

from gateway.errors import CloseCause, CloseCode
from gateway.net.facts import printable
from tests.net.gate import Client, Gate, closings
from tests.net.wire import Wire, close_frame, upgrade


@pytest.mark.parametrize(
    ("target", "headers", "reason"),
    [
        ("/#token=canary", {}, "HTTP requested resource contains a fragment identifier"),
        ("/ ?token=canary", {}, "Bad HTTP request status line"),
        ("http://[canary", {}, "Bad HTTP request resource - could not parse"),
        ("/", {"Sec_WebSocket_Protocol": "canary, canary"}, "duplicate protocol"),
        ("/", {"Origin": "http://[canary"}, "HTTP Origin header invalid"),
        ("/?token=canary", {"Sec_WebSocket_Version": "9"}, "WebSocket version 9 not supported ("),
    ],
)
def test_a_refused_upgrade_is_one_line_without_the_peer_s_words(
    gate: Gate, log: list[LogEvent], target: str, headers: dict[str, str], reason: str
) -> None:
    """An upgrade that is refused is logged once, without the URL or what else may hold a secret."""
    wire = Wire()
    factory = gate.wiring.factory
    wire.connect(factory.buildProtocol(wire.getPeer()))
    wire.receive(upgrade(target, **headers))
    assert wire.sent.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert wire.log[-1] == ("lose",)
    wire.lose()
    (event,) = log
    assert (event["cause"], event["code"]) == ("invalid-handshake", 1006)
    assert event["reason"].startswith(reason.split(" (")[0])
    assert event["httpStatus"] == 400
    assert "canary" not in str(event)
    assert len(gate.wiring.edge.strangers) == len(factory) == 0
    assert gate.wiring.metrics._refused._series == {("invalid-handshake",): 1}


def test_close_before_the_handshake_is_answered_with_503(gate: Gate, log: list[LogEvent]) -> None:
    """A connection that has not sent its upgrade yet is told 503 when the gateway closes it."""
    wire = Wire()
    server = wire.connect(gate.wiring.factory.buildProtocol(wire.getPeer()))
    server.close(CloseCause.DRAIN, CloseCode.RESTART, "service restart")
    assert wire.sent.startswith(b"HTTP/1.1 503 ")
    wire.receive(b"GET / HTTP/1.1\r\n\r\n")
    gate.clock.advance(1.1)
    assert wire.log[-1] == ("abort",)
    wire.lose()
    (line,) = closings(log)
    assert (line["cause"], line["handshake"]) == ("drain", "pending")


def test_a_refused_upgrade_that_does_not_let_go(gate: Gate) -> None:
    """Who does not read why its upgrade was refused is cut after the grace."""
    client = Client(gate, Wire(), Sec_WebSocket_Version="9")
    assert "400" in client.status
    gate.clock.advance(1.1)
    assert client.wire.log[-1] == ("abort",)


def test_the_line_of_a_known_client(gate: Gate, log: list[LogEvent]) -> None:
    """The end of a client that was let in is told at level info, in the keys that operators know."""
    client = gate.join()
    gate.clock.advance(1.5)
    client.wire.receive(close_frame(1000, b"bye"))
    client.wire.lose()
    (line,) = closings(log)
    assert line["log_level"].name == "info"
    assert formatEvent(line) == (
        f"closed conn={client.server.conn_id} cause=peer-closed code=1000 reason=bye "
        "peer=127.0.0.1:40000 client=cli cli v1.0 durationMs=1500 handshake=connected"
    )
    assert (line["role"], line["framesIn"], line["framesOut"]) == ("operator", 1, 2)


def test_the_line_of_a_stranger(gate: Gate, log: list[LogEvent]) -> None:
    """The end of a client that never was let in is a warning that says where it came from."""
    client = gate.open("::1", Origin="http://a.example", User_Agent="curl")
    client.wire.lose()
    (line,) = closings(log)
    assert line["log_level"].name == "warn"
    text = formatEvent(line)
    assert text.startswith(f"closed conn={client.server.conn_id} cause=peer-gone code=1006 reason=")
    assert text.endswith(
        "peer=[::1]:40000 client=n/a durationMs=0 handshake=pending before connect "
        "origin=http://a.example host=127.0.0.1:18789 ua=curl"
    )


def test_what_clients_say_is_cleaned_for_the_log(gate: Gate, log: list[LogEvent]) -> None:
    """Neither control characters nor more than 300 characters of anything a client said reach the log."""
    dirt = "a\u202e\x1b[31m\u200bb" + "c" * 500
    client = gate.open(User_Agent="a\tb" + "c" * 500)
    client.received()
    client.send(type="re\nq", id="x\x00", method=dirt)
    client.server.close(CloseCause.DRAIN, 1012, "again", note="x\ny", number=7)
    client.wire.lose()
    (line,) = closings(log)
    assert line["userAgent"] == "a\tb".replace("\t", " ") + "c" * 297
    assert (line["lastFrameType"], line["lastFrameId"]) == ("re q", "x")
    assert line["lastFrameMethod"].startswith("a [31m bccc")
    assert (line["note"], line["number"]) == ("x y", 7)


def test_printable() -> None:
    """Lone surrogates, tags and bidi controls are no text for a log."""
    assert printable("a\ud800\U000e0041b\u2066c") == "a b c"
    assert printable(None) is None


def test_ends_are_counted_once(gate: Gate) -> None:
    """Each end counts once by its cause, refused handshakes by theirs, and clients that leave are no refusal."""  # noqa: E501
    for _ in range(2):
        refused = gate.open()
        refused.connect(auth={"token": "wrong"})
        refused.server.close(CloseCause.DRAIN, CloseCode.RESTART, "too late")
        refused.wire.lose()
    gate.join().wire.lose()
    gate.open().wire.lose()
    metrics = gate.wiring.metrics
    assert metrics._closed._series == {("unauthorized",): 2, ("peer-gone",): 2}
    assert metrics._refused._series == {("unauthorized",): 2}
    assert set(metrics._connections._series.values()) == {0}
