"""Slow links and black holes on a clock: what drains is progress, what does not is found in time."""

from __future__ import annotations

import pytest
from twisted.logger import LogEvent

from gateway.core.events import Event
from gateway.net.factory import SWEEP_S
from gateway.net.fastpath import PAUSE_ABOVE
from tests.net.gate import Client, FrameReader, Gate, closings
from tests.net.wire import Wire, masked

STEP = 0.25
LARGE = 20 * 1024 * 1024


class Link(Wire):
    """A link of so many bytes per second to a client that reads, answers pings, and says nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.rate: float | None = None
        """None: at once."""
        self._appSendBuffer: list[bytes] = []
        self._reader = FrameReader()
        self._budget = 0.0
        self._answered_upgrade = False
        self.pings = 0
        self.messages: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        if self.rate is None:
            super().write(data)
            return
        self._appSendBuffer.append(data)
        if sum(map(len, self._appSendBuffer)) > PAUSE_ABOVE:
            self.protocol.pauseProducing()

    def flow(self, seconds: float) -> None:
        """Let time pass on the link."""
        assert self.rate is not None
        self._budget += self.rate * seconds
        while self._appSendBuffer and self._budget > 0:
            data = self._appSendBuffer[0]
            taken, rest = data[: int(self._budget)], data[int(self._budget) :]
            if not taken:
                return
            self._budget -= len(taken)
            self._appSendBuffer[:1] = [rest] if rest else []
            self._read(taken)
            if not self._appSendBuffer:
                self.protocol.resumeProducing()
        if not self._appSendBuffer:
            self._budget = 0

    def _read(self, data: bytes) -> None:
        for opcode, payload in self._reader.feed(data):
            if opcode == 9:
                self.pings += 1
                self.receive(masked(payload, 10))
            self.closed = self.closed or opcode == 8
            if opcode == 1:
                self.messages.append(payload)


def joined(gate: Gate, rate: float) -> Link:
    """Let a client in over a link that is slow from then on."""
    link = Link()
    assert Client(gate, link).connect()["ok"]
    link.rate = rate
    return link


def run(gate: Gate, link: Link, seconds: float, *, chatter: float = 0) -> None:
    """Let time pass, with a look every 5 s and an event every ``chatter`` seconds."""
    for _ in range(round(seconds / STEP)):
        gate.clock.advance(STEP)
        now = gate.clock.seconds()
        link.flow(STEP)
        if now % SWEEP_S == 0:
            gate.wiring.factory.sweep()
        if chatter and now % chatter == 0:
            gate.wiring.services.hub.broadcast(Event("session.message", {"text": "x" * 2000}))


@pytest.mark.parametrize("seconds", [60, 240])
def test_a_large_frame_over_a_slow_link(gate: Gate, log: list[LogEvent], seconds: int) -> None:
    """20 MiB that take one minute, or four, arrive whole, and what waits behind them too: draining is progress."""  # noqa: E501
    link = joined(gate, LARGE / seconds)
    hub = gate.wiring.services.hub
    hub.broadcast(Event("session.message", {"text": "x" * LARGE}))
    hub.broadcast(Event("session.message", {"text": "behind"}))
    run(gate, link, seconds - 5)
    assert link.messages == []
    assert link.pings >= 1
    run(gate, link, 15)
    assert [len(message) > LARGE for message in link.messages] == [True, False]
    assert b"behind" in link.messages[1]
    run(gate, link, 100)
    assert closings(log) == []
    assert not link.closed
    assert gate.wiring.edge.outboxes.held == 0


@pytest.mark.parametrize("chatter", [0, 1, 10], ids=["quiet", "busy", "sometimes"])
@pytest.mark.parametrize("before", [0, 3.25, 17.5, 31], ids="{}s".format)
@pytest.mark.parametrize("large", [False, True], ids=["idle", "within a large frame"])
def test_a_black_hole_is_found_in_time(
    gate: Gate, chatter: float, before: float, large: bool
) -> None:
    """A peer that vanishes without a word, whenever and whatever is on its way, is given up within 45 s."""
    link = joined(gate, LARGE / 60)
    if large:
        gate.wiring.services.hub.broadcast(Event("session.message", {"text": "x" * LARGE}))
    run(gate, link, before, chatter=chatter)
    link.rate = 0
    run(gate, link, 39, chatter=chatter)
    run(gate, link, 6, chatter=chatter)
    connection = link.protocol
    assert connection.closing is not None
    assert connection.closing.cause.value == "keepalive-timeout"


def test_a_slow_reader_gets_fewer_and_larger_deltas(gate: Gate) -> None:
    """A run's words that outrun a link are joined: every word arrives once, in fewer frames, with one end."""
    quick, slow = gate.join(), joined(gate, 3_000)
    words = " ".join(f"w{number}" for number in range(2_000))
    quick.request("chat.send", {"sessionKey": "main", "message": words, "idempotencyKey": "k"})
    for _ in range(2_100):
        gate.clock.advance(0.02)
        slow.flow(0.02)
    slow.rate = 10_000_000
    slow.flow(1)
    mine = [Client.decoded(payload) for payload in slow.messages]
    for frames in (quick.received(), mine):
        events = [m for m in frames if m["type"] == "event"]
        assert [m["seq"] for m in events] == list(range(1, len(events) + 1))
        chat = [m["payload"] for m in events if m["event"] == "chat"]
        assert "".join(c.get("deltaText", "") for c in chat) == words
        assert [c["state"] for c in chat].count("final") == 1
        assert chat[-1]["message"]["content"][0]["text"] == words
    assert 3 < len(mine) < 100
    assert slow.protocol.outbox.losses() == {"latest": slow.protocol.outbox.merged}
