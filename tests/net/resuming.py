"""Clients that read a run over the gateway's own protocol in memory, on connections that break."""

from __future__ import annotations

from typing import Any

from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure

from gateway.client import ClientOptions, Credentials
from gateway.client.actions import Dial, RunFailed, RunSaid, Send
from gateway.client.link import Link
from gateway.client.options import parse_url
from gateway.client.retry import Reconnect
from gateway.testing import TOKEN
from tests.client.telling import Told
from tests.net.gate import FrameReader, Gate
from tests.net.wire import Wire, masked, upgrade

OPTIONS = ClientOptions(
    credentials=Credentials(token=TOKEN),
    scopes=("operator.read",),
    caps=("session-scoped-events",),  # nothing of the run but what is followed
    reconnect=Reconnect(fraction=lambda: 0.0),
)


class LossyWire(Wire):
    """Hands on what the gateway writes, message by message."""

    def __init__(self, reader: Reader) -> None:
        super().__init__()
        self._reader = reader
        self._frames = FrameReader()
        self.upgraded = False

    def write(self, data: bytes) -> None:
        if not self.upgraded:
            head, _, data = data.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101 ")
            self.upgraded = True
            self._reader.link.upgraded()
        for opcode, message in self._frames.feed(data):
            assert opcode == 1, "a text message"
            self._reader.take(self, message)


class Reader:
    """A client that reads one run; its connections end after so many messages about it."""

    def __init__(self, gate: Gate, cuts: list[int], run_id: str = "r1") -> None:
        self.gate = gate
        self.cuts = cuts
        self.got = 0
        """Messages about the run on this connection: the answer, then events."""
        self.connections = 0
        self.told = Told()
        self.failures: list[Any] = []
        self.wire: LossyWire | None = None
        self._inbox: list[bytes] = []
        self.link = Link(OPTIONS, parse_url("ws://gateway.test"), gate.clock.seconds())
        self._do(self.link.start())
        now = gate.clock.seconds()
        self._do(self.link.follow(run_id, "agent:main:main", None, now))
        self.read()

    def take(self, wire: LossyWire, message: bytes) -> None:
        """Take in a message of the gateway; the cut comes right after it."""
        if wire is not self.wire:
            return  # it was on its way
        self._inbox.append(message)
        if b'"run.event"' in message or b'"status":"' in message:
            self.got += 1
            if self.cuts and self.got == self.cuts[0]:
                self.cuts.pop(0)
                self._inbox.append(b"")

    def busy(self, paused: bool) -> None:
        """Take nothing from the gateway for now, or go on."""
        if self.wire is not None and paused:
            self.wire.protocol.pauseProducing()
        elif self.wire is not None:
            self.wire.protocol.resumeProducing()

    def cut(self) -> None:
        """Lose the connection, with what was on its way."""
        if self.wire is not None:
            self._cut()

    def work(self) -> None:
        """Do what is due."""
        self._do(self.link.time_passed(self.gate.clock.seconds()))
        self.read()

    def read(self) -> None:
        """Take in what has come."""
        while self._inbox:
            message = self._inbox.pop(0)
            now = self.gate.clock.seconds()
            if message:
                self._do(self.link.frame_received(message, now))
            else:
                self._cut()

    def _cut(self) -> None:
        wire, self.wire = self.wire, None
        assert wire is not None
        wire.protocol.connectionLost(Failure(ConnectionLost()))
        self._inbox.clear()
        self._do(self.link.connection_lost(None, "cut", self.gate.clock.seconds()))

    def _do(self, actions: list[Any]) -> None:
        for action in actions:
            match action:
                case Dial():
                    self._dial()
                case Send(frame):
                    if self.wire is not None:
                        self.wire.protocol.dataReceived(masked(frame))
                case RunSaid(_, events):
                    for event in events:
                        self.told.add(event)
                case RunFailed(_, error):
                    self.failures.append(error)

    def _dial(self) -> None:
        self.connections += 1
        self.got = 0
        wire = self.wire = LossyWire(self)
        factory = self.gate.wiring.factory
        wire.connect(factory.buildProtocol(wire.getPeer()))
        wire.protocol.dataReceived(upgrade())
