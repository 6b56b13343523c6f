"""Both drivers on a fake gateway, in memory and in a time that jumps to whatever is due next."""

from __future__ import annotations

import asyncio
import builtins
import selectors
import threading
from collections.abc import Callable
from typing import Any, Self

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionDone, ConnectionLost, ConnectionRefusedError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.test import iosim
from zope.interface import implementer

from gateway.client import aio, twisted
from gateway.client.testing import FakeGateway
from gateway.client.testserver import server_factory
from gateway.testing import FakeClock, result_of

URL = "ws://gateway.test:18789"


class Rig:
    """What a probe sees: a gateway, a way to connect to it, and time."""

    def __init__(self, gateway: FakeGateway) -> None:
        self.gateway = gateway
        self.reachable = True
        self.dials = 0
        self.factory: Any = None

    def connect(self, options: Any) -> Any:
        """Return what is awaited for a client of the gateway."""
        return self.connect_to(URL, options)

    def connect_to(self, url: str, options: Any) -> Any:
        """Likewise, by another address."""
        raise AssertionError("a driver says how")

    def sleep(self, seconds: float) -> Any:
        """Return what is awaited to let time pass."""
        raise AssertionError("a driver says how")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Let go of everything."""

    @property
    def closes(self) -> list[tuple[int | None, str | None]]:
        """Code and reason of every connection that ended, as the gateway saw it."""
        closes: list[tuple[int | None, str | None]] = self.factory.closes
        return closes


@implementer(IStreamClientEndpoint)
class _MemoryEndpoint:
    def __init__(self, rig: TwistedRig) -> None:
        self._rig = rig

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        self._rig.dials += 1
        if not self._rig.reachable:
            return fail(ConnectionRefusedError())
        client = protocolFactory.buildProtocol(None)
        server = self._rig.factory.buildProtocol(None)
        ends = iosim.makeFakeServer(server), client, iosim.makeFakeClient(client)
        pump = iosim.connect(server, *ends, greet=False)
        for end in (pump.clientIO, pump.serverIO):
            end.abortConnection = self._rig.aborting(pump)
        self._rig.pumps.append(pump)
        return succeed(client)


class TwistedRig(Rig):
    """The Twisted driver on a fake clock."""

    def __init__(self, gateway: FakeGateway) -> None:
        super().__init__(gateway)
        self.clock = FakeClock()
        self.factory = server_factory(gateway, self.clock)
        self.pumps: list[Any] = []

    def aborting(self, pump: Any) -> Callable[[], None]:
        """Return what ends both ends of a pair at once, as a reset does; bytes on their way are lost."""

        def abort() -> None:
            for end in (pump.clientIO, pump.serverIO):
                end.stream.clear()
                end.disconnectReason = ConnectionLost()
                end.disconnected = True
                self.clock.callLater(0, end.protocol.connectionLost, Failure(ConnectionLost()))
                end.abortConnection = end.loseConnection = lambda: None
            self.pumps.remove(pump)

        return abort

    def connect_to(self, url: str, options: Any) -> Any:
        return twisted.connect(self.clock, url, options, endpoint=_MemoryEndpoint(self))

    def begin(self, options: Any) -> Any:
        return self.connect(options)

    def sleep(self, seconds: float) -> Any:
        return deferLater(self.clock, seconds, lambda: None)

    def run(self, probe: Any) -> Any:
        """Run a coroutine to its end, with all the time it takes."""
        done = Deferred.fromCoroutine(probe)
        for _ in range(100_000):
            while any(pump.pump() for pump in list(self.pumps)):
                pass
            if done.called:
                return result_of(done)
            due = [call.getTime() for call in self.clock.getDelayedCalls()]
            assert due, "nothing will ever happen"
            self.clock.advance(max(0.0, min(due) - self.clock.seconds()))
        raise AssertionError("it does not end")

    def leftovers(self) -> list[Any]:
        """What is still scheduled, once every connection had the time to end."""
        self.run(self.settle())
        return list(self.clock.getDelayedCalls())

    async def settle(self) -> None:
        await self.sleep(2)


class _Jump(selectors.SelectSelector):
    """Instead of waiting, moves the time of its loop."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> Any:
        events = super().select(0)
        if not events:
            assert timeout is not None, "nothing will ever happen"
            self.loop.moment += timeout
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio loop whose time jumps to whatever is due next."""

    def __init__(self) -> None:
        self.moment = 0.0
        self.timers: list[asyncio.TimerHandle] = []
        selector = _Jump()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.moment

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Any = None
    ) -> Any:
        timer = super().call_at(when, callback, *args, context=context)
        self.timers.append(timer)
        return timer

    def pending(self) -> list[asyncio.TimerHandle]:
        """The timers that are still to come."""
        return [t for t in self.timers if not t.cancelled() and t.when() > self.moment]


class _Half:
    """One end of a connection in memory: an asyncio transport or a Twisted one, as it is used."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.peer: Any = None
        self.deliver: Callable[[bytes], None] = lambda data: None
        self.end: Callable[[bool], None] = lambda clean: None
        self.closed = False

    def write(self, data: bytes) -> None:
        if not self.closed:
            self.loop.call_soon(self.peer.receive, bytes(data))

    def receive(self, data: bytes) -> None:
        if not self.closed:
            self.deliver(data)

    def close(self) -> None:
        self.loop.call_soon(self.gone, True)
        self.loop.call_soon(self.peer.gone, True)

    def abort(self) -> None:
        self.gone(False)
        self.peer.gone(False)

    def gone(self, clean: bool) -> None:
        if not self.closed:
            self.closed = True
            self.loop.call_soon(self.end, clean)

    loseConnection = close
    abortConnection = abort

    def get_extra_info(self, name: str) -> None:
        return None

    def getPeer(self) -> IPv4Address:
        return IPv4Address("TCP", "memory", 0)

    def unregisterProducer(self) -> None:
        pass


