"""How logs of runs look to clients: what they ask, what they are answered, events one by one."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from gateway.app.logreader import LogView
from gateway.core.events import Event
from gateway.core.frames import encode
from gateway.core.resume import Status
from gateway.core.run import RunOutcome, RunOutput, lifecycle_end
from gateway.model import Position, RunEvent


class Wish(msgspec.Struct, frozen=True):
    """What a client asks of one log: the events behind a position, at most so many in the answer."""

    run_id: str
    after: Position | None
    limit: int


class Reading(NamedTuple):
    """An answer, where to follow on from (None: nothing comes), and about how large it is."""

    answer: dict[str, Any]
    position: Position | None = None
    size: int = 0


def put_off(wish: Wish, reading: Reading) -> Reading:
    """Return an answer without the snapshot that would make it too large: the client will ask for it.

    It follows from where it stands, and finds there that it can not read on; unless it stands behind the
    end of this log, where no event would tell it.
    """
    there = Position(**reading.answer["next"])
    at = wish.after or Position(epoch=there.epoch, seq=0)
    if at.epoch == there.epoch and at.seq >= there.seq:
        return reading
    answer = {
        "runId": wish.run_id,
        "status": Status.REPLAY,
        "epoch": at.epoch,
        "events": [],
        "next": {"epoch": at.epoch, "seq": at.seq},
    }
    return Reading(answer, at)


def end_of(view: LogView, outcome: RunOutcome) -> RunEvent:
    """Return the last event of a log that lacks it, as the run's record tells it."""
    return RunEvent(
        run_id=view.run_id,
        epoch=view.epoch,
        seq=view.last_seq,
        stream="lifecycle",
        data=encode(lifecycle_end(outcome)),
        ts_ms=outcome.ended_at_ms,
    )


def run_event(run_id: str, epoch: str, event: RunEvent | RunOutput) -> Event:
    """Return an event of a log as it is sent to who follows its run."""
    return Event("run.event", {"runId": run_id, "epoch": epoch, **shown(event)})


def shown(event: RunEvent | RunOutput) -> dict[str, Any]:
    """Return an event as answers have it; its data are JSON text already."""
    data = msgspec.Raw(event.data)
    return {"seq": event.seq, "stream": event.stream, "data": data, "ts": event.ts_ms}
