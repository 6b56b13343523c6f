"""Runs and their event logs: accepted, appended to, ended, pruned."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import structs
from sqlalchemy import Connection, bindparam, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from gateway.errors import StoreError, VersionConflict
from gateway.model import Message, RunEvent, RunRecord, RunState, Session, TurnEnd
from gateway.store import sessions, transcripts
from gateway.store.changes import call_change
from gateway.store.tables import columns_of, run_events, runs, to_record, to_values

OPEN_STATES = tuple(state for state in RunState if not state.terminal)

_SELECT = select(*columns_of(runs, RunRecord))
_BY_ID = _SELECT.where(runs.c.run_id == bindparam("run_id"))
_OPEN = _SELECT.where(runs.c.state.in_(OPEN_STATES)).order_by(runs.c.position)
_INSERT = insert(runs)
_END = update(runs).where(runs.c.run_id == bindparam("at_run_id"), runs.c.ended_at_ms.is_(None))
_INSERT_EVENTS = insert(run_events)
_EVENTS = (
    select(*columns_of(run_events, RunEvent))
    .where(
        run_events.c.run_id == bindparam("run_id"),
        run_events.c.epoch
        == select(runs.c.epoch).where(runs.c.run_id == bindparam("run_id")).scalar_subquery(),
        run_events.c.seq > bindparam("after_seq"),
    )
    .order_by(run_events.c.seq)
    .limit(bindparam("limit"))
)
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
        connection.execute(_INSERT, to_values(run))
    except IntegrityError as error:
        raise VersionConflict(f"run {run.run_id} is stored already") from error
    stored = sessions.write(
        connection, run.session_key, current, sessions.with_previews(wanted, added)
    )
    numbered = transcripts.append(connection, stored.session_id, added)
    return stored, numbered[0] if numbered else None


def append_events(connection: Connection, events: Sequence[RunEvent]) -> None:
    """Append to logs; an event whose place is taken fails all of them."""
    if events:
        connection.execute(_INSERT_EVENTS, [to_values(event) for event in events])


def finish(connection: Connection, end: TurnEnd) -> tuple[Message, ...]:
    """Store the end of a run; return its messages with their ``seq``.

    A run that was never accepted is stored too. Raises VersionConflict if it has ended before.
    """
    run = end.run
    if not run.state.terminal or run.ended_at_ms is None:
        raise StoreError(f"run {run.run_id} has not ended")
    _end_record(connection, run)
    append_events(connection, end.events)
    current = sessions.by_key(connection, run.session_key)
    if current is not None and current.session_id == run.session_id:
        sessions.write(connection, run.session_key, current, _after(current, end, run.ended_at_ms))
    return transcripts.append(connection, run.session_id, end.messages)


def _end_record(connection: Connection, run: RunRecord) -> None:
    values = to_values(run)
    if connection.execute(_END, {**values, "at_run_id": run.run_id}).rowcount == 1:
        return
    try:
        connection.execute(_INSERT, values)
    except IntegrityError as error:
        raise VersionConflict(f"run {run.run_id} has ended already") from error


def _after(session: Session, end: TurnEnd, ended_at_ms: int) -> Session:
    return structs.replace(
        sessions.with_previews(session, end.messages),
        updated_at_ms=ended_at_ms,
        aborted_last_run=end.run.state is RunState.ABORTED,
        system_sent=session.system_sent or end.system_sent,
        input_tokens=session.input_tokens + end.input_tokens,
        output_tokens=session.output_tokens + end.output_tokens,
        total_tokens=session.total_tokens + end.input_tokens + end.output_tokens,
    )


def by_id(connection: Connection, run_id: str) -> RunRecord | None:
    """Return a stored run."""
    row = connection.execute(_BY_ID, {"run_id": run_id}).first()
    return None if row is None else to_record(RunRecord, row)


def open_runs(connection: Connection) -> tuple[RunRecord, ...]:
    """Return the runs without an end, in the order in which they were accepted."""
    return tuple(to_record(RunRecord, row) for row in connection.execute(_OPEN))


def events(connection: Connection, run_id: str, after_seq: int, limit: int) -> tuple[RunEvent, ...]:
    """Return events of the log in the run's stored epoch, in order."""
    values = {"run_id": run_id, "after_seq": after_seq, "limit": max(limit, 0)}
    return tuple(to_record(RunEvent, row) for row in connection.execute(_EVENTS, values))


def prune(connection: Connection, ended_before_ms: int, limit: int) -> int:
    """Delete the runs that ended first, with the events of all their epochs; return how many."""
    values = {"ended_before_ms": ended_before_ms, "limit": max(limit, 0)}
    connection.execute(_PRUNE_EVENTS, values)
    return connection.execute(_PRUNE_RUNS, values).rowcount
