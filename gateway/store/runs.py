"""Runs: accepted, taken over, ended, listed. Their events are in :mod:`gateway.store.logs`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import Any

from msgspec import structs
from sqlalchemy import Connection, Row, bindparam, delete, func, insert, null, select, update
from sqlalchemy.exc import IntegrityError

from gateway.errors import StoreError, VersionConflict
from gateway.model import Message, RunQuery, RunRecord, RunState, Session, TurnEnd
from gateway.store import logs, sessions, transcripts, usage
from gateway.store.changes import call_change
from gateway.store.tables import columns_of, run_events, runs, to_record, to_values

LIST_LIMIT = 1000
OPEN_STATES = tuple(state for state in RunState if not state.terminal)

_AT_RUN = runs.c.run_id == bindparam("at_run_id")
_STILL_OPEN = runs.c.ended_at_ms.is_(None)

_SELECT = select(*columns_of(runs, RunRecord))
_BY_ID = _SELECT.where(runs.c.run_id == bindparam("run_id"))
_OPEN = _SELECT.where(runs.c.state.in_(OPEN_STATES)).order_by(runs.c.position)
# A page of runs must not be megabytes of their requests.
_LISTED = [
    null().label("request_json") if column is runs.c.request_json else column
    for column in columns_of(runs, RunRecord)
]
_NEWEST = (
    select(runs.c.position, *_LISTED).order_by(runs.c.position.desc()).limit(bindparam("limit"))
)
_NEWEST_IN_STATE = _NEWEST.where(runs.c.state == bindparam("in_state"))
_INSERT = insert(runs)
_CHANGE = update(runs).where(
    _AT_RUN,
    _STILL_OPEN,
    runs.c.epoch == bindparam("at_epoch"),
    runs.c.state == bindparam("at_state"),
)
_STORED_BYTES = (
    select(func.coalesce(func.sum(logs.SIZE), 0))
    .where(run_events.c.run_id == bindparam("at_run_id"))
    .scalar_subquery()
)
_LOG_BYTES = _STORED_BYTES + bindparam("more_bytes")
_END = update(runs).where(_AT_RUN, _STILL_OPEN).values(log_bytes=_LOG_BYTES)
_INSERT_ENDED = insert(runs).values(log_bytes=_LOG_BYTES)
_EXPIRED = (
    select(runs.c.run_id)
    .where(runs.c.ended_at_ms < bindparam("ended_before_ms"))
    .order_by(runs.c.ended_at_ms, runs.c.position)
    .limit(bindparam("limit"))
)
_PRUNE_EVENTS = delete(run_events).where(run_events.c.run_id.in_(_EXPIRED))
_PRUNE_RUNS = delete(runs).where(runs.c.run_id.in_(_EXPIRED))


def accept(
    connection: Connection,
    run: RunRecord,
    change: Callable[[Session | None], Session],
    message: Message | None,
) -> tuple[Session, Message | None]:
    """Store the session, the user's message and the run.

    Raises VersionConflict if a run of this id is stored.
    """
    current = sessions.by_key(connection, run.session_key)
    wanted = call_change(change, current)
    added = () if message is None else (message,)
    run = structs.replace(run, session_id=wanted.session_id)
    try:
        connection.execute(_INSERT, {**to_values(run), "log_bytes": 0})
    except IntegrityError as error:
        raise VersionConflict(f"run {run.run_id} is stored already") from error
    stored = sessions.write(
        connection, run.session_key, current, sessions.with_previews(wanted, added)
    )
    numbered = transcripts.append(connection, stored.session_id, added)
    return stored, numbered[0] if numbered else None


def update_by(
    connection: Connection, run_id: str, change: Callable[[RunRecord | None], RunRecord | None]
) -> RunRecord | None:
    """Store what ``change`` makes of an open run's record; return what is stored afterwards."""
    current = by_id(connection, run_id)
    wanted = call_change(change, current)
    if wanted is None:
        return current
    if wanted.run_id != run_id:
        raise StoreError("a run can not change its id")
    if wanted.state.terminal or wanted.ended_at_ms is not None:
        raise StoreError(f"run {run_id} ends by finish_turn")
    if current is None:
        raise VersionConflict(f"run {run_id} is not stored")
    at = {"at_run_id": run_id, "at_epoch": current.epoch, "at_state": current.state}
    if connection.execute(_CHANGE, {**to_values(wanted), **at}).rowcount != 1:
        raise VersionConflict(f"run {run_id} has ended, or was changed by someone else")
    return wanted


