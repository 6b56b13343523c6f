"""Bytes that are no WebSocket, frames that are no JSON, JSON that is no request (attack 17)."""

from __future__ import annotations

import pytest
from twisted.logger import LogEvent

from tests.net.gate import Client, Gate, closings
from tests.net.wire import Wire, close_frame, masked, upgrade

BAD_FRAMES = {
    "reserved bit 1": (masked(b"{}", rsv=4), 1002),
    "reserved bit 2": (masked(b"{}", rsv=2), 1002),
    "reserved bit 3": (masked(b"{}", rsv=1), 1002),
    "reserved opcode": (masked(b"{}", 3), 1002),
    "reserved control opcode": (masked(b"", 11), 1002),
    "unmasked": (masked(b"{}", mask=None), 1002),
    "long ping": (masked(b"x" * 126, 9), 1002),
    "long close": (masked(b"\x03\xe8" + b"x" * 126, 8), 1002),
    "fragmented ping": (masked(b"", 9, fin=False), 1002),
    "continuation of nothing": (masked(b"{}", 0), 1002),
    "message within a message": (masked(b"{", 1, fin=False) + masked(b"{}", 1), 1002),
    "length not minimal": (masked(b"{}", form=16), 1002),
    "length not minimal, 64 bit": (masked(b"{}", form=64), 1002),
    "length with the top bit": (masked(b"", form=64, length=(1 << 63) + 5), 1002),
    "bad UTF-8": (masked(b'{"a":"\xff"}'), 1007),
    "half a character": (masked(b'"\xe2\x82"'), 1007),
    "overlong slash": (masked(b'"\xc0\xaf"'), 1007),
    "surrogate in UTF-8": (masked(b'"\xed\xa0\x80"'), 1007),
    "above Unicode": (masked(b'"\xf4\x90\x80\x80"'), 1007),
    "bad UTF-8 over fragments": (masked(b'"\xe2', fin=False) + masked(b'\x28"', 0), 1007),
    "close without a whole code": (masked(b"\x03", 8), 1002),
    "close with a reserved code": (close_frame(1005), 1002),
    "close with code 0": (close_frame(0), 1002),
    "close reason not UTF-8": (close_frame(1000, b"\xff"), 1007),
}
"""What breaks RFC 6455, and the code of the close."""

BAD_TEXTS = {
    "empty": b"",
    "not JSON": b"hello",
    "half": b'{"type":"req","id":"1","method":"health"',
    "two values": b'{"type":"req","id":"1","method":"health"}{}',
    "deep list": b"[" * 20_000,
    "deep object": b'{"a":' * 9000 + b"1" + b"}" * 9000,
    "deep params": b'{"type":"req","id":"1","method":"sessions.list","params":'
    + b"[" * 9000
    + b"]" * 9000
    + b"}",
    "huge integer": b'{"type":"req","id":"1","method":"sessions.list","params":{"limit":'
    + b"9" * 5000
    + b"}}",
    "huge exponent": b'{"type":"req","id":"1","method":"sessions.list","params":{"limit":1e999999}}',
    "not a number": b'{"type":"req","id":"1","method":"sessions.list","params":{"limit":NaN}}',
    "infinity": b'{"type":"req","id":"1","method":"sessions.list","params":{"limit":-Infinity}}',
    "lone surrogate": b'{"type":"req","id":"\\ud800","method":"sessions.list"}',
    "lone surrogate in params": b'{"type":"req","id":"1","method":"sessions.list","params":{"label":'
    b'"\\udfff"}}',
    "surrogate in a method": b'{"type":"req","id":"1","method":"\\ud800"}',
    "null character": b'{"type":"req","id":"\\u0000","method":"\\u0000"}',
    "byte order mark": b'\xef\xbb\xbf{"type":"req","id":"1","method":"health"}',
    "keys twice": b'{"type":"req","id":"1","id":"2","method":"health","method":"config.get"}',
    "type twice": b'{"type":"event","type":"req","id":"1","method":"health"}',
    "params twice": b'{"type":"req","id":"1","method":"sessions.list","params":{"limit":1,"limit":"x"}}',
    "an event": b'{"type":"event","event":"tick","payload":{}}',
    "a response": b'{"type":"res","id":"1","ok":true,"payload":{}}',
    "list": b"[1,2]",
    "string": b'"health"',
    "null": b"null",
    "id is a number": b'{"type":"req","id":1,"method":"health"}',
    "id is an object": b'{"type":"req","id":{"a":[1]},"method":"health"}',
    "long id": b'{"type":"req","id":"' + b"i" * 50_000 + b'","method":"health"}',
    "long method": b'{"type":"req","id":"1","method":"' + b"m" * 50_000 + b'"}',
    "prototype": b'{"type":"req","id":"1","method":"__proto__","params":{"__proto__":{"a":1}}}',
    "dunder": b'{"type":"req","id":"1","method":"__class__"}',
    "params is a number": b'{"type":"req","id":"1","method":"sessions.list","params":5}',
    "extra key": b'{"type":"req","id":"1","method":"health","scopes":["operator.admin"]}',
}


