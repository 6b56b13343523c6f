"""A connection for a command: the event loop runs in a thread of its own.

The main thread stays free for the terminal: it may block in a prompt, where Ctrl-C is an ordinary
KeyboardInterrupt, while the loop goes on answering pings and taking in ticks. The two meet in
:meth:`Loop.run` only.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from socket import gethostname
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from msgspec.structs import replace as replace_facts
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.selectreactor import SelectReactor
from twisted.python.failure import Failure as TwistedFailure

from gateway.cli.common import Flags, NobodyListens, Unreachable
from gateway.cli.identity import FileTokens, identity_path, load_identity
from gateway.cli.where import Target, is_loopback, resolve
from gateway.client import (
    OPERATOR_SCOPES,
    ClientError,
    ClientOptions,
    ConnectFailed,
    ConnectRefused,
    Credentials,
    RunEnded,
    RunEvent,
    client_info,
)
from gateway.client.actions import Event, Notice
from gateway.client.errors import CONNECTION_REFUSED, InvalidUrl
from gateway.client.feed import Feed
from gateway.client.options import parse_url
from gateway.client.run import Run
from gateway.client.twisted import Client, connect
from gateway.core.setupcode import looks_like_setup_code
from gateway.runtime import use_steady_time

if TYPE_CHECKING:
    from gateway.client import Hello

T = TypeVar("T")

JOIN_TIMEOUT_S = 3.0
ABORT_TIMEOUT_S = 5.0
SIGNAL_LATENCY_S = 0.25

_NO_TOKEN = "no token was sent: give --token-file, or set GATEWAY_TOKEN"  # noqa: S105 - a sentence
_SETUP_CODE = "what was given as the token is a setup code: gatewayctl pair --use CODE"


class Loop:
    """A Twisted loop of its own in a background thread; the global reactor has no part in it."""

    def __init__(self) -> None:
        self.reactor: Any = SelectReactor()
        use_steady_time(self.reactor)
        self._thread = threading.Thread(
            target=self.reactor.run, kwargs={"installSignalHandlers": False}, daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.reactor.callFromThread(self.reactor.stop)
        self._thread.join(JOIN_TIMEOUT_S)

    def run(self, function: Callable[[], Coroutine[Deferred[Any], Any, T]]) -> T:
        """Run a coroutine in the loop and return or raise what it ends with.

        Ctrl-C cancels it and is raised here.
        """
        outcomes: SimpleQueue[Any] = SimpleQueue()
        running: list[Deferred[T]] = []

        def start() -> None:
            deferred = Deferred.fromCoroutine(function())
            running.append(deferred)
            deferred.addBoth(outcomes.put)

        def cancel() -> None:
            for deferred in running:
                deferred.cancel()

        try:
            self.reactor.callFromThread(start)
            outcome = _wait(outcomes)
        except KeyboardInterrupt:
            self.reactor.callFromThread(cancel)
            raise
        if isinstance(outcome, TwistedFailure):
            outcome.raiseException()
        return outcome  # type: ignore[no-any-return]


def _wait(outcomes: SimpleQueue[Any]) -> Any:
    """Get the outcome; look up now and then, since a signal just before waiting does not wake it."""
    while True:
        with suppress(Empty):
            return outcomes.get(timeout=SIGNAL_LATENCY_S)


@dataclass(frozen=True, slots=True)
class Asks:
    """The agent waits until an operator has answered a question."""

    approval_id: str
    command: str


class Answer:
    """The answer to one message, for the main thread: iterate it once.

    Between the events of the run it tells what the agent asks.
    """

    def __init__(self, loop: Loop, client: Client, run: Run) -> None:
        """Begin to listen; to be called in the loop's thread."""
        self._loop = loop
        self._run = run
        self._ended = False
        self._questions: deque[Asks] = deque()
        self._said: deque[RunEvent | TwistedFailure] = deque()
        self._reading: Deferred[Any] | None = None
        self._awaiting: Deferred[None] | None = None
        self._stop_listening = client.on_event(self._heard)

    def __iter__(self) -> Iterator[RunEvent | Asks]:
        while not self._ended:
            yield self._loop.run(self._next)

    async def _next(self) -> RunEvent | Asks:
        if self._reading is None and not self._said:
            self._reading = Deferred.fromCoroutine(self._run.__anext__())
            self._reading.addBoth(self._read)
        if not self._questions and not self._said:
            self._awaiting = Deferred()
            try:
                await self._awaiting
            except CancelledError:
                self._stop_reading()
                raise
        if self._questions:
            return self._questions.popleft()
        said = self._said.popleft()
        if isinstance(said, TwistedFailure):
            said.raiseException()
        if isinstance(said, RunEnded):
            self._ended = True
            self._stop_listening()
        return said

    def _stop_reading(self) -> None:
        """Leave the run to another reader."""
        if self._reading is not None:
            self._reading.cancel()
            self._said.pop()  # that it was cancelled

    def _read(self, said: Any) -> None:
        self._reading = None
        self._said.append(said)
        self._wake()

    def _wake(self) -> None:
        awaiting, self._awaiting = self._awaiting, None
        if awaiting is not None and not awaiting.called:
            awaiting.callback(None)

    def _heard(self, notice: Notice) -> None:
        payload = notice.payload if isinstance(notice, Event) and notice.name == "agent" else None
        if not isinstance(payload, dict) or payload.get("stream") != "approval":
            return
        data = payload.get("data")
        if payload.get("runId") == self._run.run_id and isinstance(data, dict):
            asked, approval_id = data.get("phase") == "requested", data.get("approvalId")
            if asked and isinstance(approval_id, str):
                self._questions.append(Asks(approval_id, str(data.get("command"))))
                self._wake()

    def abort(self) -> None:
        """Stop the run and wait a while for its end."""
        self._loop.run(self._stop)

    async def _stop(self) -> None:
        self._stop_listening()
        self._stop_reading()
        # Decided here: the loop's thread may have read the end meanwhile.
        if self._ended or any(isinstance(s, RunEnded | TwistedFailure) for s in self._said):
            return

        async def stopped() -> None:
            await self._run.abort()
            await self._run.result()

        stopping = Deferred.fromCoroutine(stopped())
        stopping.addTimeout(ABORT_TIMEOUT_S, self._loop.reactor)
        with suppress(ClientError, TimeoutError):  # it is over, or this client stops waiting for it
            await stopping


