"""The client on asyncio: the same core and the same WebSocket as on Twisted, without a reactor.

::

    async with await connect("ws://127.0.0.1:18789", options) as client:
        health = await client.health()
        async for event in client.chat("hello"):
            ...

Autobahn can be set up for one framework in a process only, and the gateway itself runs on Twisted, so
it is Autobahn's Twisted protocol that is driven here, by an asyncio transport: it asks no more of its
surroundings than a transport. A process that has imported ``autobahn.asyncio`` can not import this module.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.python.failure import Failure

from gateway.client.base import BaseClient
from gateway.client.errors import CONNECTION_REFUSED
from gateway.client.loop import Owner, Timer
from gateway.client.options import ClientOptions, Target, parse_url
from gateway.client.websocket import ClientFactory

_log = logging.getLogger("gateway.client")

Opener = Callable[[Callable[[], asyncio.Protocol]], Awaitable[Any]]
"""Connects what a factory makes to something, as ``loop.create_connection`` does."""

HAPPY_EYEBALLS_S = 0.25
"""How long an address family may take before the other is tried as well (RFC 8305 section 5)."""


async def connect(
    url: str,
    options: ClientOptions | None = None,
    *,
    ssl_context: ssl.SSLContext | None = None,
    opener: Opener | None = None,
) -> Client:
    """Connect to a gateway and shake hands, in the running loop.

    ``ssl_context`` is for ``wss`` addresses, instead of the system's roots; ``opener`` connects instead
    of the URL's host and port. Raises InvalidUrl, ConnectFailed, ConnectRefused or ConnectionLost; a
    client that comes back raises only what needs a person, or when it gives up. Cancelling gives up at
    once.
    """
    options = options or ClientOptions()
    target = parse_url(url)
    loop = asyncio.get_running_loop()
    if opener is None:
        opener = _opener(loop, target, ssl_context)
    client = Client(AsyncioLoop(loop, target, opener), target, options)
    await client.start()
    return client


class Client(BaseClient):
    """A client of a gateway. Made by :func:`connect`; used from its loop's thread only.

    What it hands out to be awaited are Futures; the typed calls are coroutines.
    """


def _opener(loop: Any, target: Target, context: ssl.SSLContext | None) -> Opener:
    if target.secure and context is None:
        context = ssl.create_default_context()

    def connecting(factory: Callable[[], asyncio.Protocol]) -> Awaitable[Any]:
        connection: Awaitable[Any] = loop.create_connection(
            factory,
            target.host,
            target.port,
            ssl=context if target.secure else None,
            happy_eyeballs_delay=HAPPY_EYEBALLS_S,
        )
        return connection

    return connecting


class FutureWaiter:
    """A Future that is settled once (see gateway.client.loop.Waiter)."""

    def __init__(self, future: asyncio.Future[Any], cancelled: Callable[[], None] | None) -> None:
        self.awaitable = future
        if cancelled is not None:
            future.add_done_callback(lambda done: cancelled() if done.cancelled() else None)

    def resolve(self, value: Any) -> None:
        """Give it its result."""
        if not self.awaitable.done():
            self.awaitable.set_result(value)

    def reject(self, error: Exception) -> None:
        """Give it its error."""
        if not self.awaitable.done():
            self.awaitable.set_exception(error)


class AsyncioLoop:
    """A running asyncio loop (see gateway.client.loop.Loop)."""

    def __init__(self, loop: asyncio.AbstractEventLoop, target: Target, opener: Opener) -> None:
        self._loop = loop
        self._target = target
        self._opener = opener
        self._dialing: set[asyncio.Task[None]] = set()

    def now(self) -> float:
        """Return the loop's time."""
        return self._loop.time()

    def call_later(self, delay: float, function: Callable[[], None]) -> Timer:
        """Schedule a call."""
        return self._loop.call_later(delay, function)

    def waiter(self, cancelled: Callable[[], None] | None = None) -> FutureWaiter:
        """Return a Future to hand out."""
        return FutureWaiter(self._loop.create_future(), cancelled)

    def dial(self, owner: Owner) -> Callable[[], None]:
        """Begin to connect; return what gives up."""
        bridge = _Bridge(ClientFactory(owner, self._target, self._loop))

        async def opening() -> None:
            await self._opener(lambda: bridge)

        def opened(task: asyncio.Task[None]) -> None:
            self._dialing.discard(task)
            if task.cancelled():
                owner.lost("cancelled")
            elif error := task.exception():
                owner.lost(_why(error))

        task = self._loop.create_task(opening())
        self._dialing.add(task)
        task.add_done_callback(opened)

        def give_up() -> None:
            if bridge.connected:
                bridge.websocket.dropConnection(abort=True)
            else:
                task.cancel()

        return give_up

    def ignored(self, url: str, why: str) -> None:
        """Log a message that made no sense."""
        _log.warning("ignored a message of %s: %s", url, why)

    def callback_raised(self) -> None:
        """Log what a callback of the user raised."""
        _log.exception("a callback of the client's user raised")


def _why(error: BaseException) -> str:
    """Return in a few words why no connection came about."""
    match error:
        case ConnectionRefusedError():
            return CONNECTION_REFUSED
        case TimeoutError():
            return "timed out"
        case _ if type(error).__name__ == "gaierror":
            return "unknown host"
    return str(error) or type(error).__name__


class _Bridge(asyncio.Protocol):
    """A Twisted protocol on an asyncio transport."""

    def __init__(self, factory: ClientFactory) -> None:
        self.websocket = factory.buildProtocol(None)
        self.connected = False
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.connected = True
        self._transport = transport
        self.websocket.makeConnection(_Transport(transport))

    def data_received(self, data: bytes) -> None:
        try:
            self.websocket.dataReceived(data)
        except Exception:  # as a reactor does
            _log.exception("reading from the gateway failed")
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        reason = ConnectionDone() if exc is None else ConnectionLost(str(exc))
        self.websocket.connectionLost(Failure(reason))


class _Transport:
    """What Autobahn needs of a Twisted transport, on an asyncio transport."""

    def __init__(self, transport: Any) -> None:
        self.write = transport.write
        self.loseConnection = transport.close
        self.abortConnection = transport.abort

    def unregisterProducer(self) -> None:
        """Nothing is registered here: a client's writes are few, and bounded by its user."""
