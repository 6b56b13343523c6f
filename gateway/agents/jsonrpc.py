"""JSON-RPC 2.0, one message per line: bytes to messages and messages to bytes, no I/O.

Both sides of the Agent Client Protocol use it: the backend in the gateway, and our own agent
programs. What is not a message is handed over as :class:`Garbage`, since programs do print things on
their standard output; only a line over the bound raises.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

import msgspec

MAX_LINE_BYTES = 16 * 1024 * 1024
"""A line longer than this is no message of a sane program."""
MAX_PARTS = 200_000
"""Nor is one with more values than this, outside of texts: to take it apart would hold the loop."""
_TEXT = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
AUTH_REQUIRED = -32000
"""ACP: the agent wants its own authentication first."""
NOT_FOUND = -32002
"""ACP: no such resource, a session for instance."""

RequestId = int | str | None


class Request(NamedTuple):
    """The other side asks and waits for an answer under ``id``."""

    id: RequestId
    method: str
    params: Any


class Notification(NamedTuple):
    """The other side tells something."""

    method: str
    params: Any


class Result(NamedTuple):
    """The answer to a request of ours."""

    id: RequestId
    value: Any


class ErrorResult(NamedTuple):
    """A request of ours failed."""

    id: RequestId
    error: RpcError


class Garbage(NamedTuple):
    """A line that is no message: its first bytes and its whole length."""

    preview: bytes
    size: int


Received = Request | Notification | Result | ErrorResult | Garbage


class RpcError(Exception):
    """A JSON-RPC error: ``code``, ``message`` for people, ``data`` for programs."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


class LineTooLong(Exception):
    """The other side wrote more than the bound without a newline."""


class MessageReader:
    """Cuts a byte stream into messages."""

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._max = max_line_bytes
        self._rest = bytearray()

    @property
    def buffered(self) -> int:
        """Bytes of the unfinished line."""
        return len(self._rest)

    def feed(self, data: bytes) -> list[Received]:
        """Return the messages that ``data`` completes, in order. Empty lines are none.

        Raises LineTooLong; the messages before that line are lost, as the stream has to be given up.
        """
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = bytes(self._rest) + lines[0]
            self._rest = bytearray()
        self._rest += rest
        if self.buffered > self._max or any(len(line) > self._max for line in lines):
            raise LineTooLong(f"a line of more than {self._max} bytes")
        return [decode(line) for line in lines if line.strip()]


def decode(line: bytes) -> Received:
    """Return the message in ``line``."""
    if _endless(line):
        return Garbage(line[:200], len(line))
    try:
        message = _load(line)
    except (ValueError, RecursionError):
        return Garbage(line[:200], len(line))
    if isinstance(message, dict):
        id_ = message.get("id")
        if isinstance(id_, (int, str)) or id_ is None:
            received = _classify(message, id_)
            if received is not None:
                return received
    return Garbage(line[:200], len(line))


def _endless(line: bytes) -> bool:
    """Whether a line has too many parts: what is cheap to count comes first."""
    if line.count(b",") <= MAX_PARTS:
        return False
    if line.count(b'"') - line.count(b'\\"') > 2 * MAX_PARTS:
        return True
    return _TEXT.sub(b"", line).count(b",") > MAX_PARTS


def encode_request(id_: RequestId, method: str, params: Any) -> bytes:
    """Return the line of a request."""
    return _line({"jsonrpc": "2.0", "id": id_, "method": method, "params": params})


def encode_notification(method: str, params: Any) -> bytes:
    """Return the line of a notification."""
    return _line({"jsonrpc": "2.0", "method": method, "params": params})


def encode_result(id_: RequestId, value: Any) -> bytes:
    """Return the line that answers request ``id_``."""
    return _line({"jsonrpc": "2.0", "id": id_, "result": value})


def encode_error(id_: RequestId, error: RpcError) -> bytes:
    """Return the line that refuses request ``id_``."""
    shape: dict[str, Any] = {"code": error.code, "message": error.message}
    if error.data is not None:
        shape["data"] = error.data
    return _line({"jsonrpc": "2.0", "id": id_, "error": shape})


def _line(message: dict[str, Any]) -> bytes:
    return msgspec.json.encode(message) + b"\n"


def _load(line: bytes) -> Any:
    try:
        return msgspec.json.decode(line)
    except ValueError:
        # Programs that cut text between UTF-16 units send lone surrogates, others raw bytes of a tool:
        # both are readable messages with one unreadable character.
        value = json.loads(line.decode("utf-8", "replace"), parse_constant=_refuse)
        text = json.dumps(value, ensure_ascii=False)
        whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return msgspec.json.decode(whole)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _classify(message: dict[str, Any], id_: RequestId) -> Received | None:
    method = message.get("method")
    if isinstance(method, str):
        if "id" in message:
            return Request(id_, method, message.get("params"))
        return Notification(method, message.get("params"))
    if "id" not in message:
        return None
    if "error" in message:
        return ErrorResult(id_, _rpc_error(message["error"]))
    if "result" in message:
        return Result(id_, message["result"])
    return None


def _rpc_error(shape: Any) -> RpcError:
    if not isinstance(shape, dict):
        return RpcError(INTERNAL_ERROR, "an error without a shape", shape)
    code, message = shape.get("code"), shape.get("message")
    return RpcError(
        code if isinstance(code, int) else INTERNAL_ERROR,
        message if isinstance(message, str) else "an error without a message",
        shape.get("data"),
    )
