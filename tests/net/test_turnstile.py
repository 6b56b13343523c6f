"""gateway.net.turnstile: strangers have a share of the loop's time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.net.turnstile import (
    ACCEPT_S,
    DEBT_S,
    PACE_S,
    PURSE_S,
    QUIET_SHARE,
    READ_S,
    REFUSE_S,
    SHARE,
    TLS_S,
    Turnstile,
)
from gateway.testing import FakeClock

COST = 0.0005
"""What the work of each read takes in these tests."""


class Transport:
    """Notes whether it is read."""

    reading = True

    def pauseProducing(self) -> None:
        self.reading = False

    def resumeProducing(self) -> None:
        self.reading = True


class Stranger:
    """A connection that says something whenever it is read."""

    held = False

    def __init__(self, gate: Gate, address: str) -> None:
        self.transport = Transport()
        self.address = address
        self.gate = gate
        self.served = 0
        self.strange = True

    def speak(self) -> None:
        """Have a read arrive."""
        self.gate.turnstile.serve(self, self._work, b"x", lambda: self.strange)

    def _work(self, data: bytes) -> None:
        self.served += len(data)
        self.gate.worked += COST + READ_S
        self.gate.clock.advance(COST)


class Gate:
    """A turnstile, and how long it let strangers work."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.asked = 0
        self.turnstile = Turnstile(self.clock, asked=lambda: self.asked)
        self.worked = 0.0
        self.busy = True

    def strangers(self, count: int, address: str = "192.0.2.1") -> list[Stranger]:
        """Return so many connections that have just come."""
        made = [Stranger(self, address) for _ in range(count)]
        for stranger in made:
            self.turnstile.came(stranger)
        return made

    def flood(self, strangers: list[Stranger], seconds: float) -> None:
        """Let everybody who is read speak in every turn of the loop."""
        end = self.clock.seconds() + seconds
        while self.clock.seconds() < end:
            self.asked += self.busy
            for stranger in strangers:
                if stranger.transport.reading:
                    stranger.speak()
            self.clock.advance(PACE_S)


@pytest.fixture
def gate() -> Gate:
    """Return a turnstile that nobody has passed."""
    return Gate()


def test_few_are_served_as_they_come(gate: Gate) -> None:
    """As long as the purse is not empty nobody waits, and no timer is armed."""
    for stranger in gate.strangers(1):
        stranger.speak()
        assert stranger.transport.reading

    assert len(gate.turnstile) == 0
    assert not gate.clock.getDelayedCalls()