def unharmed(client: Client) -> bool:
    """Whether the connection still serves."""
    answer = client.call("health")
    return bool(answer["ok"])


@pytest.mark.parametrize("joined", [False, True], ids=["stranger", "joined"])
@pytest.mark.parametrize("name", BAD_FRAMES)
def test_s17_a_broken_frame_closes_with_a_cause(
    gate: Gate, log: list[LogEvent], name: str, joined: bool
) -> None:
    """What breaks the WebSocket protocol ends the connection with the protocol's code, and a cause."""
    data, code = BAD_FRAMES[name]
    client = gate.open()
    if joined:
        client.connect()
    client.wire.receive(data)
    closed = client.closed()
    assert closed is not None
    if name == "length with the top bit":
        code = closed[0]  # too large, or no length: either is true
    assert closed[0] in (code, 1002)
    client.wire.lose()
    (line,) = closings(log)
    assert line["cause"] in ("protocol-error", "preauth-payload-too-large", "peer-closed")
    assert len(gate.wiring.services.hub) == 0


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("name", BAD_TEXTS)
def test_s17_a_bad_message_is_answered_and_hurts_nothing(
    gate: Gate, name: str, protocol: int
) -> None:
    """After hello whatever is no request is answered or ignored; the connection goes on to serve."""
    client = gate.join(protocol)
    client.raw(BAD_TEXTS[name], opcode=2 if protocol == 3 else 1)
    for frame in client.received():
        assert "internal" not in str(frame)
        assert len(str(frame)) < 60_000
    assert client.server.closing is None
    assert unharmed(client)


@pytest.mark.parametrize("name", BAD_TEXTS)
def test_s17_a_bad_first_message_ends_it(gate: Gate, log: list[LogEvent], name: str) -> None:
    """Before hello the same ends the connection, and nothing else happens."""
    client = gate.open()
    client.received()
    client.raw(BAD_TEXTS[name])
    client.wire.lose()
    (line,) = closings(log)
    assert line["cause"] == "invalid-handshake"
    assert line["code"] in (1000, 1008)


ODD_UPGRADES = {
    "short key": upgrade(Sec_WebSocket_Key="short"),
    "old version": upgrade(Sec_WebSocket_Version="12"),
    "huge version": upgrade(Sec_WebSocket_Version="9" * 20),
    "two upgrades": upgrade(Upgrade="websocket, h2c"),
    "no connection header": upgrade(Connection="keep-alive"),
    "control characters": upgrade(X_Odd="\x00\x01"),
    "bytes in the path": upgrade("/\xff\xfe"),
    "long path": upgrade("/" + "a" * 8000),
    "whole address": upgrade("http://evil.example/"),
    "asterisk": upgrade("*"),
    "many protocols": upgrade(Sec_WebSocket_Protocol="," * 4000),
    "many extensions": upgrade(Sec_WebSocket_Extensions=";" * 4000),
    "two hosts": upgrade(Host="evil.example"),
    "no headers": b"GET / HTTP/1.1\r\nupgrade: websocket\r\n\r\n",
    "HTTP 9.9": b"GET / HTTP/9.9\r\nHost: x\r\nupgrade: websocket\r\n\r\n",
    "no target": b"GET\r\nupgrade: websocket\r\n\r\n",
    "bad line": b"GET / HTTP/1.1\r\n: x\r\nHost\r\n\xff: \xff\r\nupgrade: websocket\r\n\r\n",
}


@pytest.mark.parametrize("name", ODD_UPGRADES)
def test_s17_an_odd_upgrade_is_refused_or_served(
    gate: Gate, log: list[LogEvent], name: str
) -> None:
    """An upgrade request that is at fault gets an HTTP answer: nothing is raised, nothing stays."""
    wire = Wire()
    wire.connect(gate.wiring.factory.buildProtocol(wire.getPeer()))
    wire.receive(ODD_UPGRADES[name])
    assert wire.sent.startswith(b"HTTP/1.1 ")
    wire.lose()
    assert gate.wiring.factory.open_connections == []
    (line,) = closings(log)
    assert line["cause"] in ("invalid-handshake", "peer-gone")