class AsyncioRig(Rig):
    """The asyncio driver on a loop of virtual time."""

    def __init__(self, gateway: FakeGateway) -> None:
        super().__init__(gateway)
        self.loop = VirtualLoop()
        self.factory = server_factory(gateway, self.loop)

    async def _open(self, factory: Callable[[], Any]) -> None:
        self.dials += 1
        await asyncio.sleep(0)
        if not self.reachable:
            raise builtins.ConnectionRefusedError(111, "refused")
        client, server = _Half(self.loop), _Half(self.loop)
        client.peer, server.peer = server, client
        protocol, service = factory(), self.factory.buildProtocol(None)
        client.deliver, server.deliver = protocol.data_received, service.dataReceived
        client.end = lambda clean: protocol.connection_lost(None if clean else OSError("reset"))
        server.end = lambda clean: service.connectionLost(
            Failure(ConnectionDone() if clean else ConnectionLost())
        )
        service.makeConnection(server)
        protocol.connection_made(client)

    def connect_to(self, url: str, options: Any) -> Any:
        return aio.connect(url, options, opener=self._open)

    def begin(self, options: Any) -> Any:
        return self.loop.create_task(self.connect(options))

    def sleep(self, seconds: float) -> Any:
        return asyncio.sleep(seconds)

    def run(self, probe: Any) -> Any:
        """Run a coroutine to its end, with all the time it takes.

        In a thread of its own: pytest-twisted has a loop of its own running in this one.
        """
        outcome: list[Any] = []

        def work() -> None:
            try:
                outcome.append((self.loop.run_until_complete(probe), None))
            except BaseException as error:  # handed on to the test
                outcome.append((None, error))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        result, error = outcome[0]
        if error is not None:
            raise error
        return result

    def leftovers(self) -> list[Any]:
        """What is still scheduled, once every connection had the time to end."""
        self.run(asyncio.sleep(2))
        return [*asyncio.all_tasks(self.loop), *self.loop.pending()]

    def stop(self) -> None:
        self.loop.close()
