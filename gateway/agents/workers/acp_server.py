"""The agent's side of the Agent Client Protocol on standard input and output, for asyncio programs.

It ends when its standard input does, so an agent never outlives the gateway. Nothing but messages
goes to the real standard output: :func:`take_stdout` gives file descriptor 1 to standard error first.
"""

from __future__ import annotations

import asyncio
import os
import sys
import traceback
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from gateway.agents.jsonrpc import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    ErrorResult,
    MessageReader,
    Notification,
    Received,
    Request,
    RequestId,
    Result,
    RpcError,
    encode_error,
    encode_notification,
    encode_request,
    encode_result,
)

READ_BYTES = 65_536
MAX_ASKED = 64
"""Requests to the client that may wait for an answer at once."""


class Client(Protocol):
    """The gateway, as an agent sees it during a connection."""

    async def update(self, session_id: str, shape: dict[str, Any]) -> None:
        """Send one ``session/update``, waiting while the gateway does not read."""

    async def notify(self, method: str, params: dict[str, Any]) -> None:
        """Send a notification, such as ``_gateway/event``, waiting while the gateway does not read."""

    async def ask(self, method: str, params: dict[str, Any]) -> Any:
        """Send a request and return its result. Raises RpcError; cancelling it drops the answer."""


class AcpAgent(Protocol):
    """What an agent program implements. Each method may raise RpcError."""

    def initialize(self, params: dict[str, Any]) -> dict[str, Any]:
        """Answer ``initialize``."""

    async def new_session(self, params: dict[str, Any]) -> dict[str, Any]:
        """Answer ``session/new``."""

    async def load_session(self, params: dict[str, Any]) -> dict[str, Any]:
        """Answer ``session/load`` and ``session/resume``: nothing of the conversation is told again."""

    async def close_session(self, params: dict[str, Any]) -> dict[str, Any]:
        """Answer ``session/close``."""

    async def prompt(
        self, session_id: str, params: dict[str, Any], client: Client
    ) -> dict[str, Any]:
        """Run a turn. It is cancelled for ``session/cancel`` and answers then what is due."""

    async def extension(self, method: str, params: dict[str, Any], client: Client) -> Any:
        """Answer a request whose method begins with ``_``. It may come in the middle of a turn."""


class AcpServer:
    """Serves one client, and is the :class:`Client` of its agent. A session has one turn at a time."""

    def __init__(self, agent: AcpAgent, writer: asyncio.StreamWriter) -> None:
        self._agent = agent
        self._writer = writer
        self._turns: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._asked: dict[RequestId, asyncio.Future[Any]] = {}
        self._ids = 0

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Serve until the client closes. Raises LineTooLong."""
        messages = MessageReader()
        try:
            while data := await reader.read(READ_BYTES):
                for message in messages.feed(data):
                    self._handle(message)
                await self._drain()
        finally:
            tasks = tuple(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def update(self, session_id: str, shape: dict[str, Any]) -> None:
        """Send one ``session/update``."""
        await self.notify("session/update", {"sessionId": session_id, "update": shape})

    async def notify(self, method: str, params: dict[str, Any]) -> None:
        """Send a notification."""
        self._send(encode_notification(method, params))
        await self._drain()

    async def ask(self, method: str, params: dict[str, Any]) -> Any:
        """Send a request and wait for its answer."""
        if len(self._asked) >= MAX_ASKED:
            raise RpcError(INTERNAL_ERROR, "too many questions wait for an answer")
        self._ids += 1
        id_ = f"agent-{self._ids}"
        answer = self._asked[id_] = asyncio.get_running_loop().create_future()
        try:
            self._send(encode_request(id_, method, params))
            await self._drain()
            return await answer
        finally:
            del self._asked[id_]

    def _handle(self, message: Received) -> None:
        match message:
            case Request(id_, method, params):
                self._request(id_, method, params if isinstance(params, dict) else {})
            case Notification("session/cancel", {"sessionId": str(session_id)}):
                if session_id in self._turns:
                    # Not before the turn has begun: it has to answer.
                    asyncio.get_running_loop().call_soon(self._turns[session_id].cancel)
            case Result(id_, value):
                if (answer := self._asked.get(id_)) is not None and not answer.done():
                    answer.set_result(value)
            case ErrorResult(id_, error):
                if (answer := self._asked.get(id_)) is not None and not answer.done():
                    answer.set_exception(error)
            case _:
                pass

    def _request(self, id_: RequestId, method: str, params: dict[str, Any]) -> None:
        agent = self._agent
        try:
            if method == "initialize":
                self._send(encode_result(id_, agent.initialize(params)))
            elif method == "session/new":
                self._start(id_, lambda: agent.new_session(params))
            elif method in ("session/load", "session/resume"):
                self._start(id_, lambda: agent.load_session(params))
            elif method == "session/close":
                self._start(id_, lambda: agent.close_session(params))
            elif method == "session/prompt":
                self._start_turn(id_, params)
            elif method.startswith("_"):
                self._start(id_, lambda: agent.extension(method, params, self))
            else:
                raise RpcError(METHOD_NOT_FOUND, f"Method not found: {method[:100]}")
        except RpcError as error:
            self._send(encode_error(id_, error))

    def _start_turn(self, id_: RequestId, params: dict[str, Any]) -> None:
        session_id = params.get("sessionId")
        if not isinstance(session_id, str):
            raise RpcError(INVALID_PARAMS, "sessionId is missing")
        if session_id in self._turns:
            raise RpcError(INVALID_PARAMS, "a turn of this session is going on")
        turn = self._start(
            id_,
            lambda: self._agent.prompt(session_id, params, self),
            end=lambda: self._turns.pop(session_id),
        )
        self._turns[session_id] = turn

    def _start(
        self,
        id_: RequestId,
        call: Callable[[], Awaitable[Any]],
        end: Callable[[], Any] = lambda: None,
    ) -> asyncio.Task[None]:
        """Answer in a task of its own; ``end`` is called before the answer goes out."""

        async def whole() -> None:
            try:
                line = encode_result(id_, await call())
            except RpcError as error:
                line = encode_error(id_, error)
            except asyncio.CancelledError:
                line = encode_result(id_, {"stopReason": "cancelled"})
            except Exception as error:
                traceback.print_exception(error, file=sys.stderr)
                kind = type(error).__name__
                line = encode_error(id_, RpcError(INTERNAL_ERROR, f"the agent failed: {kind}"))
            end()
            self._send(line)

        task = asyncio.create_task(whole())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _send(self, line: bytes) -> None:
        if not self._writer.is_closing():
            self._writer.write(line)

    async def _drain(self) -> None:
        if not self._writer.is_closing():
            await self._writer.drain()


def take_stdout() -> int:
    """Return a new descriptor of standard output; what prints from now on goes to standard error."""
    descriptor = os.dup(1)
    os.dup2(2, 1)
    return descriptor


async def serve_stdio(agent: AcpAgent, stdout: int) -> None:
    """Serve on standard input and the descriptor ``stdout`` (pipes, sockets or terminals)."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(0, "rb", buffering=0)
    )
    transport, protocol = await loop.connect_write_pipe(
        asyncio.streams.FlowControlMixin, os.fdopen(stdout, "wb", buffering=0)
    )
    await AcpServer(agent, asyncio.StreamWriter(transport, protocol, None, loop)).serve(reader)