class Session:
    """A connected client, for the main thread."""

    def __init__(self, loop: Loop, client: Client) -> None:
        self._loop = loop
        self._client = client

    @property
    def hello(self) -> Hello:
        """What the gateway told when it let us in."""
        return self._client.hello

    def call(
        self,
        method: str,
        params: Any,
        *,
        expect_final: bool = False,
        timeout: float | None = None,
    ) -> Any:
        """Send a request and return the payload of its answer. Raises what the client raises."""

        async def call() -> Any:
            return await self._client.call(
                method, params, expect_final=expect_final, timeout=timeout
            )

        return self._loop.run(call)

    def chat(self, message: str, session_key: str) -> Answer:
        """Send a message to an agent."""

        async def start() -> Answer:
            run = self._client.chat(message, session_key)
            return Answer(self._loop, self._client, run)

        return self._loop.run(start)

    def events(self) -> Iterator[Notice]:
        """Return every event from now on, until the connection ends; it raises why."""

        async def listen() -> Feed[Notice]:
            return self._client.events()

        feed = self._loop.run(listen)

        async def following() -> Notice:
            return await feed.__anext__()

        return iter(lambda: self._loop.run(following), None)


@contextmanager
def session(flags: Flags, caps: tuple[str, ...] = ()) -> Iterator[Session]:
    """Connect for the length of a ``with`` block. Raises Unreachable, also where the connection ends."""
    target = resolve(flags, os.environ)
    options = ClientOptions(
        client=client_info("cli", "cli"),
        credentials=Credentials(token=target.token),
        scopes=OPERATOR_SCOPES,
        caps=caps,
    )
    with connected(target, with_device(options, flags, target)) as open_session:
        yield open_session


def with_device(options: ClientOptions, flags: Flags, target: Target) -> ClientOptions:
    """Return the options with this command line's device, where the gateway is elsewhere.

    On the gateway's own host no device is needed, so that none is shown unless it was named. Without
    another credential it is the device's token that counts, for the scopes that it was given for.
    Raises Failure.
    """
    named = flags.url or os.environ.get("GATEWAY_URL")
    try:
        near = named is None or is_loopback(parse_url(target.url).host)
    except InvalidUrl:
        return options
    if near and flags.identity is None:
        return options
    path = identity_path(flags, os.environ)
    device, tokens = load_identity(path), FileTokens.beside(path, target.url)
    kept = tokens.kept(device.device_id, options.role.value)
    alone = options.credentials == Credentials()
    tokens.scopes = kept.scopes if alone and kept is not None else options.scopes
    client = replace_facts(options.client, display_name=gethostname())
    return replace(options, client=client, device=device, tokens=tokens, scopes=tokens.scopes)


@contextmanager
def connected(target: Target, options: ClientOptions) -> Iterator[Session]:
    """Connect as it is said, for the length of a ``with`` block. Raises Unreachable."""
    with Loop() as loop:

        async def open_client() -> Client:
            return await connect(loop.reactor, target.url, options)

        try:
            client = loop.run(open_client)
            try:
                yield Session(loop, client)
            finally:
                close(loop, client)
        except ClientError as error:
            raise unreachable(error, target) from None


def close(loop: Loop, client: Client) -> None:
    """Leave the gateway with a close frame rather than a cut."""

    async def leave() -> None:
        await client.close()

    loop.run(leave)


def unreachable(error: ClientError, target: Target) -> Unreachable:
    """Say in one line why there is no connection, or no longer."""
    if not isinstance(error, ConnectRefused):
        refused = isinstance(error, ConnectFailed) and error.why == CONNECTION_REFUSED
        return NobodyListens(str(error)) if refused else Unreachable(str(error))
    code = error.detail_code or error.code or ""
    text = f"refused by {target.url}: {error.message}" + (f" ({code})" if code else "")
    remedy = _remedy(error, code, target)
    return Unreachable(f"{text}: {remedy}" if remedy else text)


def _remedy(error: ConnectRefused, code: str, target: Target) -> str | None:
    """Return what to do about a refusal, where that is more than its text says."""
    if target.token is not None and looks_like_setup_code(target.token):
        return _SETUP_CODE
    if code == "PAIRING_REQUIRED":
        details = error.details if isinstance(error.details, Mapping) else {}
        return f"run on the gateway's host: gatewayctl devices approve {details.get('requestId')}"
    if code in ("AUTH_DEVICE_TOKEN_MISMATCH", "AUTH_SCOPE_MISMATCH"):
        return "give the shared token once more (--token-file), or pair anew: gatewayctl pair --use CODE"
    if code == "AUTH_BOOTSTRAP_TOKEN_INVALID":
        return None  # a setup code was shown, and the text says where another one is made
    wants_one = code.startswith("AUTH_") or code == "DEVICE_IDENTITY_REQUIRED"
    return _NO_TOKEN if wants_one and target.token is None else None
