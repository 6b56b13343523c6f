"""The client on Twisted: the sans-IO core, a WebSocket, and a timer on the reactor given.

::

    client = await connect(reactor, "ws://127.0.0.1:18789", options)
    health = await client.call("health")
    async for event in client.chat("hello"):
        ...
    await client.close()

The core's deadlines bound the handshake and silence; ``close_timeout`` bounds every way of closing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionRefusedError, DNSLookupError, TimeoutError
from twisted.internet.interfaces import IDelayedCall, IStreamClientEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.client.actions import (
    Accepted,
    Action,
    Answered,
    Close,
    Event,
    Failed,
    Gap,
    Hello,
    Ignored,
    Lost,
    Opened,
    Received,
    Send,
)
from gateway.client.core import CLOSE_NORMAL, ClientCore
from gateway.client.errors import (
    CLOSE_ABNORMAL,
    ClientError,
    ConnectFailed,
    InvalidUrl,
    RequestNotSent,
)
from gateway.client.feed import Feed
from gateway.client.options import ClientOptions, Target, new_id, parse_url
from gateway.client.run import Run
from gateway.client.websocket import ClientFactory, endpoint_for

MAX_REASON_BYTES = 123
"""What a control frame holds beside the code (RFC 6455 section 5.5)."""

_CAUSES: tuple[tuple[type[Exception], str], ...] = (
    (ConnectionRefusedError, "connection refused"),
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
    ConnectFailed, ConnectRefused or ConnectionLost. Cancelling gives up at once. Timeouts follow
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
    return Client(reactor, target, options).start(endpoint)


class Client:
    """A connection to a gateway. Made by :func:`connect`; used from the reactor's thread only."""

    _log = Logger()

    def __init__(self, reactor: Any, target: Target, options: ClientOptions) -> None:
        self._reactor = reactor
        self._target = target
        self._options = options
        self._core = ClientCore(options, reactor.seconds())
        self._hello: Hello | None = None
        self._opened: Deferred[Client] = Deferred(lambda _: self._give_up("cancelled"))
        self._connecting: Deferred[Any] | None = None
        self._protocol: Any = None
        self._upgraded = False
        self._gone = False
        self._timer: IDelayedCall | None = None
        self._cut: IDelayedCall | None = None
        self._calls: dict[str, tuple[Deferred[Any], Callable[[Any], None] | None]] = {}
        self._runs: dict[str, Run] = {}
        self._listeners: list[Callable[[Event | Gap], None]] = []
        self._feeds: list[Feed[Event | Gap]] = []
        self._closers: list[Deferred[ClientError]] = []

    @property
    def hello(self) -> Hello:
        """What the gateway told in ``hello-ok``."""
        assert self._hello is not None, "connect() gives out connected clients only"
        return self._hello

    def call(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        expect_final: bool = False,
        timeout: float | None = None,
        on_accepted: Callable[[Any], None] | None = None,
    ) -> Deferred[Any]:
        """Send a request; the Deferred fires with the payload of its answer.

        ``expect_final`` waits for the outcome where the first answer only says ``accepted``; that one
        is handed to ``on_accepted``. ``timeout`` is in seconds, ``math.inf`` for none. Fails with
        RequestFailed, RequestTimeout, RequestNotSent, or what ended the connection. Cancelling stops
        the waiting, not what was asked for.
        """
        try:
            request_id, actions = self._core.request(
                method,
                None if params is None else dict(params),
                self._reactor.seconds(),
                expect_final=expect_final,
                timeout=timeout,
            )
        except ClientError as error:
            return fail(error)
        answer: Deferred[Any] = Deferred(lambda _: self._forget(request_id))
        self._calls[request_id] = answer, on_accepted
        self._apply(actions)
        return answer

    def chat(
        self,
        message: str,
        session_key: str = "main",
        *,
        idempotency_key: str | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> Run:
        """Send a message to an agent and return the run that answers it.

        ``params`` are further ones of ``chat.send``. Under the same ``idempotency_key`` the gateway
        starts nothing twice. What goes wrong is raised by the iteration over the run.
        """
        run_id = idempotency_key or new_id()
        run = Run(run_id, session_key, abort=self._abort_run, over=self._drop_run)
        if run_id in self._runs or len(self._runs) >= self._options.max_requests:
            run.lost(RequestNotSent("that run, or too many of them, are being read already"))
            return run
        self._runs[run_id] = run
        sent = {"sessionKey": session_key, "message": message, "idempotencyKey": run_id}
        answer = self.call("chat.send", {**(params or {}), **sent})
        answer.addCallbacks(run.answered, run.refused)
        return run

    def on_event(self, listener: Callable[[Event | Gap], None]) -> Callable[[], None]:
        """Call ``listener`` with every event and gap; return a function that ends it."""
        self._listeners.append(listener)

        def remove() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return remove

    def events(self) -> Feed[Event | Gap]:
        """Return an async iterator over events from now on.

        It ends when this side closes and raises what else ended the connection. For a reader that
        lags behind, the oldest are dropped and told as a gap. Close it to stop listening earlier.
        """
        feed: Feed[Event | Gap] = Feed(
            limit=self._options.max_events, gap=Gap, on_close=self._drop_feed
        )
        if self._core.error is not None:
            feed.end(self._core.error)
        else:
            self._feeds.append(feed)
        return feed

    def close(self, code: int = CLOSE_NORMAL, reason: str = "") -> Deferred[None]:
        """Close the connection; fires when it is gone. What waits fails with ConnectionLost."""
        for feed in list(self._feeds):
            feed.end()
        gone = self.when_closed()
        self._apply(self._core.close(code, reason))
        return gone.addCallback(lambda _: None)

    def when_closed(self) -> Deferred[ClientError]:
        """Fire with what ended the connection, once it is gone."""
        if self._gone and self._core.error is not None:
            return succeed(self._core.error)
        gone: Deferred[ClientError] = Deferred()
        self._closers.append(gone)
        return gone

    # From here on: for connect() and the protocol.

    def start(self, endpoint: IStreamClientEndpoint) -> Deferred[Client]:
        """Connect; called once."""
        self._arm()
        self._connecting = endpoint.connect(ClientFactory(self, self._target, self._reactor))
        self._connecting.addCallbacks(self._connected, self._unreachable)
        return self._opened

    def upgraded(self, protocol: Any) -> None:
        """Take in that the WebSocket is open."""
        self._protocol, self._upgraded = protocol, True

    def frame_received(self, payload: bytes) -> None:
        """Take in one message."""
        self._apply(self._core.frame_received(payload, self._reactor.seconds()))

    def closing(self) -> None:
        """Take in that a close frame was sent: the peer has a limited time to end the connection."""
        if self._cut is None and self._protocol is not None:
            transport = self._protocol.transport
            self._cut = self._reactor.callLater(
                self._options.close_timeout, transport.abortConnection
            )

    def ended(self, code: int | None, reason: str) -> None:
        """Take in why the WebSocket ends, ahead of its end."""
        self._apply(self._core.connection_lost(code, reason))

    def lost(self, reason: str) -> None:
        """Take in that the socket is gone."""
        if self._upgraded:
            self._apply(self._core.connection_lost(CLOSE_ABNORMAL, reason))
        else:
            self._never(reason)
        self._settle()

    def _connected(self, protocol: Any) -> None:
        self._connecting = None
        self._protocol = protocol

    def _unreachable(self, failure: Failure) -> None:
        self._connecting = None
        named = (text for kind, text in _CAUSES if isinstance(failure.value, kind))
        self._never(next(named, str(failure.value) or type(failure.value).__name__))
        self._settle()

    def _never(self, why: str) -> None:
        self._apply(self._core.give_up(ConnectFailed(self._target.url, why)))

    def _give_up(self, why: str) -> None:
        self._never(why)
        self._hang_up(CLOSE_NORMAL, "")

    def _settle(self) -> None:
        self._gone = True
        if self._cut is not None and self._cut.active():
            self._cut.cancel()
        closers, self._closers = self._closers, []
        for closer in closers:
            assert self._core.error is not None
            closer.callback(self._core.error)

    def _hang_up(self, code: int, reason: str) -> None:
        if self._gone:
            return
        if self._connecting is not None:
            self._connecting.cancel()
        elif self._upgraded:
            cut = reason.encode()[:MAX_REASON_BYTES].decode("utf-8", "ignore").encode()
            self._protocol.sendCloseFrame(code=code, reasonUtf8=cut)
        elif self._protocol is not None:
            self._protocol.dropConnection(abort=True)

    def _apply(self, actions: list[Action]) -> None:
        for action in actions:
            self._carry_out(action)
        self._arm()

    def _carry_out(self, action: Action) -> None:
        match action:
            case Send(frame):
                self._protocol.sendMessage(frame)
            case Received(event):
                self._dispatch(event)
            case Answered(request_id, payload):
                if call := self._calls.pop(request_id, None):
                    call[0].callback(payload)
            case Failed(request_id, error):
                # A callback of another request that failed with this one may have cancelled it.
                if call := self._calls.pop(request_id, None):
                    call[0].errback(error)
            case Accepted(request_id, payload):
                call = self._calls.get(request_id)
                if call is not None and call[1] is not None:
                    self._guarded(call[1], payload)
            case Opened(hello):
                self._hello = hello
                self._opened.callback(self)
            case Ignored(why):
                self._log.warn("ignored a message of {url}: {why}", url=self._target.url, why=why)
            case Close(code, reason):
                self._hang_up(code, reason)
            case Lost(error):
                self._lose(error)

    def _dispatch(self, event: Event | Gap) -> None:
        if isinstance(event, Event) and event.name == "chat" and isinstance(event.payload, dict):
            run = self._runs.get(str(event.payload.get("runId")))
            if run is not None:
                run.event(event.payload)
        for listener in list(self._listeners):
            self._guarded(listener, event)
        for feed in list(self._feeds):
            feed.push(event)

    def _guarded(self, function: Callable[[Any], None], argument: Any) -> None:
        try:
            function(argument)
        except Exception:
            self._log.failure("a callback of the client's user raised")

    def _lose(self, error: ClientError) -> None:
        for run in list(self._runs.values()):
            run.lost(error)
        feeds, self._feeds = self._feeds, []
        for feed in feeds:
            feed.end(error)
        if not self._opened.called:
            self._opened.errback(error)

    def _forget(self, request_id: str) -> None:
        self._calls.pop(request_id, None)
        self._core.forget(request_id)
        self._arm()

    def _abort_run(self, run: Run) -> Deferred[Any]:
        return self.call("chat.abort", {"sessionKey": run.session_key, "runId": run.run_id})

    def _drop_feed(self, feed: Feed[Event | Gap]) -> None:
        if feed in self._feeds:
            self._feeds.remove(feed)

    def _drop_run(self, run: Run) -> None:
        if self._runs.get(run.run_id) is run:
            del self._runs[run.run_id]

    def _arm(self) -> None:
        """Have the timer fire no later than the deadline; earlier is harmless, and spares moving it."""
        deadline = self._core.deadline
        if self._timer is not None:
            if deadline is not None and self._timer.getTime() <= deadline:
                return
            self._timer.cancel()
            self._timer = None
        if deadline is not None:
            delay = max(0.0, deadline - self._reactor.seconds())
            self._timer = self._reactor.callLater(delay, self._due)

    def _due(self) -> None:
        self._timer = None
        now = self._reactor.seconds()
        deadline = self._core.deadline
        if not self._upgraded and deadline is not None and now >= deadline:
            self._give_up("timed out")
        else:
            self._apply(self._core.time_passed(now))