def start_by(
    connection: Connection, run_id: str, change: Callable[[RunRecord | None], RunRecord | None]
) -> tuple[RunRecord | None, Session | None]:
    """Do as :func:`update_by`; return the session of the run's key as well."""
    run = update_by(connection, run_id, change)
    return run, None if run is None else sessions.by_key(connection, run.session_key)


def finish(connection: Connection, end: TurnEnd) -> tuple[Message, ...]:
    """Store the end of a run; return its messages with their ``seq``.

    A run that was never accepted is stored too. Raises VersionConflict if it has ended before.
    """
    run = end.run
    if not run.state.terminal or run.ended_at_ms is None:
        raise StoreError(f"run {run.run_id} has not ended")
    _end_record(connection, run, logs.size_of(end.events))
    if end.moved_from is not None:
        logs.move(connection, run.run_id, end.moved_from, run.epoch)
    logs.append(connection, end.events)
    usage.append(connection, run, end.usage)
    current = sessions.by_key(connection, run.session_key)
    if current is not None and current.session_id == run.session_id:
        sessions.write(connection, run.session_key, current, _after(current, end, run.ended_at_ms))
    return transcripts.append(connection, run.session_id, end.messages)


def _end_record(connection: Connection, run: RunRecord, more_bytes: int) -> None:
    # What has ended is not run again: its request is of no more use.
    values = {**to_values(run), "request_json": None}
    values |= {"at_run_id": run.run_id, "more_bytes": more_bytes}
    if connection.execute(_END, values).rowcount == 1:
        return
    try:
        connection.execute(_INSERT_ENDED, values)
    except IntegrityError as error:
        raise VersionConflict(f"run {run.run_id} has ended already") from error


def _after(session: Session, end: TurnEnd, ended_at_ms: int) -> Session:
    told = end.context_tokens
    return structs.replace(
        sessions.with_previews(session, end.messages),
        updated_at_ms=ended_at_ms,
        aborted_last_run=end.run.state is RunState.ABORTED,
        system_sent=session.system_sent or end.system_sent,
        input_tokens=session.input_tokens + end.input_tokens,
        output_tokens=session.output_tokens + end.output_tokens,
        total_tokens=session.total_tokens + end.input_tokens + end.output_tokens,
        context_tokens=session.context_tokens if told is None else told,
    )


def by_id(connection: Connection, run_id: str) -> RunRecord | None:
    """Return a stored run."""
    row = connection.execute(_BY_ID, {"run_id": run_id}).first()
    return None if row is None else to_record(RunRecord, row)


def open_runs(connection: Connection) -> tuple[RunRecord, ...]:
    """Return the runs without an end, in the order in which they were accepted."""
    return tuple(to_record(RunRecord, row) for row in connection.execute(_OPEN))


def newest(connection: Connection, query: RunQuery) -> tuple[RunRecord, ...]:
    """Return runs, the one that was accepted last first, without their requests."""
    limit = min(max(query.limit, 0), LIST_LIMIT)
    rows: Iterable[Row[Any]]
    if query.session_key is not None:
        statement = _NEWEST.where(runs.c.session_key == query.session_key)
        if query.states:
            statement = statement.where(runs.c.state.in_(query.states))
        rows = connection.execute(statement, {"limit": limit})
    elif query.states:
        # State by state each is the end of an index; all at once would be a sort of all that match.
        found = [
            row
            for state in frozenset(query.states)
            for row in connection.execute(_NEWEST_IN_STATE, {"in_state": state, "limit": limit})
        ]
        rows = sorted(found, key=itemgetter(0), reverse=True)[:limit]
    else:
        rows = connection.execute(_NEWEST, {"limit": limit})
    return tuple(to_record(RunRecord, row[1:]) for row in rows)


def prune(connection: Connection, ended_before_ms: int, limit: int) -> int:
    """Delete the runs that ended first, with the events of all their epochs; return how many."""
    values = {"ended_before_ms": ended_before_ms, "limit": max(limit, 0)}
    connection.execute(_PRUNE_EVENTS, values)
    return connection.execute(_PRUNE_RUNS, values).rowcount
