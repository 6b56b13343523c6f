"""The client on Twisted: the sans-IO core, a WebSocket, and a timer on the reactor given.

::

    client = await connect(reactor, "ws://127.0.0.1:18789", options)
    health = await client.health()
    async for event in client.chat("hello"):
        ...
    await client.close()

The core's deadlines bound the handshake and silence; ``close_timeout`` bounds every way of closing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionRefusedError, DNSLookupError, TimeoutError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.client.base import BaseClient
from gateway.client.core import CLOSE_NORMAL
from gateway.client.endpoint import endpoint_for
from gateway.client.errors import CONNECTION_REFUSED, ClientError, InvalidUrl
from gateway.client.loop import Owner, Timer
from gateway.client.options import ClientOptions, Target, parse_url
from gateway.client.websocket import ClientFactory

_CAUSES: tuple[tuple[type[Exception], str], ...] = (
    (ConnectionRefusedError, CONNECTION_REFUSED),
    (DNSLookupError, "unknown host"),
    (TimeoutError, "timed out"),
)


def connect(
    reactor: Any,
    url: str,
    options: ClientOptions | None = None,
    *,
    endpoint: IStreamClientEndpoint | None = None,
) -> Deferred[Client]:
    """Connect to a gateway and shake hands.

    ``endpoint`` is where to connect instead of the URL's host and port. Fails with InvalidUrl,
    ConnectFailed, ConnectRefused or ConnectionLost; a client that comes back fails only with what
    needs a person, or when it gives up. Cancelling gives up at once. Timeouts follow
    ``reactor.seconds()``, so a client that lives long wants a reactor whose time is steady
    (:func:`gateway.runtime.use_steady_time`).
    """
    options = options or ClientOptions()
    try:
        target = parse_url(url)
    except InvalidUrl as error:
        return fail(error)
    if endpoint is None:
        endpoint = endpoint_for(reactor, target, options.handshake_timeout)
    return Client(TwistedLoop(reactor, target, endpoint), target, options).start()


class Client(BaseClient):
    """A client of a gateway. Made by :func:`connect`; used from the reactor's thread only.

    What it hands out to be awaited are Deferreds; the typed calls are coroutines.
    """

    def call(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        expect_final: bool = False,
        timeout: float | None = None,
        resend: bool = False,
        on_accepted: Callable[[Any], None] | None = None,
    ) -> Deferred[Any]:
        """Send a request; see BaseClient."""
        answer = super().call(
            method,
            params,
            expect_final=expect_final,
            timeout=timeout,
            resend=resend,
            on_accepted=on_accepted,
        )
        return cast("Deferred[Any]", answer)

    def close(self, code: int = CLOSE_NORMAL, reason: str = "") -> Deferred[None]:
        """Close for good; see BaseClient."""
        return cast("Deferred[None]", super().close(code, reason))

    def when_closed(self) -> Deferred[ClientError]:
        """Fire with what ended the client for good; see BaseClient."""
        return cast("Deferred[ClientError]", super().when_closed())

    def start(self) -> Deferred[Client]:
        """Connect; called once."""
        return cast("Deferred[Client]", super().start())


class DeferredWaiter:
    """A Deferred that is settled once (see gateway.client.loop.Waiter)."""

    def __init__(self, cancelled: Callable[[], None] | None = None) -> None:
        self.awaitable: Deferred[Any] = Deferred(
            None if cancelled is None else lambda _: cancelled()
        )

    def resolve(self, value: Any) -> None:
        """Fire it."""
        if not self.awaitable.called:
            self.awaitable.callback(value)

    def reject(self, error: Exception) -> None:
        """Fail it."""
        if not self.awaitable.called:
            self.awaitable.errback(error)


class TwistedLoop:
    """A Twisted reactor (see gateway.client.loop.Loop)."""

    _log = Logger(namespace="gateway.client")

    def __init__(self, reactor: Any, target: Target, endpoint: IStreamClientEndpoint) -> None:
        self._reactor = reactor
        self._target = target
        self._endpoint = endpoint

    def now(self) -> float:
        """Return the loop's time."""
        return float(self._reactor.seconds())

    def call_later(self, delay: float, function: Callable[[], None]) -> Timer:
        """Schedule a call."""
        timer: Timer = self._reactor.callLater(delay, function)
        return timer

    def waiter(self, cancelled: Callable[[], None] | None = None) -> DeferredWaiter:
        """Return a Deferred to hand out."""
        return DeferredWaiter(cancelled)

    def dial(self, owner: Owner) -> Callable[[], None]:
        """Begin to connect; return what gives up."""
        made: list[Any] = []

        def failed(failure: Failure) -> None:
            named = (text for kind, text in _CAUSES if isinstance(failure.value, kind))
            owner.lost(next(named, str(failure.value) or type(failure.value).__name__))

        def give_up() -> None:
            if made:
                made[0].dropConnection(abort=True)
            else:
                connecting.cancel()

        factory = ClientFactory(owner, self._target, self._reactor)
        connecting: Deferred[Any] = self._endpoint.connect(factory)
        connecting.addCallbacks(made.append, failed)
        return give_up

    def ignored(self, url: str, why: str) -> None:
        """Log a message that made no sense."""
        self._log.warn("ignored a message of {url}: {why}", url=url, why=why)

    def callback_raised(self) -> None:
        """Log what a callback of the user raised."""
        self._log.failure("a callback of the client's user raised")
