"""What both drivers have in common: it carries out what :class:`~gateway.client.link.Link` says.

A driver adds the event loop, and the types of what its users await.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Self

from gateway.client.actions import (
    Accepted,
    Action,
    Answered,
    Close,
    Dial,
    Failed,
    Gap,
    Hello,
    Ignored,
    Lost,
    Notice,
    Opened,
    Received,
    RunFailed,
    RunSaid,
    Send,
)
from gateway.client.carrier import Carrier
from gateway.client.chat import RunEnded
from gateway.client.core import CLOSE_NORMAL
from gateway.client.errors import ClientError
from gateway.client.feed import Feed
from gateway.client.link import Link
from gateway.client.loop import Loop, Timer, Waiter
from gateway.client.methods import Methods
from gateway.client.options import ClientOptions, Target, new_id
from gateway.client.run import Run
from gateway.model import Position


class BaseClient(Methods):
    """A client of a gateway. Used from its event loop's thread only."""

    def __init__(self, loop: Loop, target: Target, options: ClientOptions) -> None:
        self._loop = loop
        self._target = target
        self._options = options
        self._link = Link(options, target, loop.now())
        self._opened = loop.waiter(self._cancel)
        self._carrier: Carrier | None = None
        self._carriers: set[Carrier] = set()
        self._timer: Timer | None = None
        self._due_at = 0.0
        self._calls: dict[str, tuple[Waiter, Callable[[Any], None] | None]] = {}
        self._runs: dict[str, Run] = {}
        self._listeners: list[Callable[[Notice], None]] = []
        self._feeds: list[Feed[Notice]] = []
        self._closers: list[tuple[Waiter, bool]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def hello(self) -> Hello:
        """What the gateway told in its last ``hello-ok``."""
        hello = self._link.hello
        assert hello is not None, "connect() gives out connected clients only"
        return hello

    @property
    def connected(self) -> bool:
        """Whether there is a connection at the moment."""
        return self._link.connected

    def call(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        expect_final: bool = False,
        timeout: float | None = None,
        resend: bool = False,
        on_accepted: Callable[[Any], None] | None = None,
    ) -> Awaitable[Any]:
        """Send a request; awaiting it gives the payload of its answer.

        ``expect_final`` waits for the outcome where the first answer only says ``accepted``; that one
        is handed to ``on_accepted``. ``timeout`` is in seconds, ``math.inf`` for none. While the
        connection is away, a client that comes back sends it afterwards; with ``resend`` also where
        the connection broke before the answer, so it must do no harm twice. Raises RequestFailed,
        RequestTimeout, RequestNotSent, or what ended the connection. Cancelling stops the waiting, not
        what was asked for.
        """
        try:
            request_id, actions = self._link.request(
                method,
                None if params is None else dict(params),
                self._loop.now(),
                expect_final=expect_final,
                timeout=timeout,
                resend=resend,
            )
        except ClientError as error:
            refused = self._loop.waiter()
            refused.reject(error)
            return refused.awaitable
        answer = self._loop.waiter(lambda: self._forget(request_id))
        self._calls[request_id] = answer, on_accepted
        self._apply(actions)
        return answer.awaitable

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
        return self._read(
            run_id,
            session_key,
            lambda: self._link.chat(run_id, session_key, message, params or {}, self._loop.now()),
        )

    def follow(
        self, run_id: str, session_key: str = "main", *, after: Position | None = None
    ) -> Run:
        """Return a run that is there already, to read what it says after a position.

        Without a position it is read from its start, as far as the gateway keeps logs of runs.
        """
        return self._read(
            run_id,
            session_key,
            lambda: self._link.follow(run_id, session_key, after, self._loop.now()),
        )

    def on_event(self, listener: Callable[[Notice], None]) -> Callable[[], None]:
        """Call ``listener`` with every event and gap, and when the connection goes and comes back.

        Returns a function that ends it.
        """
        self._listeners.append(listener)

        def remove() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return remove

    def events(self) -> Feed[Notice]:
        """Return an async iterator over what listeners hear, from now on.

        It ends when this side closes and raises what else ended the connection for good. For a reader
        that lags behind, the oldest are dropped and told as a gap. Close it to stop listening earlier.
        """
        feed: Feed[Notice] = Feed(
            self._loop.waiter, limit=self._options.max_events, gap=Gap, on_close=self._drop_feed
        )
        if self._link.error is not None:
            feed.end(self._link.error)
        else:
            self._feeds.append(feed)
        return feed

    def close(self, code: int = CLOSE_NORMAL, reason: str = "") -> Awaitable[None]:
        """Close for good; awaiting it waits until nothing is left. What waits fails with ConnectionLost."""
        for feed in list(self._feeds):
            feed.end()
        self._apply(self._link.close(code, reason, self._loop.now()))
        return self._closer(tells=False)

    def when_closed(self) -> Awaitable[ClientError]:
        """Give what ended the client for good, once nothing is left of its connections."""
        return self._closer(tells=True)

    # Runs (see gateway.client.run.Reader).

    def abort_run(self, run: Run) -> Awaitable[Any]:
        """Ask the gateway to stop a run."""
        return self.call("chat.abort", {"sessionKey": run.session_key, "runId": run.run_id})

    def drop_run(self, run: Run) -> None:
        """Read a run no more."""
        if self._runs.get(run.run_id) is run:
            del self._runs[run.run_id]
            self._apply(self._link.drop(run.run_id, self._loop.now()))

    def position_of(self, run: Run) -> Position | None:
        """How far the log of a run was read; ``None`` where that is not known, or it is over."""
        return self._link.position(run.run_id)

    def _read(self, run_id: str, session_key: str, begin: Callable[[], list[Action]]) -> Run:
        run = Run(self._loop, self, run_id, session_key)
        try:
            actions = begin()
        except ClientError as error:
            run.lost(error)
            return run
        self._runs[run_id] = run
        self._apply(actions)
        return run

    # The connection (see gateway.client.carrier.Listener).

    def start(self) -> Awaitable[Any]:
        """Connect; called once. Awaiting it gives this client."""
        self._apply(self._link.start())
        return self._opened.awaitable

    def upgraded(self, carrier: Carrier) -> None:
        """Take in that a WebSocket is open."""
        if carrier is self._carrier:
            self._link.upgraded()

    def frame_received(self, carrier: Carrier, payload: bytes) -> None:
        """Take in one message."""
        if carrier is self._carrier:
            self._apply(self._link.frame_received(payload, self._loop.now()))

    def ended(self, carrier: Carrier, code: int | None, reason: str) -> None:
        """Take in why a connection ended."""
        if carrier is self._carrier:
            self._apply(self._link.connection_lost(code, reason, self._loop.now()))

    def gone(self, carrier: Carrier) -> None:
        """Take in that nothing is left of a connection."""
        self._carriers.discard(carrier)
        self._settle()

    def _closer(self, *, tells: bool) -> Awaitable[Any]:
        closer = self._loop.waiter()
        self._closers.append((closer, tells))
        self._settle()
        return closer.awaitable

    def _settle(self) -> None:
        error = self._link.error
        if error is None or self._carriers:
            return
        closers, self._closers = self._closers, []
        for closer, tells in closers:
            closer.resolve(error if tells else None)

    def _cancel(self) -> None:
        self._apply(self._link.cancel(self._loop.now()))

    def _dial(self) -> None:
        if self._link.error is not None:  # a callback of the user closed the client just before
            return
        self._carrier = Carrier(self._loop, self, self._options.close_timeout)
        self._carriers.add(self._carrier)
        self._carrier.open()

    def _current(self) -> Carrier:
        assert self._carrier is not None, "the link begins by dialing"
        return self._carrier

    # What the link says.

    def _apply(self, actions: list[Action]) -> None:
        for action in actions:
            self._carry_out(action)
        self._arm()

    def _carry_out(self, action: Action) -> None:
        match action:
            case Send(frame):
                self._current().send(frame)
            case Received(notice):
                self._dispatch(notice)
            case RunSaid(run_id, events):
                if run := self._runs.get(run_id):
                    if isinstance(events[-1], RunEnded):
                        del self._runs[run_id]
                    run.said(events)
            case RunFailed(run_id, error):
                if run := self._runs.pop(run_id, None):
                    run.lost(error)
            case Dial():
                self._dial()
            case Opened():
                self._opened.resolve(self)
            case Close(code, reason):
                self._current().close(code, reason)
            case Lost(error):
                self._lose(error)
            case Ignored(why):
                self._loop.ignored(self._target.url, why)
            case _:
                self._settle_call(action)

    def _settle_call(self, action: Accepted | Answered | Failed) -> None:
        if isinstance(action, Accepted):
            _, on_accepted = self._calls[action.request_id]
            if on_accepted is not None:
                self._guarded(on_accepted, action.payload)
        elif isinstance(action, Answered):
            answer, _ = self._calls.pop(action.request_id)
            answer.resolve(action.payload)
        # A callback of another request that failed with this one may have cancelled it.
        elif call := self._calls.pop(action.request_id, None):
            call[0].reject(action.error)

    def _dispatch(self, notice: Notice) -> None:
        for listener in list(self._listeners):
            self._guarded(listener, notice)
        for feed in list(self._feeds):
            feed.push(notice)

    def _guarded(self, function: Callable[[Any], None], argument: Any) -> None:
        try:
            function(argument)
        except Exception:
            self._loop.callback_raised()

    def _lose(self, error: ClientError) -> None:
        feeds, self._feeds = self._feeds, []
        for feed in feeds:
            feed.end(error)
        self._opened.reject(error)
        self._settle()

    def _forget(self, request_id: str) -> None:
        self._calls.pop(request_id, None)
        self._link.forget(request_id)
        self._arm()

    def _drop_feed(self, feed: Feed[Notice]) -> None:
        if feed in self._feeds:
            self._feeds.remove(feed)

    def _arm(self) -> None:
        """Have the timer fire no later than the deadline; earlier is harmless, and spares moving it."""
        deadline = self._link.deadline
        if self._timer is not None:
            if deadline is not None and self._due_at <= deadline:
                return
            self._timer.cancel()
            self._timer = None
        if deadline is not None:
            self._due_at = deadline
            delay = max(0.0, deadline - self._loop.now())
            self._timer = self._loop.call_later(delay, self._due)

    def _due(self) -> None:
        self._timer = None
        self._apply(self._link.time_passed(self._loop.now()))
