"""Retention: what a policy does not keep is removed, the oldest first.

A plan is made by reading; it is carried out in steps, each a transaction of a few milliseconds, so that
other writes go on in between. Whatever becomes of the plan meanwhile, a run that is open is not touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    Connection,
    Row,
    bindparam,
    delete,
    func,
    literal_column,
    select,
    tuple_,
    update,
)

from gateway.model import Retention
from gateway.store.logs import SIZE
from gateway.store.tables import run_events, runs

PLAN_RUNS = 256
"""Runs of one plan."""

STEP_RUNS = 16
STEP_EVENTS = 500
STEP_BYTES = 1024 * 1024
"""What one step removes at most, but for one event that is larger by itself: 2 to 10 ms."""

STEP_USAGE = 1000
"""Entries of usage that one step forgets at most."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Runs to forget; or, where ``excess`` is set, runs whose oldest events go, so many bytes of them."""

    run_ids: tuple[str, ...]
    excess: int | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """What a step removed, and what is left of its plan."""

    runs: int
    events: int
    left: Plan


_ENDED = runs.c.ended_at_ms.is_not(None)
_AGED = (
    select(runs.c.run_id)
    .where(runs.c.ended_at_ms < bindparam("ended_before_ms"))
    .order_by(runs.c.ended_at_ms, runs.c.position)
    .limit(PLAN_RUNS)
)
_FULL_SESSIONS = (
    select(runs.c.session_key)
    .group_by(runs.c.session_key)
    .having(func.count() > bindparam("keep"))
    .order_by(runs.c.session_key)
)
_OF_SESSION = (runs.c.session_key == bindparam("session_key"), _ENDED)
_NEWEST_SURPLUS = (
    select(runs.c.position)
    .where(*_OF_SESSION)
    .order_by(runs.c.position.desc())
    .limit(1)
    .offset(bindparam("keep"))
    .scalar_subquery()
)
_SURPLUS = (
    select(runs.c.run_id)
    .where(*_OF_SESSION, runs.c.position <= _NEWEST_SURPLUS)
    .order_by(runs.c.position)
    .limit(PLAN_RUNS)
)
# Word for word the condition of the index, so that only runs whose events are stored are looked at.
_LOGGED = runs.c.log_bytes > literal_column("0")
_ALL_BYTES = select(func.coalesce(func.sum(runs.c.log_bytes), 0)).where(_LOGGED)
_OLDEST_LOGS = (
    select(runs.c.run_id, runs.c.log_bytes)
    .where(_LOGGED)
    .order_by(runs.c.position)
    .limit(PLAN_RUNS)
)

_EVENTS_OF_RUN = run_events.c.run_id == bindparam("of_run")
_EVENT = tuple_(run_events.c.epoch, run_events.c.seq)
_OLDEST_EVENTS = (
    select(run_events.c.epoch, run_events.c.seq, SIZE.label("size"))
    .where(_EVENTS_OF_RUN)
    .order_by(run_events.c.epoch, run_events.c.seq)
    .limit(bindparam("limit"))
)
_DELETE_EVENTS = delete(run_events).where(
    _EVENTS_OF_RUN, tuple_(bindparam("last_epoch"), bindparam("last_seq")) >= _EVENT
)
_ENDED_RUN = select(runs.c.epoch, runs.c.log_bytes, runs.c.evicted_through).where(
    runs.c.run_id == bindparam("of_run"), _ENDED
)
_EVICT = (
    update(runs)
    .where(runs.c.run_id == bindparam("of_run"), _ENDED)
    .values(evicted_through=bindparam("evicted"), log_bytes=bindparam("left_bytes"))
)
_FORGET = delete(runs).where(runs.c.run_id == bindparam("of_run"), _ENDED)


