"""What can be told of a connection, open or ended: for operators, for the log, for the ledger.

The facts are made in one place, in the shape of ``connections.list``; the close line has the same under
the names of the log. All that a peer chose is cut and has no control characters.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from twisted.logger import Logger

from gateway.core.access import UNIX_ADDRESS, Peer
from gateway.core.handshake import claims

if TYPE_CHECKING:
    from gateway.app.context import Caller
    from gateway.net.closing import Closing, Ending

MAX_HEADER_CHARS: Final = 300

_UNPRINTABLE: Final = re.compile(
    r"[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    r"\ud800-\udfff\U000e0000-\U000e007f]+"
)

_SITE: Final = re.compile(r"([^/?#]*//)(?:[^/?#]*@)?([^/?#]*)")
"""Scheme and host of a URL, with a user before the host or none."""

_LINE: Final = (
    "closed conn={conn} cause={cause} code={code} reason={reason} peer={peer} client={client} "
    "durationMs={durationMs} handshake={handshake}"
)
_EARLY_LINE: Final = _LINE + " before connect origin={origin} host={host} ua={userAgent}"

_NOT_LOGGED: Final = {"connId", "lastFrame", "state", "openedAtMs", "closedAtMs"}
"""What a line has under other names, or by its time."""

_log = Logger(namespace="gateway.net.closing")


def printable(value: str | None) -> str | None:
    """Return a text as it may stand in a log: no control characters, at most 300 characters."""
    if value is None:
        return None
    return " ".join(_UNPRINTABLE.sub(" ", value[: 4 * MAX_HEADER_CHARS]).split())[:MAX_HEADER_CHARS]


def _bare(origin: str | None) -> str | None:
    """Return an Origin without what no browser sends in it: a user, a password, a path, a query."""
    if origin is None or (found := _SITE.match(origin)) is None:
        return origin
    return f"{found[1]}{found[2]}"


def facts_of(connection: Ending) -> dict[str, Any]:
    """Return what is known of a connection, as ``connections.list`` tells it."""
    edge, peer = connection.edge, connection.remote
    caller = None if connection.context is None else connection.context.caller
    kind, method, frame_id = connection.last_frame
    open_s = edge.clock.seconds() - connection.opened_at
    facts: dict[str, Any] = {
        "connId": connection.conn_id,
        "peer": _where(peer),
        "client": None if caller is None else _client(caller),
        "protocol": None if caller is None else caller.protocol,
        "role": None if caller is None else caller.principal.role.value,
        "openedAtMs": edge.clock.now_ms() - round(open_s * 1000),
        "state": _state(connection),
        "phase": connection.stage if connection.closing is None else "closing",
        "queuedBytes": connection.queued_bytes,
        "framesIn": connection.frames_in,
        "framesOut": connection.frames_out,
        "lastFrame": None,
    }
    if kind or method or frame_id:
        last = {"type": printable(kind), "method": printable(method), "id": printable(frame_id)}
        facts["lastFrame"] = last
    if caller is not None and caller.principal.device_id is not None:
        facts["deviceId"] = caller.principal.device_id
    for name, value in (
        ("origin", _bare(peer.origin)),
        ("host", peer.host),
        ("userAgent", peer.user_agent),
    ):
        if value:
            facts[name] = printable(value)
    if peer.forwarded:
        facts["forwarded"] = True
    return facts


def facts_of_end(connection: Ending, closing: Closing) -> dict[str, Any]:
    """Return what is known of a connection that ended, as ``connections.closed`` tells it."""
    facts = facts_of(connection)
    now_ms = connection.edge.clock.now_ms()
    facts |= {
        "state": "closed",
        "phase": closing.stage,
        "queuedBytes": closing.queued,
        "cause": closing.cause.value,
        "code": closing.code,
        "reason": printable(closing.reason) or "",
        "closedAtMs": now_ms,
        "durationMs": now_ms - facts["openedAtMs"],
        "handshake": closing.phase,
    }
    lost = connection.outbox.losses()
    if lost:
        facts["dropped"] = lost
    for name, value in closing.details.items():
        facts.setdefault(name, printable(value) if isinstance(value, str) else value)
    return facts


def log_closed(connection: Ending) -> None:
    """Count a connection's end, log its one line, and enter it in the ledger."""
    closing, edge = connection.closing, connection.edge
    assert closing is not None
    edge.metrics.connection_closed(closing.cause.value)
    facts = facts_of_end(connection, closing)
    caller = None if connection.context is None else connection.context.caller
    last = facts["lastFrame"] or {}
    line = {
        "conn": connection.conn_id,
        "cause": facts["cause"],
        "code": facts["code"],
        "reason": facts["reason"] or "n/a",
        "peer": facts["peer"],
        "client": "n/a" if caller is None else printable(claims(caller.client)),
        "role": facts["role"] or "n/a",
        "protocol": facts["protocol"],
        "durationMs": facts["durationMs"],
        "handshake": facts["handshake"],
        "phase": facts["phase"],
        "lastFrameType": last.get("type"),
        "lastFrameMethod": last.get("method"),
        "lastFrameId": last.get("id"),
        "queuedBytes": facts["queuedBytes"],
        "framesIn": facts["framesIn"],
        "framesOut": facts["framesOut"],
        "origin": facts.get("origin", "n/a"),
        "host": facts.get("host", "n/a"),
        "userAgent": facts.get("userAgent", "n/a"),
    }
    line |= {name: facts[name] for name in facts.keys() - line.keys() - _NOT_LOGGED}
    authenticated = closing.phase == "connected"
    if authenticated:
        _log.info(_LINE, **line)
    else:
        _log.warn(_EARLY_LINE, **line)
    edge.services.ledger.add(connection.conn_id, facts, authenticated=authenticated)


def _where(peer: Peer) -> str:
    if peer.address == UNIX_ADDRESS:
        return peer.address
    if not peer.port:
        return peer.address  # as a proxy told it
    return f"[{peer.address}]:{peer.port}" if ":" in peer.address else f"{peer.address}:{peer.port}"


def _client(caller: Caller) -> dict[str, Any]:
    info = caller.client
    client = {"id": info.id, "mode": info.mode, "version": info.version, "platform": info.platform}
    if info.display_name:
        client["displayName"] = info.display_name
    return {name: printable(value) for name, value in client.items()}


def _state(connection: Ending) -> str:
    """Return how it does: open, slow (something waits for it), silent (it owes an answer), closing."""
    if connection.closing is not None:
        return "closing"
    if connection.waiting:
        return "slow"
    return "silent" if connection.silent else "open"
