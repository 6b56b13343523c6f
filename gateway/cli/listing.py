"""Connections and runs as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.cli.explain import client_of
from gateway.cli.tables import one_line, short_ids, size, span, table

Rows = Sequence[Mapping[str, Any]]

_OPEN = ("ID", "AGE", "STATE", "PHASE", "CLIENT", "ROLE", "PEER", "QUEUED", "IN", "OUT", "LAST")
_CLOSED = ("ID", "ENDED", "LASTED", "CAUSE", "CODE", "CLIENT", "PEER", "REASON")
_RUNS = ("ID", "AGE", "STATE", "QUEUE", "SESSION", "AGENT", "WAITED", "RAN", "WHY")
_CELL = 48


def opened(rows: Rows, now_ms: int) -> str:
    """Return the table of open connections."""
    if not rows:
        return "No connection is open."
    lines = [
        [
            name,
            span(now_ms - row["openedAtMs"]),
            _cell(row.get("state")),
            _cell(row.get("phase")),
            _cell(client_of(row)),
            _cell(row.get("role")),
            _cell(row.get("peer")),
            size(row.get("queuedBytes")),
            str(row.get("framesIn", "")),
            str(row.get("framesOut", "")),
            _cell((row.get("lastFrame") or {}).get("method")),
        ]
        for name, row in _named(rows, "connId")
    ]
    return table(_OPEN, lines)


def closed(rows: Rows, now_ms: int) -> str:
    """Return the table of connections that ended."""
    if not rows:
        return "No connection has ended since the gateway was started."
    lines = [
        [
            name,
            f"{span(now_ms - row['closedAtMs'])} ago",
            span(row.get("durationMs")),
            _cell(row.get("cause")),
            str(row.get("code", "")),
            _cell(client_of(row)),
            _cell(row.get("peer")),
            _cell(row.get("reason")),
        ]
        for name, row in _named(rows, "connId")
    ]
    return table(_CLOSED, lines)


def runs(rows: Rows, now_ms: int) -> str:
    """Return the table of runs."""
    if not rows:
        return "There is no such run."
    lines = [
        [
            name,
            span(now_ms - row["acceptedAtMs"]),
            _cell(row.get("state")),
            str(row.get("queuePosition") or ""),
            _cell(row.get("sessionKey")),
            _cell(row.get("agentId")),
            span(row.get("queuedMs")),
            span(row.get("runMs")),
            _cell(row.get("error") or row.get("stopReason")),
        ]
        for name, row in _named(rows, "runId")
    ]
    return table(_RUNS, lines)


def _cell(value: Any) -> str:
    return "" if value is None else one_line(value, _CELL)


def _named(rows: Rows, key: str) -> list[tuple[str, Mapping[str, Any]]]:
    names = short_ids([row[key] for row in rows])
    return [(one_line(name), row) for name, row in zip(names, rows, strict=True)]
