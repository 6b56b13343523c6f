"""The agent's side of the Agent Client Protocol on standard input and output, for asyncio programs.

It ends when its standard input does, so an agent never outlives the gateway. Nothing but messages
goes to the real standard output: :func:`take_stdout` gives file descriptor 1 to standard error first.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from gateway.agents.jsonrpc import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    MessageReader,
    Notification,
    Received,
    Request,
    RequestId,
    RpcError,
    encode_error,
    encode_notification,
    encode_result,
)

READ_BYTES = 65_536

Update = Callable[[dict[str, Any]], Awaitable[None]]
"""Sends one ``session/update`` of a session, waiting while the gateway does not read."""


class AcpAgent(Protocol):
    """What an agent program implements. Each method may raise RpcError."""

    def initialize(self, params: dict[str, Any]) -> dict[str, Any]:
        """Answer ``initialize``."""

    def new_session(self, params: dict[str, Any]) -> str:
        """Open a session; return its id."""

    async def prompt(
        self, session_id: str, params: dict[str, Any], update: Update
    ) -> dict[str, Any]:
        """Run a turn. It is cancelled for ``session/cancel`` and answers then what is due."""


class AcpServer:
    """Serves one client. At most one turn of a session goes on at a time."""

    def __init__(self, agent: AcpAgent, writer: asyncio.StreamWriter) -> None:
        self._agent = agent
        self._writer = writer
        self._turns: dict[str, asyncio.Task[None]] = {}

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Serve until the client closes. Raises LineTooLong."""
        messages = MessageReader()
        try:
            while data := await reader.read(READ_BYTES):
                for message in messages.feed(data):
                    self._handle(message)
                await self._drain()
        finally:
            turns = tuple(self._turns.values())
            for turn in turns:
                turn.cancel()
            await asyncio.gather(*turns, return_exceptions=True)

    def _handle(self, message: Received) -> None:
        match message:
            case Request(id_, method, params):
                self._request(id_, method, params if isinstance(params, dict) else {})
            case Notification("session/cancel", {"sessionId": str(session_id)}):
                if session_id in self._turns:
                    # Not before the turn has begun: it has to answer.
                    asyncio.get_running_loop().call_soon(self._turns[session_id].cancel)
            case _:
                pass  # other notifications, and answers: this agent asks nothing

    def _request(self, id_: RequestId, method: str, params: dict[str, Any]) -> None:
        try:
            if method == "initialize":
                self._send(encode_result(id_, self._agent.initialize(params)))
            elif method == "session/new":
                session_id = self._agent.new_session(params)
                self._send(encode_result(id_, {"sessionId": session_id}))
            elif method == "session/prompt":
                self._start_turn(id_, params)
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
        self._turns[session_id] = asyncio.create_task(self._turn(id_, session_id, params))

    async def _turn(self, id_: RequestId, session_id: str, params: dict[str, Any]) -> None:
        async def update(shape: dict[str, Any]) -> None:
            told = {"sessionId": session_id, "update": shape}
            self._send(encode_notification("session/update", told))
            await self._drain()

        try:
            line = encode_result(id_, await self._agent.prompt(session_id, params, update))
        except RpcError as error:
            line = encode_error(id_, error)
        except asyncio.CancelledError:
            line = encode_result(id_, {"stopReason": "cancelled"})
        except Exception as error:
            kind = type(error).__name__
            line = encode_error(id_, RpcError(INTERNAL_ERROR, f"the agent failed: {kind}"))
        del self._turns[session_id]
        self._send(line)

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
