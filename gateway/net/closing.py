"""Why a connection ended, and the one line that says so."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from twisted.logger import Logger

from gateway.errors import CloseCause

if TYPE_CHECKING:
    from gateway.net.websocket import GatewayProtocol

_log = Logger()

MAX_HEADER_CHARS: Final = 300
_UNPRINTABLE: Final = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]+"
)


class Closing:
    """The end of one connection: its first cause, and the details of all that wanted to end it."""

    __slots__ = ("cause", "code", "details", "phase", "queued", "reason")

    def __init__(self, cause: CloseCause, code: int, reason: str, details: dict[str, Any]) -> None:
        self.cause = cause
        self.code = code
        self.reason = reason
        self.details = details
        self.phase = "pending"
        self.queued = 0

    def merge(self, cause: CloseCause, details: dict[str, Any]) -> None:
        """Keep what a later cause adds; what is known already stays."""
        for name, value in details.items():
            self.details.setdefault(name, value)
        if cause is not self.cause:
            self.details.setdefault("alsoCause", cause.value)


def printable(value: str | None) -> str | None:
    """Return a header's value as it may stand in a log: no control characters, at most 300 characters."""
    if value is None:
        return None
    return " ".join(_UNPRINTABLE.sub(" ", value).split())[:MAX_HEADER_CHARS]


def log_closed(connection: GatewayProtocol) -> None:
    """Log the one line of a connection's end, and count its cause."""
    closing, edge, peer = connection.closing, connection.edge, connection.remote
    assert closing is not None
    edge.metrics.connection_closed(closing.cause.value)
    kind, method, frame_id = connection.last_frame
    client = connection.context.caller.client if connection.context is not None else None
    role = (
        connection.context.caller.principal.role.value if connection.context is not None else None
    )
    facts: dict[str, Any] = {
        "conn": connection.conn_id,
        "cause": closing.cause.value,
        "code": closing.code,
        "reason": printable(closing.reason) or "n/a",
        "peer": f"{peer.address}:{peer.port}",
        "client": f"{client.id} {client.mode} v{printable(client.version)}" if client else "n/a",
        "role": role or "n/a",
        "durationMs": round((edge.clock.seconds() - connection.opened_at) * 1000),
        "handshake": closing.phase,
        "lastFrameType": kind,
        "lastFrameMethod": printable(method),
        "lastFrameId": printable(frame_id),
        "queuedBytes": closing.queued,
        "framesIn": connection.frames_in,
        "framesOut": connection.frames_out,
        "origin": printable(peer.origin),
        "host": printable(peer.host),
        "userAgent": printable(peer.user_agent),
    }
    facts |= {k: v for k, v in closing.details.items() if k not in facts}
    text = " ".join(
        f"{name}={{{name}}}" for name in ("conn", "cause", "code", "reason", "peer", "client")
    )
    known = connection.context is not None
    emit = _log.info if known else _log.warn
    before = "" if known else " before connect"
    emit(f"closed {text} durationMs={{durationMs}} handshake={{handshake}}{before}", **facts)