def plan(connection: Connection, policy: Retention) -> Plan | None:
    """Return what to remove next, or None where the policy is met."""
    if policy.ended_before_ms is not None:
        values = {"ended_before_ms": policy.ended_before_ms}
        aged = connection.execute(_AGED, values).scalars().all()
        if aged:
            return Plan(tuple(aged))
    if policy.runs_per_session is not None:
        surplus = _surplus(connection, policy.runs_per_session)
        if surplus:
            return Plan(surplus)
    if policy.log_bytes is not None:
        return _excess(connection, policy.log_bytes)
    return None


def _surplus(connection: Connection, keep: int) -> tuple[str, ...]:
    """Return runs of sessions that have too many."""
    found: list[str] = []
    for key in connection.execute(_FULL_SESSIONS, {"keep": keep}).scalars().all():
        found += connection.execute(_SURPLUS, {"session_key": key, "keep": keep}).scalars()
        if len(found) >= PLAN_RUNS:
            break
    return tuple(found[:PLAN_RUNS])


def _excess(connection: Connection, keep_bytes: int) -> Plan | None:
    excess = connection.execute(_ALL_BYTES).scalar_one() - keep_bytes
    if excess <= 0:
        return None
    run_ids: list[str] = []
    found = 0
    for run_id, log_bytes in connection.execute(_OLDEST_LOGS):
        run_ids.append(run_id)
        found += log_bytes
        if found >= excess:
            break
    return Plan(tuple(run_ids), excess)


def carry_out(connection: Connection, plan: Plan) -> Step:
    """Carry out as much of a plan as a small transaction may take."""
    done = forgotten = events = size = 0
    for run_id in plan.run_ids[:STEP_RUNS]:
        most = STEP_BYTES if plan.excess is None else min(STEP_BYTES, plan.excess)
        if events >= STEP_EVENTS or size >= most:
            break
        evicted = _evict_events(connection, run_id, STEP_EVENTS - events, most - size)
        events += evicted.events
        size += evicted.size
        if evicted.all and plan.excess is None:
            forgotten += connection.execute(_FORGET, {"of_run": run_id}).rowcount
        else:
            connection.execute(_EVICT, {"of_run": run_id, **evicted.record()})
        if not evicted.all:
            break
        done += 1
    left, excess = plan.run_ids[done:], plan.excess
    if excess is not None:
        excess -= size
        left = left if excess > 0 else ()
    return Step(forgotten, events, Plan(left, excess))


@dataclass(frozen=True, slots=True)
class _Evicted:
    """Events that went from a log: how many, their bytes, up to where, what is left."""

    events: int
    size: int
    through: int
    left_bytes: int
    all: bool

    def record(self) -> dict[str, int]:
        """Return what the run's record says of it."""
        return {"evicted": self.through, "left_bytes": 0 if self.all else max(1, self.left_bytes)}


def _evict_events(
    connection: Connection, run_id: str, most_events: int, most_bytes: int
) -> _Evicted:
    """Remove the beginning of the log of a run that has ended."""
    record = connection.execute(_ENDED_RUN, {"of_run": run_id}).first()
    if record is None:
        return _Evicted(0, 0, 0, 0, all=True)
    epoch, log_bytes, through = record
    rows = connection.execute(_OLDEST_EVENTS, {"of_run": run_id, "limit": most_events + 1}).all()
    taken = _take(rows, most_events, most_bytes)
    if taken:
        last = {"last_epoch": taken[-1].epoch, "last_seq": taken[-1].seq}
        connection.execute(_DELETE_EVENTS, {"of_run": run_id, **last})
    through = max([through, *(row.seq for row in taken if row.epoch == epoch)])
    size = sum(row.size for row in taken)
    return _Evicted(len(taken), size, through, log_bytes - size, len(taken) == len(rows))


def _take(rows: Sequence[Row[Any]], most_events: int, most_bytes: int) -> Sequence[Row[Any]]:
    """Return the first rows: as many as are allowed, at least one if there is any."""
    size = 0
    for number, row in enumerate(rows[:most_events]):
        size += row.size
        if size >= most_bytes:
            return rows[: number + 1]
    return rows[:most_events]
