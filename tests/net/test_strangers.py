"""Connections that are not authenticated, counted from the first moment."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.config import Config, ServerConfig
from gateway.core.attempts import canonical_address
from gateway.limits import LimitsConfig
from gateway.net.http import NotFound
from gateway.net.port import FULL_LOG_S, SwitchFactory
from gateway.net.site import Site
from gateway.net.strangers import Strangers
from gateway.testing import TOKEN
from tests.net.gate import CLI, Gate, limited
from tests.net.wire import Wire, head, masked, upgrade


class Port:
    """The port of a gateway in memory: what every connection comes through."""

    def __init__(self, gate: Gate) -> None:
        edge, sockets = gate.wiring.edge, gate.wiring.factory
        self.clock = gate.clock
        self.strangers = edge.strangers
        site = Site(NotFound(), gate.clock, websocket=sockets, strangers=edge.strangers)
        self.factory = SwitchFactory(sockets, site, gate.clock, strangers=edge.strangers)

    def open(self, host: str = "192.0.2.7") -> Wire:
        """Return the wire of a new connection that has sent nothing."""
        wire = Wire(host)
        wire.connect(self.factory.buildProtocol(wire.getPeer()))
        return wire


def refused(wire: Wire) -> bool:
    return wire.sent.startswith(b"HTTP/1.1 503 ") and b"Too many unauthenticated" in wire.sent


def test_addresses_are_counted_in_one_form() -> None:
    """Neither another spelling nor another address of one host's network is another budget."""
    strangers = Strangers(per_address=1, loopback=2)
    members: list[Any] = [object() for _ in range(5)]
    assert strangers.enter(members[0], "192.0.2.7")
    assert not strangers.enter(members[1], "::ffff:192.0.2.7")
    assert strangers.enter(members[2], "2001:db8::1")
    assert not strangers.enter(members[3], "2001:db8::2")
    assert strangers.enter(members[4], "2001:db8:0:1::1")


def test_all_together_have_a_cap() -> None:
    """Many addresses together have no more room than the total."""
    strangers = Strangers(per_address=5, loopback=5, maximum=2)
    members: list[Any] = [object() for _ in range(3)]
    assert strangers.enter(members[0], "192.0.2.1")
    assert strangers.enter(members[1], "192.0.2.2")
    assert not strangers.enter(members[2], "192.0.2.3")
    strangers.leave(members[0])
    assert strangers.enter(members[2], "192.0.2.3")


class Guest:
    """Holds a place, and gives it away when it is asked unless it is busy."""

    def __init__(self, address: str, *, busy: bool = False) -> None:
        self.address = address
        self.busy = busy
        self.asked = 0

    def give_way(self) -> bool:
        self.asked += 1
        return not self.busy


def enter(strangers: Strangers, *guests: Guest) -> list[bool]:
    return [strangers.enter(guest, guest.address) for guest in guests]


def test_the_heaviest_address_gives_way() -> None:
    """When all places are taken, a newcomer has that of the oldest of the address with the most."""
    strangers = Strangers(per_address=5, loopback=5, maximum=5)
    crowd = [Guest("192.0.2.1") for _ in range(3)]
    pair = [Guest("192.0.2.2") for _ in range(2)]
    assert all(enter(strangers, *crowd, *pair))

    assert enter(strangers, Guest("192.0.2.3")) == [True]
    assert [guest.asked for guest in (*crowd, *pair)] == [1, 0, 0, 0, 0]
    assert len(strangers) == 5
    assert enter(strangers, Guest("192.0.2.1")) == [False], "it would have the most itself"
    assert enter(strangers, Guest("192.0.2.4")) == [True]
    assert sum(guest.asked for guest in (*crowd[1:], *pair)) == 1
    crowded = [Guest(f"192.0.2.{number}") for number in range(5, 9)]
    assert enter(strangers, *crowded) == [True, False, False, False], "all have one now"


def test_who_is_being_served_keeps_its_place() -> None:
    """The next oldest is asked; where nobody can give way the newcomer is refused."""
    strangers = Strangers(per_address=9, loopback=9, maximum=3)
    busy, idle, last = (
        Guest("192.0.2.1", busy=True),
        Guest("192.0.2.1"),
        Guest("192.0.2.1", busy=True),
    )
    assert all(enter(strangers, busy, idle, last))
    assert enter(strangers, Guest("192.0.2.2")) == [True]
    assert (busy.asked, idle.asked, last.asked) == (1, 1, 0)
    assert enter(strangers, Guest("192.0.2.3")) == [False]
    assert len(strangers) == 3


