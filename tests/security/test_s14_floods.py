"""Sockets that say nothing, or half of what they should, take all the room (attack 14)."""

from __future__ import annotations

import pytest

from gateway.config import Config
from gateway.limits import LimitsConfig
from gateway.net.turnstile import SHARE
from tests.net.gate import DEVICE, UI, Gate, limited
from tests.net.test_turnstile import Gate as Turnstiles
from tests.net.wire import masked

FAR = "192.0.2.7"


@pytest.mark.parametrize("spell", ["{}", "::ffff:{}"])
def test_s14_one_address_has_so_many_strangers(gate: Gate, spell: str) -> None:
    """Beyond 32 silent sockets of one address the next upgrade is answered 503; others are let in."""
    silent = [gate.open(spell.format(FAR) if n % 2 else FAR) for n in range(32)]
    assert gate.open(FAR).status == "HTTP/1.1 503 Service Unavailable"
    assert gate.join(host="198.51.100.1").call("health")["ok"]
    assert gate.join().call("health")["ok"]
    silent[0].wire.lose()
    assert gate.join(host=FAR).call("health")["ok"], "there is room again"


def test_s14_all_strangers_together_are_bounded() -> None:
    """Whatever addresses they come from, so many may be unauthenticated at once."""
    gate = limited(preauth_connections_max=100)
    for number in range(150):
        gate.open(f"2001:db8:{number:x}::1")
    assert len(gate.wiring.edge.strangers) <= 100
    gate.clock.advance(16)
    assert gate.join(host="198.51.100.1").call("health")["ok"], (
        "silence ends, and there is room again"
    )


def test_s14_those_who_are_in_are_not_affected() -> None:
    """A connection that is authenticated takes no room of strangers, and works on through a flood."""
    gate = limited(preauth_connections_max=20, preauth_connections_per_address=10)
    inside = [gate.join(host=FAR) for _ in range(15)]
    flood = [gate.open(f"198.51.100.{number}") for number in range(40)]
    assert {client.status.split()[1] for client in flood} == {"101", "503"}
    assert all(client.call("health")["ok"] for client in inside)


DRIPS = {
    "silence": (b"", b""),
    "fragments": (masked(b"{", fin=False), masked(b" ", 0, fin=False)),
    "pings": (b"", masked(b"", 9)),
    "a frame in bytes": (masked(b"", length=60_000, mask=bytes(4)), b" "),
}
"""What a stranger sends at first, and then every second."""


@pytest.mark.parametrize("name", DRIPS)
def test_s14_a_handshake_that_drips_ends_in_time(gate: Gate, name: str) -> None:
    """Nothing that a stranger sends, short of its connect, gives it more time than it has."""
    first, each = DRIPS[name]
    client = gate.open(FAR)
    client.wire.receive(first)
    for _ in range(14):
        gate.clock.advance(1)
        client.wire.receive(each)
    assert client.server.closing is None
    gate.clock.advance(2)
    assert client.server.closing is not None
    assert client.server.closing.cause.value == "handshake-timeout"
    gate.clock.advance(5)
    client.wire.lose()
    assert gate.wiring.factory.open_connections == []
    assert len(gate.wiring.edge.strangers) == 0


def test_s14_nothing_is_left_of_a_flood(gate: Gate) -> None:
    """After a thousand that never spoke, nothing of any is kept: no timer, no entry, no count."""
    for number in range(1000):
        gate.open(f"198.51.100.{number % 250}").wire.lose()
    gate.clock.advance(30)
    edge = gate.wiring.edge
    assert (len(edge.strangers), len(edge.deadlines), len(edge.farewells)) == (0, 0, 0)
    assert gate.wiring.factory.open_connections == []
    assert len(gate.wiring.services.ledger.closed(limit=5000)) <= 2000


def test_s14_twin_a_client_that_needs_its_time_is_let_in(gate: Gate) -> None:
    """A client that answers its challenge after 14 s is as welcome as any."""
    client = gate.open(FAR)
    gate.clock.advance(14)
    assert client.connect()["ok"]
    gate.clock.advance(60)
    assert client.server.closing is None


def test_s14_twin_the_gateway_s_own_delay_is_not_the_client_s() -> None:
    """However long the store takes to decide, a client that answered in time is let in."""
    gate = Gate(config=Config(limits=LimitsConfig(handshake_timeout_s=5)))
    waiting = gate.stall_store()
    client = gate.open(FAR)
    client.connect(client=UI, device=DEVICE)
    gate.clock.advance(60)
    assert waiting
    assert client.server.closing is None


def test_s14_a_flood_that_never_pauses_has_its_share_of_the_time() -> None:
    """A thousand sockets that write as fast as they can take a fifth of the time, and no more."""
    gate = Turnstiles()
    flood = gate.strangers(1000)
    gate.worked = 0.0
    gate.flood(flood, 2)
    assert gate.worked <= 2 * (SHARE + 0.02)
    assert sum(not stranger.transport.reading for stranger in flood) > 900, "they wait unread"


def test_s14_twin_a_newcomer_is_read_soon_in_a_flood_of_others() -> None:
    """Who comes from elsewhere while a host floods is read within a few turns, and so is who is let in."""
    gate = Turnstiles()
    flood = gate.strangers(1000)
    gate.flood(flood, 1)
    (newcomer,) = gate.strangers(1, "198.51.100.7")
    gate.flood([*flood, newcomer], 0.1)
    assert newcomer.served
    gate.turnstile.left(newcomer)
    assert newcomer.transport.reading
