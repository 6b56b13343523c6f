"""A client and the scripted gateway at the two ends of a wire in memory."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from gateway.client import ClientOptions, Credentials
from gateway.client.twisted import connect
from gateway.testing import FakeClock, result_of
from tests.client.scripted import TOKEN, MemoryEndpoint, Script

URL = "ws://gateway.test:18789"
OPTIONS = ClientOptions(credentials=Credentials(token=TOKEN))


class Wire:
    """A client and the scripted gateway at the other end."""

    def __init__(self, script=None, options=OPTIONS):
        self.clock = FakeClock()
        self.script = script or Script()
        self.endpoint = MemoryEndpoint(self.script, self.clock)
        self.connecting = connect(self.clock, URL, options, endpoint=self.endpoint)
        self.flush = self.endpoint.flush
        self.flush()
        self._client = None

    @property
    def server(self):
        return self.script.connections[0]

    def client(self):
        if self._client is None:
            self._client = result_of(self.connecting)
        return self._client

    def after(self, seconds):
        self.clock.advance(seconds)
        self.flush()

    def settle(self):
        """Close, and check that nothing is left behind."""
        closed = self.client().close()
        self.flush()
        result_of(closed)
        assert self.clock.getDelayedCalls() == []


def read(feed):
    return Deferred.fromCoroutine(feed.__anext__())


def collect(run):
    """Read a run to its end."""

    async def events():
        return [event async for event in run]

    return Deferred.fromCoroutine(events())
