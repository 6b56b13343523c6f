"""What operators look at: the configuration as it was read, the log, the process itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

from twisted.internet.defer import Deferred

from gateway.config import LoadedConfig, redacted

TailLogs = Callable[[int | None, int, int], Deferred[dict[str, Any]]]
"""``(cursor, limit, max_bytes)`` to the result of ``logs.tail``."""

STOPPING = "gateway stopping"
"""What clients are told where nobody gave a reason."""


@dataclass(frozen=True, slots=True)
class ConfigView:
    """The configuration with its secrets redacted."""

    path: str
    exists: bool
    raw: str | None
    parsed: dict[str, Any]
    hash: str
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, loaded: LoadedConfig, fallback: Path) -> Self:
        """Return what may be shown of a configuration; ``fallback`` is where a file would lie."""
        raw, parsed = redacted(loaded)
        path = loaded.path
        return cls(
            path=str(fallback if path is None else path.absolute()),
            exists=path is not None,
            raw=raw,
            parsed=parsed,
            hash=sha256((loaded.raw_text or "").encode()).hexdigest(),
            warnings=loaded.warnings,
        )


@dataclass(frozen=True, slots=True)
class StopOrder:
    """How the gateway is to stop."""

    grace_s: float
    """How long runs may still go and clients stay."""
    reason: str = STOPPING
    """What clients are told."""
    restart_expected_ms: int | None = None
    """In how many milliseconds it will be back, where that is known."""


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
    shut_down: Callable[[StopOrder], StopOrder] | None = None
    """Begins to stop the process, and returns the order that is in force: once it stops, one without any
    grace. None where that is not for clients to do."""
    heartbeats_enabled: bool = True
    last_heartbeat: dict[str, Any] | None = None
    """The last heartbeat event; none has happened yet."""
