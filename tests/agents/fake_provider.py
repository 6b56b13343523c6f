"""A provider of models that fails as it is told: an OpenAI-compatible endpoint on a port of its own.

What it is asked counts by characters: four are a token. Each request takes the next behaviour of the
script; the last one stays. It runs in the test's own event loop.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

HOLD_S = 30.0
"""Longer than any test waits: what stands still does so until the client goes away."""


@dataclass(frozen=True)
class Behaviour:
    """How one request is answered."""

    words: tuple[str, ...] = ("all ", "is ", "well")
    status: int = 200
    body: Any = None
    headers: tuple[tuple[str, str], ...] = ()
    wait: bool = False
    """Whether nothing is answered at all."""
    stall_after: int | None = None
    """After so many words nothing more comes, and the connection stays."""
    cut_after: int | None = None
    """After so many words the connection is closed."""
    ends_early: bool = False
    """Whether the response ends in good order without a reason, after all its words."""
    malformed_after: int | None = None
    tool: tuple[str, str] | None = None
    """A call (name, arguments as JSON) instead of words."""
    finish: str | None = None


OK = Behaviour()


def fails(
    status: int, message: str = "no", *, code: str = "", type_: str = "", **headers: str
) -> Behaviour:
    """Return an error as OpenAI shapes it."""
    error = {"message": message, "type": type_ or "error", "code": code or None, "param": None}
    named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Behaviour(status=status, body={"error": error}, headers=named)


class FakeProvider:
    """Start it with ``async with``; ``url`` is then its address.

    :ivar special: a text, and how requests that have it in their first message are answered.
    :ivar requests: the bodies it was sent, oldest first.
    :ivar keys: the keys that came with them.
    """

    def __init__(
        self, *script: Behaviour, window: int | None = None, overflow: str = "openai"
    ) -> None:
        self.script = list(script) or [OK]
        self.window = window
        self.overflow = overflow
        self.special: tuple[str, Behaviour] | None = None
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.closed = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    async def __aenter__(self) -> FakeProvider:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def texts(self, request: int = -1) -> list[tuple[str, str]]:
        """Return what a request consisted of: (role, text) for each message."""
        return [
            (message["role"], _text(message.get("content")))
            for message in self.requests[request]["messages"]
        ]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(head.partition("content-length:")[2].split("\r\n")[0])
            key = head.partition("authorization: bearer ")[2].split("\r\n")[0]
            body = json.loads(await reader.readexactly(length))
            self.requests.append(body)
            self.keys.append(key)
            await self._answer(body, reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.closed += 1
            self._tasks.discard(task)
            writer.close()

    async def _answer(
        self, body: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        asked = tokens_of(body)
        if self.window is not None and asked > self.window:
            _write_json(writer, 400, self._overflow_body(asked), ())
            return
        if self.special is not None and self.special[0] in _text(body["messages"][0]["content"]):
            behaviour = self.special[1]
        else:
            behaviour = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if behaviour.wait:
            await asyncio.wait_for(reader.read(1), HOLD_S)
        elif behaviour.status != 200:
            _write_json(writer, behaviour.status, behaviour.body, behaviour.headers)
        elif body.get("stream"):
            await self._stream(behaviour, asked, reader, writer)
        else:
            raise NotImplementedError("the worker streams")
        await writer.drain()

    async def _stream(
        self,
        behaviour: Behaviour,
        asked: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        head = (
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
        )
        writer.write(f"{head}Connection: close\r\n\r\n".encode())
        for number, word in enumerate(() if behaviour.tool else behaviour.words):
            if behaviour.stall_after == number:
                await writer.drain()
                await asyncio.wait_for(reader.read(1), HOLD_S)
                return
            if behaviour.cut_after == number:
                await writer.drain()
                return
            if behaviour.malformed_after == number:
                _write_event(writer, '{"choices": [{"delta": {"content": ')
            _write_event(writer, _delta({"role": "assistant", "content": word}))
            await writer.drain()
        if behaviour.tool:
            _write_event(writer, _delta({"tool_calls": [_tool_call(behaviour.tool, asked)]}))
        if not behaviour.ends_early:
            finish = behaviour.finish or ("tool_calls" if behaviour.tool else "stop")
            _write_event(writer, _delta({}, finish))
            said = sum(map(len, behaviour.words)) // 4 + 1
            _write_event(writer, _usage(asked, said))
            _write_event(writer, "[DONE]")
        writer.write(b"0\r\n\r\n")

    def _overflow_body(self, asked: int) -> dict[str, Any]:
        if self.overflow == "llama.cpp":
            return {
                "error": {
                    "code": 400,
                    "message": "the request exceeds the available context size, try increasing it",
                    "type": "exceed_context_size_error",
                    "n_prompt_tokens": asked,
                    "n_ctx": self.window,
                }
            }
        message = (
            f"This model's maximum context length is {self.window} tokens. However, your messages "
            f"resulted in {asked} tokens. Please reduce the length of the messages."
        )
        return {
            "error": {
                "message": message,
                "type": "invalid_request_error",
                "param": "messages",
                "code": "context_length_exceeded",
            }
        }


def tokens_of(body: dict[str, Any]) -> int:
    """Return what the provider takes a request for: a token for four characters of text and tools."""
    text = sum(
        len(_text(message.get("content"))) + len(json.dumps(message.get("tool_calls") or ""))
        for message in body["messages"]
    )
    return text // 4 + len(json.dumps(body.get("tools") or "")) // 4


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "".join(part.get("text", "") for part in parts if isinstance(part, dict))


def _tool_call(tool: tuple[str, str], number: int) -> dict[str, Any]:
    function = {"name": tool[0], "arguments": tool[1]}
    return {"index": 0, "id": f"call_{number}", "type": "function", "function": function}


def _delta(delta: dict[str, Any], finish: str | None = None) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return json.dumps(_frame(choices=[choice]))


def _usage(asked: int, said: int) -> str:
    usage = {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}
    return json.dumps(_frame(choices=[], usage=usage))


def _frame(**rest: Any) -> dict[str, Any]:
    return {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", **rest}


def _write_event(writer: asyncio.StreamWriter, data: str) -> None:
    event = f"data: {data}\n\n".encode()
    writer.write(f"{len(event):x}\r\n".encode() + event + b"\r\n")


def _write_json(
    writer: asyncio.StreamWriter, status: int, body: Any, headers: tuple[tuple[str, str], ...]
) -> None:
    data = json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} X", "Content-Type: application/json", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers] + [f"Content-Length: {len(data)}"]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
