"""The keys that all agents share which run in processes of their own."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from gateway.config import AgentConfig


class ProcessConfig(AgentConfig, frozen=True):
    """An agent that runs in supervised processes: how many, and what each may take."""

    pool: Annotated[int, Meta(ge=1, le=64)] = 1
    """Most processes that run it at once; the first runs always, others while all before them are busy."""
    idle_s: Annotated[float, Meta(ge=0, le=86_400)] = 600.0
    """Seconds without a run after which a process beyond the first is stopped; 0 keeps them all."""
    hang_timeout_s: Annotated[float, Meta(ge=0, le=86_400)] = 300.0
    """Seconds that a process may be silent while a run goes on, before it is killed; 0 waits for ever."""
    memory_bytes: Annotated[int, Meta(ge=67_108_864, le=1 << 50)] | None = None
    """Most address space of one process, at least 64 MiB; programs on JavaScript engines reserve a lot."""
    open_files: Annotated[int, Meta(ge=16, le=1_048_576)] = 4096
    """Most files that one process may have open, if the gateway's own limit is not lower."""
    nice: Annotated[int, Meta(ge=0, le=19)] = 10
    """How much the gateway goes before it where processor time is short: 0 not at all, 19 most."""
