"""The event logs of runs: appended to, read from a position on, measured."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Connection, bindparam, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from gateway.model import EventSpan, RunEvent
from gateway.store.tables import columns_of, run_events, runs, to_record, to_values

EVENT_OVERHEAD = 200
"""Bytes that an event takes of the file beside its data, index included (measured: 204)."""

SIZE: ColumnElement[int] = func.length(run_events.c.data) + EVENT_OVERHEAD
"""What one stored event takes."""

_OF_RUN = run_events.c.run_id == bindparam("run_id")
_EPOCH = select(runs.c.epoch).where(runs.c.run_id == bindparam("run_id")).scalar_subquery()

_INSERT = insert(run_events)
_EVENTS = (
    select(*columns_of(run_events, RunEvent))
    .where(_OF_RUN, run_events.c.seq > bindparam("after_seq"))
    .order_by(run_events.c.seq)
    .limit(bindparam("limit"))
)
_MOVE = (
    update(run_events)
    .where(run_events.c.run_id == bindparam("of_run"), run_events.c.epoch == bindparam("old_epoch"))
    .values(epoch=bindparam("new_epoch"))
)
_AT = select(*columns_of(run_events, RunEvent)).where(
    _OF_RUN, run_events.c.epoch == bindparam("epoch"), run_events.c.seq == bindparam("seq")
)
_OWN_EVENTS = _EVENTS.where(run_events.c.epoch == _EPOCH)
_EVENTS_OF_EPOCH = _EVENTS.where(run_events.c.epoch == bindparam("epoch"))


def _edge(edge: ColumnElement[int]) -> ColumnElement[int]:
    return select(edge).where(_OF_RUN, run_events.c.epoch == _EPOCH).scalar_subquery()


_SPAN = select(
    runs.c.epoch,
    runs.c.evicted_through,
    # Two statements in one, since each is a step into the index; together they would be a walk.
    _edge(func.min(run_events.c.seq)),
    _edge(func.max(run_events.c.seq)),
).where(runs.c.run_id == bindparam("run_id"))


def append(connection: Connection, events: Sequence[RunEvent]) -> None:
    """Append to logs. One that is stored already stays; one whose place another has fails all of them.

    A commit can succeed and be said to have failed: its events then come a second time.
    """
    if not events:
        return
    try:
        connection.execute(_INSERT, [to_values(event) for event in events])
    except IntegrityError:
        # SQLite has undone the one statement that failed; those before it stand.
        missing = [event for event in events if not _is_stored(connection, event)]
        if missing:
            connection.execute(_INSERT, [to_values(event) for event in missing])


def move(connection: Connection, run_id: str, old: str, new: str) -> None:
    """Put the events of one epoch of a run under another, which has none of their numbers."""
    values = {"of_run": run_id, "old_epoch": old, "new_epoch": new}
    connection.execute(_MOVE, values)


def _is_stored(connection: Connection, event: RunEvent) -> bool:
    place = {"run_id": event.run_id, "epoch": event.epoch, "seq": event.seq}
    row = connection.execute(_AT, place).first()
    return row is not None and to_record(RunEvent, row) == event


def size_of(events: Sequence[RunEvent]) -> int:
    """Return what events take of the file."""
    return sum(len(event.data) + EVENT_OVERHEAD for event in events)


def read(
    connection: Connection, run_id: str, after_seq: int, limit: int, epoch: str | None
) -> tuple[RunEvent, ...]:
    """Return events of one epoch's log in order; without an epoch of the one the run is stored with."""
    values = {"run_id": run_id, "after_seq": after_seq, "limit": max(limit, 0)}
    if epoch is None:
        rows = connection.execute(_OWN_EVENTS, values)
    else:
        rows = connection.execute(_EVENTS_OF_EPOCH, {**values, "epoch": epoch})
    return tuple(to_record(RunEvent, row) for row in rows)


def span(connection: Connection, run_id: str) -> EventSpan | None:
    """Return from where to where the log of a run's own epoch is stored."""
    row = connection.execute(_SPAN, {"run_id": run_id}).first()
    if row is None:
        return None
    epoch, evicted_through, first, last = row
    if first is None:
        return EventSpan(epoch, evicted_through + 1, evicted_through)
    return EventSpan(epoch, first, last)
