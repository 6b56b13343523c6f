"""One connection's WebSocket, from being dialed to being gone."""

from __future__ import annotations

from typing import Any

from gateway.client.carrier import Carrier


class Timer:
    def __init__(self, delay, function):
        self.delay, self.function, self.cancelled = delay, function, False

    def cancel(self):
        self.cancelled = True


class Loop:
    """Dials nothing; remembers what was asked."""

    def __init__(self, fails=False):
        self.timers = []
        self.given_up = 0
        self.fails = fails

    def call_later(self, delay, function):
        self.timers.append(Timer(delay, function))
        return self.timers[-1]

    def dial(self, owner):
        if self.fails:
            owner.lost("refused")
        return self.give_up

    def give_up(self):
        self.given_up += 1


class WebSocket:
    def __init__(self):
        self.told = []

    def send(self, payload):
        self.told.append(payload)

    def close(self, code, reason):
        self.told.append((code, reason))

    def abort(self):
        self.told.append("abort")


class Listener:
    def __init__(self):
        self.heard = []

    def upgraded(self, carrier):
        self.heard.append("upgraded")

    def frame_received(self, carrier, payload):
        self.heard.append(payload)

    def ended(self, carrier, code, reason):
        self.heard.append((code, reason))

    def gone(self, carrier):
        self.heard.append("gone")


def carried(loop=None):
    loop, listener = loop or Loop(), Listener()
    carrier = Carrier(loop, listener, 1.0)
    carrier.open()
    return carrier, loop, listener


def upgraded():
    carrier, loop, listener = carried()
    websocket = WebSocket()
    carrier.upgraded(websocket)
    return carrier, loop, listener, websocket


def test_messages_go_both_ways():
    """What is sent goes to the WebSocket, what comes is told."""
    carrier, _, listener, websocket = upgraded()

    carrier.send(b"1")
    carrier.frame_received(b"2")

    assert websocket.told == [b"1"]
    assert listener.heard == ["upgraded", b"2"]


def test_before_there_is_a_websocket():
    """Before the WebSocket opened nothing is sent, and closing gives up."""
    carrier, loop, _ = carried()

    carrier.send(b"1")
    carrier.close(1000, "")

    assert loop.given_up == 1


def test_a_dial_that_fails_at_once():
    """A connection that fails while it is dialed is gone, and closing it does nothing."""
    carrier, loop, listener = carried(Loop(fails=True))

    carrier.close(1000, "")

    assert listener.heard == [(None, "refused"), "gone"]
    assert loop.given_up == 0


def test_a_reason_is_cut_to_what_fits():
    """A close frame holds 123 bytes of reason, cut between characters."""
    carrier, _, _, websocket = upgraded()

    carrier.close(1000, "é" * 100)

    assert websocket.told == [(1000, ("é" * 61).encode())]


def test_a_closing_connection_is_cut_in_the_end():
    """After the first close frame the peer has the close timeout, once."""
    carrier, loop, _, websocket = upgraded()

    carrier.closing()
    carrier.closing()
    (timer,) = loop.timers
    timer.function()

    assert timer.delay == 1.0
    assert websocket.told == ["abort"]


def test_the_end_is_told_once():
    """A close frame is told ahead of the end; the end lets go of the timer and comes once."""
    carrier, loop, listener, _ = upgraded()

    carrier.closing()
    carrier.ended(1012, "restart")
    carrier.lost("gone")
    carrier.lost("again")

    assert listener.heard == ["upgraded", (1012, "restart"), (None, "gone"), "gone"]
    assert loop.timers[0].cancelled
    carrier.close(1000, "")


def test_closing_without_a_way_to_give_up():
    """A carrier that was never opened can be closed."""
    loop: Any = Loop()

    Carrier(loop, Listener(), 1.0).close(1000, "")

    assert loop.given_up == 0
