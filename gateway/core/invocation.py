"""One invocation of a node's command: from the request that leaves for the node to its one end.

Whatever comes first ends it: the node's answer, its time, the end of the node's connection, the last of
those who wait for it leaving, a change of what the node may do, the stop of the gateway. All that comes
after is too late and changes nothing. How an end is told depends on the version of who asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import msgspec
from msgspec import UNSET

from gateway.core.frames import NotJson, decode_as
from gateway.errors import GatewayError, InvalidRequest, Unavailable
from gateway.model import Principal

DEFAULT_TIMEOUT_MS: Final = 30_000
MAX_CHUNK_BYTES: Final = 16_384
MIN_CHUNK_BYTES: Final = 256
"""What a piece of progress counts for at least: so much the event around it takes, be it empty."""
MAX_ERROR_CODE: Final = 128
MAX_ERROR_MESSAGE: Final = 4096
"""Characters of what a node says of its failure."""

_ANY_JSON: Final = msgspec.json.Decoder(msgspec.Raw)


class End(StrEnum):
    """How an invocation ended; each is one label of one metric."""

    OK = "ok"
    NODE_ERROR = "node-error"
    TIMEOUT = "timeout"
    DISCONNECTED = "disconnected"
    CANCELLED = "cancelled"
    PAIRING_CHANGED = "pairing-changed"
    STOPPED = "stopped"
    TOO_LARGE = "too-large"
    NOT_KEPT = "not-kept"
    """It was answered, but the answer took too much room to be given again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What a caller wants of a node. ``params`` is UNSET where there are none."""

    node_id: str
    command: str
    idempotency_key: str
    fingerprint: str
    timeout_s: float
    params: Any = field(default=UNSET, repr=False)
    session_key: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The one end of an invocation."""

    end: End
    payload: Any = field(default=None, repr=False)
    payload_json: str | None = field(default=None, repr=False)
    size: int = 0
    """Bytes of the answer's JSON text, as the node sent it: with the escapes of a text within a text."""
    code: str = ""
    message: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    """More that is told of a failure."""

    @property
    def weight(self) -> int:
        """Bytes that it takes to keep it: the JSON text, and the same as a text of Python's."""
        text = self.payload_json
        return self.size if text is None else self.size + text.__sizeof__()

    def payload_for(self, node_id: str, command: str, protocol: int) -> dict[str, Any]:
        """Return what is answered. Raises GatewayError for all ends but :attr:`End.OK`."""
        if self.end is not End.OK:
            raise self._error(protocol)
        return {
            "ok": True,
            "nodeId": node_id,
            "command": command,
            "payload": self.payload,
            "payloadJSON": self.payload_json,
        }

    def _error(self, protocol: int) -> GatewayError:
        if self.end is End.PAIRING_CHANGED:
            return pairing_changed()
        details: dict[str, Any] = {"nodeError": {"code": self.code, "message": self.message}}
        text = self.message
        if protocol >= 4:
            details["nodeCommandDispatched"] = True
            if self.end in (End.NODE_ERROR, End.TIMEOUT):
                text = f"{self.code}: {self.message}"
        stopped = self.end is End.STOPPED
        return Unavailable(
            text,
            details={**details, **self.details},
            retryable=True if stopped else None,
            retry_after_ms=1000 if stopped else None,
        )


def answered(payload: bytes | None, payload_json: str | None, size: int = 0) -> Outcome:
    """Return the end by a node's answer: JSON text in ``payload_json``, or else a JSON value.

    JSON text is put into the answer as it is; text that is no JSON is handed on in an object. ``size``
    is that of the text as it came, escapes included: so much of it goes on to who asked.
    """
    if not payload_json:
        value = None if payload is None else msgspec.Raw(payload)
        return Outcome(End.OK, value, None, len(payload or b""))
    text = payload_json.encode("utf-8", "surrogatepass")
    size = max(size, len(text))
    try:
        decode_as(text, _ANY_JSON)
        text.decode()
    except (NotJson, msgspec.ValidationError, UnicodeDecodeError):
        return Outcome(End.OK, {"payloadJSON": payload_json}, payload_json, size)
    return Outcome(End.OK, msgspec.Raw(text), payload_json, size)


def failed(code: str | None, message: str | None) -> Outcome:
    """Return the end by a node's error."""
    return Outcome(
        End.NODE_ERROR,
        code=(code or "UNAVAILABLE")[:MAX_ERROR_CODE],
        message=(message or "node invoke failed")[:MAX_ERROR_MESSAGE],
    )


def ended(end: End, command: str) -> Outcome:
    """Return an end that is not the node's doing."""
    code, message = {
        End.TIMEOUT: ("TIMEOUT", "node invoke timed out"),
        End.DISCONNECTED: ("NODE_DISCONNECTED", f"node disconnected ({command})"),
        End.CANCELLED: ("CANCELLED", "nobody waited for the answer any more"),
        End.STOPPED: ("GATEWAY_RESTARTING", "the gateway restarts; ask again"),
        End.TOO_LARGE: ("PAYLOAD_TOO_LARGE", "the node's answer is too large"),
        End.NOT_KEPT: ("RESULT_NOT_KEPT", "it was answered; the answer was too large to be kept"),
    }.get(end, ("", ""))
    return Outcome(end, code=code, message=message)


@dataclass(slots=True, eq=False)
class Invocation:
    """An invocation that was sent to a node. Times are float seconds of the steady clock."""

    id: str
    key: str
    """Its idempotency key, with who asked: nobody meets another's."""
    idempotency_key: str
    fingerprint: str
    node_id: str
    conn_id: str
    """The node's connection: only what comes from there is an answer."""
    protocol: int
    """The version of that connection."""
    command: str
    params_json: str | None = field(repr=False)
    deadline: float
    asker: Principal | None = None
    outcome: Outcome | None = None
    next_seq: int = 0
    progressed: int = 0
    """Bytes of progress so far, of each piece :data:`MIN_CHUNK_BYTES` at least."""

    def finish(self, outcome: Outcome) -> bool:
        """End it; return whether this was the first end."""
        if self.outcome is not None:
            return False
        self.outcome = outcome
        return True

    def progress(self, seq: int, size: int, most: int) -> bool:
        """Take the next piece of progress; return whether it is the next, and not too much."""
        counted = max(size, MIN_CHUNK_BYTES)
        if seq != self.next_seq or self.progressed + counted > most:
            return False
        self.next_seq += 1
        self.progressed += counted
        return True


def not_connected(protocol: int) -> GatewayError:
    """Refuse a command for a node that is paired but not there."""
    details: dict[str, Any] = {"code": "NOT_CONNECTED"}
    if protocol >= 4:
        details["nodeError"] = {"code": "NOT_CONNECTED", "message": "node not connected"}
        details["nodeCommandDispatched"] = False
    return Unavailable("node not connected", details=details)


def pairing_changed() -> GatewayError:
    """Refuse, or end, what a node may not be asked (any more)."""
    return Unavailable(
        "node pairing changed while invocation was active",
        details={"code": "PAIRING_CHANGED"},
        retryable=True,
    )


def not_allowed(command: str, reason: str, text: str) -> GatewayError:
    """Refuse a command; ``reason`` is the protocol's, ``text`` for people, with a name of any length."""
    if len(text) > MAX_ERROR_MESSAGE:
        text = f"{text[:MAX_ERROR_MESSAGE]}…"
    return InvalidRequest(
        f"node command not allowed: {text}",
        details={"reason": reason, "command": command[:MAX_ERROR_CODE]},
    )
