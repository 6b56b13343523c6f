"""The ends of connections and runs in the log files of a gateway on this host."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from gateway.logfile import newest_first

MAX_BYTES = 500_000_000
"""How much of the log is read, the newest of it; some seconds."""

MAX_FOUND = 1000
"""So many ends, the newest, are kept of a file, and are enough: an id that fits them all says little."""

_KINDS = {"conn": b"closed conn=", "run": b"run ended run="}
_LAST_FRAME = {"type": "lastFrameType", "method": "lastFrameMethod", "id": "lastFrameId"}
_LINE_ONLY = ("time", "level", "logger", "message", "conn", *_LAST_FRAME.values())


def find(directory: Path, wanted: str, max_bytes: int = MAX_BYTES) -> list[tuple[str, Any]]:
    """Return ("connection" or "run", row) of ended ones whose id begins like that, the newest first.

    Rows are shaped as those of ``connections.closed`` and ``runs.describe``. An id is told once.
    """
    found: dict[str, tuple[str, Any]] = {}
    for path in newest_first(directory):
        in_file = deque(_lines(path, wanted, max_bytes), maxlen=MAX_FOUND)
        for name, line in reversed(in_file):
            found.setdefault(line[name], _row(name, line))
        max_bytes -= path.stat().st_size
        if wanted in found or len(found) >= MAX_FOUND or max_bytes <= 0:
            break
    return [*found.values()]


def _lines(path: Path, wanted: str, max_bytes: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the lines of a file's end that tell of the end of what is wanted, with the key of its id."""
    begins = json.dumps(wanted)[:-1].encode()
    with path.open("rb") as stream:
        stream.seek(max(0, os.fstat(stream.fileno()).st_size - max_bytes))
        for data in stream:
            if begins not in data:
                continue
            for name, message in _KINDS.items():
                if message in data and b'"%b": %b' % (name.encode(), begins) in data:
                    yield from ((name, line) for line in _parsed(data, message) if name in line)


def _parsed(data: bytes, message: bytes) -> Iterator[dict[str, Any]]:
    """Yield the line, if it is one: the first of a file's end, and a torn one, may be none."""
    try:
        line = json.loads(data)
    except ValueError:
        return
    if isinstance(line, dict) and str(line.get("message")).startswith(message.decode()):
        yield line


def _row(name: str, line: dict[str, Any]) -> tuple[str, Any]:
    ended_ms = _ms(line.get("time"))
    if name == "run":
        row = {"runId": line["run"], "sessionKey": line.get("session"), "endedAtMs": ended_ms}
        row |= {"state": line.get("state"), "agentId": line.get("agent")}
        return "run", row | ({"stopReason": line["stopReason"]} if line.get("stopReason") else {})
    row = {key: value for key, value in line.items() if key not in _LINE_ONLY and value != "n/a"}
    last = {key: line.get(name) for key, name in _LAST_FRAME.items()}
    row |= {"connId": line["conn"], "closedAtMs": ended_ms, "lastFrame": last}
    return "connection", row | {"state": "closed"}


def _ms(time: Any) -> int | None:
    try:
        return round(datetime.fromisoformat(str(time)).timestamp() * 1000)
    except ValueError:
        return None
