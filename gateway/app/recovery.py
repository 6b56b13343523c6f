"""Runs that their process did not live to end: ended in its place."""

from __future__ import annotations

import msgspec
from twisted.logger import Logger

from gateway.core.frames import encode
from gateway.core.run import RunOutcome
from gateway.errors import StoreError
from gateway.interfaces import IStore
from gateway.model import RunEvent, RunRecord, RunState, TurnEnd

EVENTS_PAGE = 1000

_log = Logger()


def outcome_of(record: RunRecord) -> RunOutcome | None:
    """Return the outcome of a stored run, or None if it is open."""
    if not record.state.terminal:
        return None
    return RunOutcome(
        run_id=record.run_id,
        session_key=record.session_key,
        session_id=record.session_id,
        state=record.state,
        started_at_ms=record.started_at_ms,
        ended_at_ms=record.ended_at_ms or record.accepted_at_ms,
        stop_reason=record.stop_reason,
        error=record.error,
    )


async def recover(store: IStore, now_ms: int, *, own_epoch: str) -> int:
    """End the runs that a crash left open; return how many there were.

    Those of ``own_epoch`` go on: a client may have started one by now. One that can't be ended is
    logged and left for the next start. Raises StoreError.
    """
    records: tuple[RunRecord, ...] = await store.open_runs()
    crashed = [record for record in records if record.epoch != own_epoch]
    for record in crashed:
        try:
            await interrupt(store, record, now_ms)
        except StoreError:
            _log.failure("run {run} is open after a crash", run=record.run_id)
    if crashed:
        _log.warn("{count} runs were open after a crash; ended", count=len(crashed))
    return len(crashed)


async def interrupt(store: IStore, record: RunRecord, now_ms: int) -> RunOutcome:
    """End an open run that nobody drives: its log gets its end; return the outcome. Raises StoreError."""
    seq = 0
    while events := await store.list_events(record.run_id, after_seq=seq, limit=EVENTS_PAGE):
        seq = events[-1].seq
    error = "interrupted by a restart"
    end = RunEvent(
        run_id=record.run_id,
        epoch=record.epoch,
        seq=seq + 1,
        stream="lifecycle",
        data=encode({"phase": "error", "error": error, "endedAt": now_ms}),
        ts_ms=now_ms,
    )
    ended = msgspec.structs.replace(
        record, state=RunState.FAILED, ended_at_ms=now_ms, error=error, last_seq=seq + 1
    )
    await store.finish_turn(TurnEnd(run=ended, events=(end,), system_sent=False))
    outcome = outcome_of(ended)
    assert outcome is not None
    return outcome