def test_a_flood_has_its_share(gate: Gate) -> None:
    """However many speak without a pause, they work for their part of the time, and all have a turn."""
    crowd = gate.strangers(50)

    gate.flood(crowd, 10.0)

    assert gate.worked <= 10.0 * SHARE * 1.15 + PURSE_S
    assert gate.worked >= 10.0 * SHARE * 0.5
    served = sorted(stranger.served for stranger in crowd)
    assert served[0] > 0
    assert served[-1] - served[0] <= max(2, served[-1] // 4)


def test_a_quiet_gateway_is_theirs(gate: Gate) -> None:
    """While nobody who is in asks for anything, strangers have nearly all of the time."""
    crowd = gate.strangers(50)
    gate.busy = False

    gate.flood(crowd, 10.0)

    assert 10.0 * SHARE * 1.5 < gate.worked <= 10.0 * QUIET_SHARE * 1.15 + PURSE_S


def test_who_is_new_goes_before_those_that_come_again(gate: Gate) -> None:
    """A newcomer in a flood is read soon, though a thousand of its address stand in line."""
    crowd = gate.strangers(1000)
    gate.flood(crowd, 5.0)
    assert all(stranger.served for stranger in crowd)

    (newcomer,) = gate.strangers(1)

    assert until_served(gate, newcomer, crowd) < 0.1


def test_addresses_have_turns(gate: Gate) -> None:
    """Who comes from elsewhere does not wait for a host that opens sockets faster than they are served."""
    crowd = gate.strangers(5000)
    gate.flood(crowd, 1.0)
    assert not all(stranger.served for stranger in crowd)

    (newcomer,) = gate.strangers(1, "192.0.2.2")

    assert until_served(gate, newcomer, crowd) < PURSE_S / SHARE + 0.1


def until_served(gate: Gate, newcomer: Stranger, crowd: list[Stranger]) -> float:
    """Return how long it takes until a newcomer is served in a flood."""
    began = gate.clock.seconds()
    while not newcomer.served:
        gate.flood([*crowd, newcomer], 2 * PACE_S)
    return gate.clock.seconds() - began


def test_who_is_silent_delays_nobody(gate: Gate) -> None:
    """Ten thousand sockets that say nothing do not stand in line once they were let in."""
    silent = gate.strangers(10_000)
    while len(gate.turnstile):
        gate.clock.advance(PACE_S)

    (speaker,) = gate.strangers(1)
    gate.clock.advance(1.0)
    speaker.speak()

    assert speaker.transport.reading
    assert all(stranger.transport.reading for stranger in silent)
    assert gate.clock.seconds() < 10_001 * (ACCEPT_S + READ_S) / SHARE


def test_who_is_let_in_is_read_at_once(gate: Gate) -> None:
    """Who is no stranger any more leaves the line, and does not come to stand in it again."""
    crowd = gate.strangers(300)
    waiting = next(stranger for stranger in crowd if stranger in gate.turnstile)

    gate.turnstile.left(waiting)
    waiting.strange = False
    waiting.speak()

    assert waiting.transport.reading
    assert waiting not in gate.turnstile


def test_who_is_gone_is_forgotten(gate: Gate) -> None:
    """A connection that is lost leaves nothing behind, and neither does a gateway that stops."""
    crowd = gate.strangers(300)
    for stranger in crowd[:200]:
        gate.turnstile.lost(stranger)
    gate.turnstile.lost(crowd[0])

    assert not any(stranger in gate.turnstile for stranger in crowd[:200])
    assert len(gate.turnstile) > 0
    gate.turnstile.stop()
    gate.turnstile.stop()
    assert len(gate.turnstile) == 0
    assert not gate.clock.getDelayedCalls()


def test_what_fails_is_paid_too(gate: Gate) -> None:
    """Work that raises costs what it took, and who caused it waits like the others."""
    crowd = gate.strangers(300)

    def fail(data: bytes) -> None:
        raise RuntimeError(data.decode())

    with pytest.raises(RuntimeError):
        gate.turnstile.serve(crowd[0], fail, b"boom", lambda: True)

    assert crowd[0] in gate.turnstile


@given(st.lists(st.sampled_from(["come", "speak", "go", "in", "wait"]), max_size=400))
def test_a_member_is_read_or_waits(steps: list[str]) -> None:
    """At any moment who is not read stands in line, and who stands in line has a timer that ends it."""
    gate = Gate()
    there = gate.strangers(30)
    for number, step in enumerate(steps):
        chosen = there[number % len(there)] if there else None
        if step == "come":
            there += gate.strangers(3)
        elif step == "wait":
            gate.clock.advance(PACE_S * 2)
        elif chosen is not None and step == "speak" and chosen.transport.reading:
            chosen.speak()
        elif chosen is not None and step == "go":
            gate.turnstile.lost(chosen)
            there.remove(chosen)
        elif chosen is not None and step == "in":
            gate.turnstile.left(chosen)
            chosen.strange = False
            there.remove(chosen)
        waiting = [stranger for stranger in there if stranger in gate.turnstile]
        assert waiting == [stranger for stranger in there if not stranger.transport.reading]
        assert len(gate.turnstile) == len(waiting)
        assert bool(gate.clock.getDelayedCalls()) or not waiting


def test_whom_its_protocol_holds_is_not_read(gate: Gate) -> None:
    """Neither its turn, nor a hello, nor the stop has somebody read whose own protocol paused reading."""
    crowd = [stranger for stranger in gate.strangers(300) if stranger in gate.turnstile]
    turn, hello, stop = crowd[0], crowd[100], crowd[-1]
    for stranger in (turn, hello, stop):
        stranger.held = True
    gate.clock.advance(PACE_S * 10)
    gate.turnstile.left(hello)
    assert stop in gate.turnstile
    gate.turnstile.stop()
    assert turn not in gate.turnstile
    read = [stranger for stranger in crowd if stranger.transport.reading]
    assert read == [stranger for stranger in crowd if not stranger.held]


def test_a_protocol_in_anothers_place_is_paid_once(gate: Gate) -> None:
    """What a handed over connection does within the read that handed it over costs what it took."""
    first, second = gate.strangers(2)
    before = gate.turnstile._purse

    def hand_over(data: bytes) -> None:
        gate.turnstile.serve(second, second._work, data, lambda: True)

    gate.turnstile.serve(first, hand_over, b"x", lambda: False)

    assert before - gate.turnstile._purse == pytest.approx(COST * (1 - QUIET_SHARE) + READ_S)


def test_who_stands_in_line_at_the_stop_is_read(gate: Gate) -> None:
    """A gateway that stops lets nobody wait for a turn that never comes; one that starts again does."""
    crowd = gate.strangers(300)
    gate.turnstile.stop()
    assert all(stranger.transport.reading for stranger in crowd)
    crowd += gate.strangers(300)
    assert len(gate.turnstile) == 0
    assert not gate.clock.getDelayedCalls()
    gate.turnstile.start()
    gate.strangers(1)
    assert len(gate.turnstile) == 1


def test_a_tls_handshake_is_paid(gate: Gate) -> None:
    """It is done below what is measured, so that it is paid on entry, and given back to who is let in."""
    stranger = Stranger(gate, "192.0.2.1")
    stranger.transport.wrappedProtocol = None  # type: ignore[attr-defined]
    gate.turnstile.came(stranger)
    assert gate.turnstile._purse == pytest.approx(PURSE_S - ACCEPT_S - TLS_S)
    gate.turnstile.known(stranger, 0.0)
    assert gate.turnstile._purse >= PURSE_S - READ_S


class Port(Transport):
    """Accepts as long as it is read."""


def test_ports_wait_too(gate: Gate) -> None:
    """While strangers owe nobody is accepted; what is refused at once counts, if less."""
    port = Port()
    gate.turnstile.pace(port)
    assert port.reading
    for _ in range(int(PURSE_S / REFUSE_S) + 1):
        gate.turnstile.refused()
    gate.turnstile.pace(port)
    gate.turnstile.pace(port)
    assert not port.reading
    gate.clock.advance(PACE_S)
    assert port.reading
    assert not gate.clock.getDelayedCalls()


def test_ports_wait_until_it_is_paid(gate: Gate) -> None:
    """Work that goes on meanwhile is paid first; a stop opens the ports."""
    port = Port()
    gate.asked += 1
    gate.turnstile._pay(2 * DEBT_S)
    gate.turnstile.pace(port)
    gate.clock.advance(PACE_S)
    gate.turnstile._pay(DEBT_S)
    gate.clock.advance(DEBT_S / SHARE - PACE_S)
    assert not port.reading
    gate.clock.advance(DEBT_S / SHARE)
    assert port.reading
    gate.turnstile._pay(2 * DEBT_S)
    gate.turnstile.pace(port)
    assert not port.reading
    gate.turnstile.stop()
    assert port.reading
    gate.turnstile.pace(port)
    assert port.reading
    assert not gate.clock.getDelayedCalls()


def test_who_is_let_in_has_cost_nothing(gate: Gate) -> None:
    """What a client cost is given back with its hello, and the line moves on: others do not pay for it."""
    crowd = gate.strangers(100)
    client, *others = [stranger for stranger in crowd if stranger in gate.turnstile]
    spent = gate.turnstile.serve(client, client._work, b"x", lambda: True)
    assert spent == pytest.approx(COST + READ_S)
    gate.turnstile.known(client, 1.0)
    assert client.transport.reading
    read = sum(stranger.transport.reading for stranger in others)
    gate.clock.advance(PACE_S)
    assert sum(stranger.transport.reading for stranger in others) >= read + 2
