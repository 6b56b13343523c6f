"""What runs used, by model: written with the end of a run, added up in the database."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Label,
    bindparam,
    case,
    delete,
    func,
    insert,
    literal,
    null,
    select,
)

from gateway.model import (
    DaySpan,
    LatencySum,
    ModelUsage,
    RunRecord,
    UsagePart,
    UsageQuery,
    UsageSum,
)
from gateway.store.tables import usage

NANO = 1_000_000_000
"""Billionths in a US dollar: prices are fractions of a cent, and sums of floats would drift."""

_MAX_NANO = 2**62

_INSERT = insert(usage)
_EXPIRED = (
    select(usage.c.position)
    .where(usage.c.at_ms < bindparam("before_ms"))
    .order_by(usage.c.at_ms)
    .limit(bindparam("limit"))
)
_PRUNE = delete(usage).where(usage.c.position.in_(_EXPIRED))

_PARTS: Final[dict[UsagePart, tuple[str, ...]]] = {
    "day": ("day",),
    "agent": ("agent_id",),
    "provider": ("provider",),
    "model": ("model",),
    "key": ("agent_id", "session_key"),
    "session": ("agent_id", "session_key", "session_id"),
    "run": ("run_id",),
}
_NAMES = ("day", "agent_id", "provider", "model", "session_key", "session_id", "run_id")
_FIRST = case((usage.c.ordinal == 0, 1), else_=0)
_SUMS: tuple[Label[Any], ...] = (
    func.count().label("entries"),
    func.sum(_FIRST).label("runs"),
    func.sum(usage.c.input_tokens).label("input_tokens"),
    func.sum(usage.c.output_tokens).label("output_tokens"),
    func.sum(usage.c.cache_read_tokens).label("cache_read_tokens"),
    func.sum(usage.c.cache_write_tokens).label("cache_write_tokens"),
    func.coalesce(func.sum(usage.c.cost_nanousd), 0).label("cost_nanousd"),
    (func.count() - func.count(usage.c.cost_nanousd)).label("unpriced"),
    func.min(usage.c.at_ms).label("first_at_ms"),
    func.max(usage.c.at_ms).label("last_at_ms"),
)


def append(connection: Connection, run: RunRecord, used: Sequence[ModelUsage]) -> None:
    """Write down what an ended run used."""
    started, ended = run.started_at_ms, run.ended_at_ms
    assert ended is not None
    rows = [
        {
            "run_id": run.run_id,
            "ordinal": ordinal,
            "session_key": run.session_key,
            "session_id": run.session_id,
            "agent_id": run.agent_id,
            "provider": entry.provider,
            "model": entry.model,
            "at_ms": ended,
            "duration_ms": None if started is None else max(0, ended - started),
            "input_tokens": entry.input_tokens,
            "output_tokens": entry.output_tokens,
            "cache_read_tokens": entry.cache_read_tokens,
            "cache_write_tokens": entry.cache_write_tokens,
            "cost_nanousd": nanousd(entry.cost_usd),
        }
        for ordinal, entry in enumerate(used)
    ]
    if rows:
        connection.execute(_INSERT, rows)


def nanousd(cost_usd: float | None) -> int | None:
    """Return a price in billionths of a dollar; None for one that is none, or that none can have."""
    if cost_usd is None or not math.isfinite(cost_usd) or not 0 <= cost_usd < _MAX_NANO / NANO:
        return None
    return round(cost_usd * NANO)


def add_up(connection: Connection, query: UsageQuery) -> tuple[UsageSum, ...]:
    """Return the sums of what a query asks for, those first that were used last."""
    wanted = dict.fromkeys(name for part in query.by for name in _PARTS[part])
    columns = [(_column(name, query) if name in wanted else null()).label(name) for name in _NAMES]
    statement = select(*columns, *_SUMS).where(*_conditions(query))
    if wanted:
        statement = statement.group_by(*(name for name in _NAMES if name in wanted))
    else:
        statement = statement.having(func.count() > 0)
    statement = statement.order_by(func.max(usage.c.at_ms).desc(), *wanted)
    if query.limit is not None:
        statement = statement.limit(max(query.limit, 0))
    return tuple(UsageSum(**row._mapping) for row in connection.execute(statement))


def latency(connection: Connection, query: UsageQuery) -> tuple[LatencySum, ...]:
    """Return how long runs took, by day if the query asks for that, the first day first."""
    daily = "day" in query.by
    day: ColumnElement[Any] = _column("day", query) if daily else literal(0)
    took = (
        select(
            day.label("day"),
            usage.c.duration_ms.label("ms"),
            func.row_number().over(partition_by=day, order_by=usage.c.duration_ms).label("place"),
            func.count().over(partition_by=day).label("runs"),
        )
        .where(*_conditions(query), usage.c.ordinal == 0, usage.c.duration_ms.is_not(None))
        .subquery()
    )
    statement = (
        select(
            took.c.day,
            func.count().label("runs"),
            func.sum(took.c.ms).label("total_ms"),
            func.min(case((took.c.place * 100 >= took.c.runs * 95, took.c.ms))).label("p95_ms"),
            func.min(took.c.ms).label("min_ms"),
            func.max(took.c.ms).label("max_ms"),
        )
        .group_by(took.c.day)
        .order_by(took.c.day)
    )
    rows = [dict(row._mapping) for row in connection.execute(statement)]
    return tuple(LatencySum(**(row if daily else {**row, "day": None})) for row in rows)


def prune(connection: Connection, before_ms: int, limit: int) -> int:
    """Forget the oldest entries from before a time; return how many."""
    return connection.execute(_PRUNE, {"before_ms": before_ms, "limit": limit}).rowcount


def _column(name: str, query: UsageQuery) -> ColumnElement[Any]:
    return _day(query.days) if name == "day" else usage.c[name]


def _day(spans: Sequence[DaySpan]) -> ColumnElement[Any]:
    """Return the number of the day that an entry belongs to."""
    whens = [
        (usage.c.at_ms < following.start_ms, _day_in(span)) for span, following in pairwise(spans)
    ]
    last = _day_in(spans[-1])
    return case(*whens, else_=last) if whens else last


def _day_in(span: DaySpan) -> ColumnElement[Any]:
    return literal(span.first) + (usage.c.at_ms - span.start_ms) // span.length_ms


def _conditions(query: UsageQuery) -> list[ColumnElement[bool]]:
    conditions = [usage.c.at_ms >= query.since_ms, usage.c.at_ms < query.until_ms]
    if query.agent_id is not None:
        conditions.append(usage.c.agent_id == query.agent_id)
    if query.session_keys:
        conditions.append(usage.c.session_key.in_(query.session_keys))
    if query.session_id is not None:
        conditions.append(usage.c.session_id == query.session_id)
    return conditions
