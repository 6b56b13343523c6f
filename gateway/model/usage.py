"""What was used, added up."""

from __future__ import annotations

from typing import Literal, NamedTuple

from gateway.model.base import Struct

UsagePart = Literal["day", "agent", "provider", "model", "key", "session", "run"]
"""By what usage can be told apart: ``key`` is a session's key, ``session`` the key and the session id."""


class DaySpan(NamedTuple):
    """Days of one length that follow each other: in most years each zone has three or four such spans."""

    start_ms: int
    first: int
    """The number of the first day, in the range that was asked for."""
    length_ms: int


class UsageQuery(Struct, frozen=True, kw_only=True):
    """Which usage to add up, and into what parts: ``since_ms`` is included, ``until_ms`` is not."""

    since_ms: int
    until_ms: int
    by: tuple[UsagePart, ...] = ()
    days: tuple[DaySpan, ...] = ()
    """Where days begin, in order; needed for ``day``."""
    agent_id: str | None = None
    session_keys: tuple[str, ...] = ()
    """Only these sessions; without any, all."""
    session_id: str | None = None
    limit: int | None = None
    """Only so many parts, those that were used last."""


class UsageSum(Struct, frozen=True, kw_only=True):
    """The usage of one part; what it was not told apart by is None."""

    day: int | None = None
    agent_id: str | None = None
    provider: str | None = None
    model: str | None = None
    session_key: str | None = None
    session_id: str | None = None
    run_id: str | None = None
    entries: int
    """How many entries were added up: one per run and model."""
    runs: int
    """How many runs began with one of these entries."""
    input_tokens: int
    """Tokens read, those from and for the provider's cache included."""
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    cost_nanousd: int
    """Billionths of a US dollar, of the entries whose price is known."""
    unpriced: int
    """How many entries have no known price."""
    first_at_ms: int
    last_at_ms: int


class LatencySum(Struct, frozen=True, kw_only=True):
    """How long runs took, of one day or in all."""

    day: int | None = None
    runs: int
    total_ms: int
    p95_ms: int
    min_ms: int
    max_ms: int
