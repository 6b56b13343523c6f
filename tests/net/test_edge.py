"""What connections share: strangers counted by address, peers, and hooks of the opening that fail."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.logger import LogEvent

from gateway.core.access import Peer
from gateway.net.edge import MAX_USER_AGENT
from gateway.net.strangers import Strangers
from tests.net.gate import Client, Gate, boom, closings, limited
from tests.net.wire import Wire, close_frame, masked


def test_too_many_strangers_of_one_address_get_503(log: list[LogEvent]) -> None:
    """The connection over the cap of unauthenticated sockets is refused before the upgrade."""
    gate = limited(preauth_connections_per_address=2)
    first, second, third = (gate.open(host="192.0.2.7") for _ in range(3))
    assert "101" in first.status
    assert "101" in second.status
    assert "503" in third.status
    assert "Too many unauthenticated sockets" in third.wire.sent.decode()
    third.wire.lose()
    (line,) = closings(log)
    assert (line["cause"], line["httpStatus"]) == ("capacity", 503)
    assert line["reason"] == "Too many unauthenticated sockets"
    assert "101" in gate.open(host="192.0.2.8").status
    first.wire.lose()
    assert "101" in gate.open(host="192.0.2.7").status


def test_loopback_has_a_cap_of_its_own() -> None:
    """Local clients and proxies share an address, and so have more room."""
    gate = limited(preauth_connections_per_address=1, preauth_connections_loopback=3)
    assert ["101" in gate.open().status for _ in range(4)] == [True, True, True, False]


WAYS: dict[str, Any] = {
    "authenticated": lambda client: client.connect(),
    "wrong token": lambda client: client.connect(auth={"token": "wrong"}),
    "lost": lambda client: client.wire.lose(),
    "closed": lambda client: client.wire.receive(close_frame()),
    "garbage": lambda client: client.raw("garbage"),
    "violation": lambda client: client.wire.receive(b"\x81\x01x"),
    "too large": lambda client: client.wire.receive(masked(b"", length=70_000)),
    "timeout": lambda client: client.gate.clock.advance(15),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_stranger_s_place_is_given_back(way: str) -> None:
    """However the handshake ends, its place is free for the next stranger."""
    gate = limited(preauth_connections_loopback=1)
    client = gate.open()
    assert "503" in gate.open().status
    WAYS[way](client)
    assert "101" in gate.open().status


def test_a_place_that_was_taken_for_a_handshake_that_failed(gate: Gate) -> None:
    """An upgrade that fails after it got a place gives that back."""
    wire = Wire()
    client = Client(
        gate, wire, Sec_WebSocket_Extensions="permessage-deflate; server_max_window_bits=99"
    )
    assert "400" in client.status
    assert len(gate.wiring.edge.strangers) == 0


def test_strangers_leave_once() -> None:
    """Leaving twice, or without having entered, changes nothing."""
    strangers = Strangers(per_address=1, loopback=1)
    one: Any = object()
    strangers.leave(one)
    assert strangers.enter(one, "192.0.2.1")
    strangers.leave(one)
    strangers.leave(one)
    assert len(strangers) == 0
    assert strangers.enter(one, "192.0.2.1")


def test_a_peer_is_what_its_request_said(gate: Gate) -> None:
    """Host, origin and user agent are the request's; any proxy's header says that it was forwarded."""
    edge = gate.wiring.edge
    plain = edge.peer_of(Peer("127.0.0.1", 5), {})
    assert plain == Peer("127.0.0.1", 5)
    headers = {"host": "h", "origin": "o", "user-agent": "u" * 20_000, "x-real-ip": "10.0.0.1"}
    told = edge.peer_of(Peer("127.0.0.1", 5), headers)
    assert (told.host, told.origin, told.forwarded) == ("h", "o", True)
    assert told.user_agent == "u" * MAX_USER_AGENT
    assert not told.local


# -- hooks that fail


@pytest.mark.parametrize(("attribute", "status"), [("peer_of", "500"), ("challenge", "101")])
def test_an_opening_that_fails(
    gate: Gate,
    log: list[LogEvent],
    expected_failures: list[type[BaseException]],
    attribute: str,
    status: str,
) -> None:
    """A fault while a connection opens is logged once, told as 500 or 1011, and leaves nothing behind."""
    expected_failures.append(ZeroDivisionError)
    setattr(gate.wiring.edge, attribute, boom)
    client = gate.open()
    assert status in client.status
    if status == "101":
        assert client.closed() == (1011, "internal error")
    client.wire.lose()
    gate.clock.advance(20)
    (line,) = closings(log)
    assert (line["cause"], line["handshake"]) == ("internal-error", "failed")
    edge = gate.wiring.edge
    assert len(edge.strangers) == len(edge.deadlines) == len(edge.farewells) == 0
    assert gate.clock.getDelayedCalls() == []


def test_autobahn_s_own_fault_is_an_internal_error(gate: Gate, log: list[LogEvent]) -> None:
    """What Autobahn answers with 500 counts as a fault of ours, without its text."""
    wire = Wire()
    server = wire.connect(gate.wiring.factory.buildProtocol(wire.getPeer()))
    server.failHandshake("Internal server error: secret", 500)
    assert b"secret" not in wire.sent
    wire.lose()
    (line,) = closings(log)
    assert (line["cause"], line["reason"]) == ("internal-error", "Internal server error")


@pytest.mark.parametrize(
    ("hook", "data"),
    [
        ("onPing", masked(b"", 9)),
        ("onPong", masked(b"", 10)),
        ("onCloseFrame", close_frame()),
        ("onMessageBegin", masked(b"{", fin=False)),
        ("onMessageFrameData", masked(b"{", fin=False)),
    ],
)
def test_a_hook_that_fails(
    gate: Gate,
    log: list[LogEvent],
    expected_failures: list[type[BaseException]],
    hook: str,
    data: bytes,
) -> None:
    """Nothing that a hook raises reaches the reactor: it is logged, and ends the connection with 1011."""
    expected_failures.append(ZeroDivisionError)
    client = gate.join()
    setattr(client.server, hook, boom)
    client.wire.receive(data)
    assert client.closed() == (1011, "internal error")
    client.wire.lose()
    assert [line["cause"] for line in closings(log)] == ["internal-error"]
