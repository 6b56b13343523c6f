"""What operators look at: the configuration as it was read, the log, the process itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred

TailLogs = Callable[[int | None, int, int], Deferred[dict[str, Any]]]
"""``(cursor, limit, max_bytes)`` to the result of ``logs.tail``."""


@dataclass(frozen=True, slots=True)
class ConfigView:
    """The configuration with its secrets redacted."""

    path: str
    exists: bool
    raw: str | None
    parsed: dict[str, Any]
    hash: str
    warnings: tuple[str, ...] = ()


@dataclass(slots=True)
class Operations:
    """Facts of this process and its configuration."""

    version: str
    boot_id: str
    host: str
    pid: int
    started_at: float
    """On the steady clock."""
    state_dir: str
    auth_mode: str
    config: ConfigView
    tail_logs: TailLogs
    heartbeats_enabled: bool = True
    last_heartbeat: dict[str, Any] | None = None
    """The last heartbeat event; none has happened yet."""