def test_an_address_that_many_share_weighs_less() -> None:
    """Loopback and proxies have more places: what they weigh is the part of these that they take."""
    strangers = Strangers(per_address=4, loopback=12, maximum=12)
    proxied = [Guest("127.0.0.1") for _ in range(8)]
    crowd = [Guest("192.0.2.1") for _ in range(4)]
    assert all(enter(strangers, *proxied, *crowd))
    assert enter(strangers, Guest("192.0.2.2")) == [True]
    assert (sum(guest.asked for guest in proxied), crowd[0].asked) == (0, 1)


def test_few_places_are_weighed_as_they_are() -> None:
    """Where all have fewer places than one address could have, one of several that hold them gives way."""
    strangers = Strangers(per_address=32, loopback=1000, maximum=50)
    crowd = [Guest(f"127.0.{number % 7}.2") for number in range(50)]
    assert all(enter(strangers, *crowd))
    assert enter(strangers, Guest("127.0.0.1")) == [True]
    assert sum(guest.asked for guest in crowd) == 1


MOVES = st.tuples(
    st.sampled_from(["127.0.0.1", "::1", "192.0.2.1", "2001:db8::1", "2001:db8::2", "192.0.2.9"]),
    st.integers(0, 30),
    st.booleans(),
)


@given(st.lists(MOVES, max_size=80), st.integers(1, 4), st.integers(1, 9), st.integers(1, 12))
def test_places_are_given_fairly(
    moves: list[tuple[str, int, bool]], per_address: int, loopback: int, maximum: int
) -> None:
    """No bound is broken, what is said of room is true, and nobody gives way to who weighs as much."""
    strangers = Strangers(per_address=per_address, loopback=loopback, maximum=maximum)
    per_address, loopback = min(per_address, maximum), min(loopback, maximum)
    there: list[Guest] = []

    def count(address: str) -> int:
        return sum(canonical_address(g.address) == canonical_address(address) for g in there)

    def weight(address: str, more: int = 0) -> int:
        limit = loopback if address in ("127.0.0.1", "::1") else per_address
        return -(-(count(address) + more) * per_address // limit)

    for address, number, leave in moves:
        if leave and there:
            strangers.leave(there.pop(number % len(there)))
            continue
        guest = Guest(address)
        heaviest = max((weight(g.address) for g in there), default=0)
        full, own = len(there) == maximum, weight(address, 1)
        room = count(address) < (loopback if address == "::1" or "127" in address else per_address)
        room = room and (not full or heaviest > own)

        assert strangers.has_room(address) is room
        assert strangers.enter(guest, address) is room

        gone = [g for g in there if g.asked]
        assert len(gone) == (full and room)
        for loser in gone:
            assert weight(loser.address) == heaviest
            there.remove(loser)
        there += [guest] * room
        assert len(strangers) == len(there) <= maximum
    for guest in there:
        strangers.leave(guest)
    assert (len(strangers), strangers._lines, strangers._levels, strangers._heaviest) == (
        0,
        {},
        {},
        0,
    )


def silent_and_slow(port: Port) -> tuple[Wire, Wire, Wire]:
    """Fill three places: one of the address with two has half a head, one waits for its connect."""
    half, asked = port.open("192.0.2.1"), port.open("192.0.2.1")
    half.receive(b"GET / HTT")
    asked.receive(upgrade())
    alone = port.open("192.0.2.2")
    alone.receive(b"GET / HTT")
    return half, asked, alone


def test_a_flood_does_not_keep_others_out() -> None:
    """Those of the address with the most are told why they have to go; who is alone stays: the twin."""
    port = Port(limited(preauth_connections_max=3))
    half, asked, alone = silent_and_slow(port)

    newcomer = port.open("192.0.2.3")
    assert refused(half)
    newcomer.receive(upgrade())
    assert b"101" in newcomer.sent
    alone.receive(upgrade()[9:])
    assert b"101" in alone.sent
    assert not asked.disconnecting
    assert refused(port.open("192.0.2.4")), "nobody has more than one"


def test_who_owes_its_connect_gives_way_too() -> None:
    """A WebSocket that was not let in is closed with 1013 and the reason."""
    port = Port(limited(preauth_connections_max=2))
    first, second = port.open("192.0.2.1"), port.open("192.0.2.1")
    for wire in (first, second):
        wire.receive(upgrade())
    port.open("192.0.2.2").receive(upgrade())
    assert b"\x03\xf5Too many unauthenticated sockets" in first.sent
    assert b"Too many" not in second.sent


def test_an_idle_page_gives_way_and_a_busy_one_does_not() -> None:
    """An HTTP connection is ended between two requests only."""
    port = Port(limited(preauth_connections_max=2))
    first, second = port.open("192.0.2.1"), port.open("192.0.2.1")
    first.receive(head("/nothing"))
    second.receive(head("/nothing"))
    assert not refused(port.open("192.0.2.2"))
    assert b"404" in first.sent
    assert b"503" in first.sent
    assert b"503" not in second.sent


def test_who_sends_nothing_counts() -> None:
    """Silent sockets take places, are refused beyond the cap, and give them back when they end."""
    port = Port(limited(preauth_connections_per_address=2))
    silent = [port.open(), port.open()]
    third = port.open()
    assert refused(third)
    assert not refused(port.open("192.0.2.8"))
    silent[0].lose()
    last = port.open()
    assert not refused(last)
    port.clock.advance(15)
    assert all(wire.disconnected for wire in (silent[1], last)), "their time is over"


def test_a_connection_counts_once_while_its_protocol_changes() -> None:
    """From the first byte to the end of the handshake it is one stranger, then none."""
    gate = limited(preauth_connections_per_address=1)
    port = Port(gate)
    wire = port.open()
    wire.receive(upgrade())
    assert b"101" in wire.sent
    assert len(port.strangers) == 1
    assert refused(port.open())
    wire.lose()
    assert len(port.strangers) == 0
    http = port.open()
    http.receive(head("/nothing"))
    assert b"404" in http.sent
    assert len(port.strangers) == 1
    http.receive(upgrade())
    assert b"101" in http.sent
    assert len(port.strangers) == 1
    http.lose()
    assert len(port.strangers) == 0


def test_idle_http_connections_count_until_they_are_closed() -> None:
    """Keep-alive is no way to have more sockets, and a place comes back when one is closed."""
    port = Port(limited(preauth_connections_per_address=2))
    idle = [port.open(), port.open()]
    for wire in idle:
        wire.receive(head("/nothing"))
    assert refused(port.open())
    port.clock.advance(31)
    assert all(wire.disconnecting for wire in idle)
    idle[0].lose()
    assert not refused(port.open())


def test_a_proxy_s_address_has_room_for_its_clients() -> None:
    """Connections of a trusted proxy are counted by it as loopback is, and by client behind it."""
    limits = LimitsConfig(preauth_connections_per_address=1, preauth_connections_loopback=3)
    server = ServerConfig(trusted_proxies=["10.0.0.1"])
    port = Port(Gate(config=Config(server=server, limits=limits)))
    first, second, third = (port.open("10.0.0.1") for _ in range(3))
    assert refused(port.open("10.0.0.1"))
    first.receive(upgrade(X_Forwarded_For="192.0.2.7"))
    second.receive(upgrade(X_Forwarded_For="192.0.2.7"))
    third.receive(upgrade(X_Forwarded_For="192.0.2.8"))
    assert [b"101" in wire.sent for wire in (first, second, third)] == [True, False, True]


def test_a_full_house_is_logged_now_and_then(log: list[Any]) -> None:
    """A flood is one line a minute."""
    port = Port(limited(preauth_connections_per_address=1))
    port.open()

    def lines() -> int:
        return sum("some are refused" in str(event.get("log_format")) for event in log)

    for _ in range(50):
        assert refused(port.open())
    assert lines() == 1
    port.clock.advance(10)
    keep = port.open()
    assert refused(keep)
    port.clock.advance(FULL_LOG_S)
    port.open()
    assert refused(port.open())
    assert lines() == 2


def test_a_slow_client_still_gets_in() -> None:
    """Who needs twelve seconds for its head and twelve more for its connect is let in: the twin."""
    gate = Gate()
    port = Port(gate)
    wire = port.open()
    data = upgrade()
    for at in range(12):
        gate.clock.advance(1)
        wire.receive(data[at * 10 : at * 10 + 10])
    wire.receive(data[120:])
    assert b"101" in wire.sent
    gate.clock.advance(12)
    params = {"minProtocol": 4, "maxProtocol": 4, "client": CLI, "auth": {"token": TOKEN}}
    request = {"type": "req", "id": "c", "method": "connect", "params": params}
    wire.receive(masked(json.dumps(request).encode()))
    assert b'"id":"c","ok":true' in wire.sent
    assert len(port.strangers) == 0


def test_an_http_connection_that_finds_no_room() -> None:
    """Where the places go between the head and its request, the answer is the same 503."""
    gate = Gate()
    site = Site(NotFound(), gate.clock, strangers=Strangers(per_address=0, loopback=0))
    factory = SwitchFactory(gate.wiring.factory, site, gate.clock)
    wire = Wire()
    wire.connect(factory.buildProtocol(wire.getPeer()))
    wire.receive(head("/nothing"))
    assert refused(wire)
    assert b"404" not in wire.sent
    wire.lose()
    gate.clock.advance(60)
    assert gate.clock.getDelayedCalls() == []
