"""Runs that an earlier process accepted and did not live to end: taken up again, or ended in its place.

What the store says of such a run decides. One that waited for its turn is run now, as the same run, in its
place of the session; its message is in the transcript already. One that had started ends as
`interrupted`, or is run once more where its agent's table says so: its log begins anew. What waited too
long ends as `expired`. Either way the log has the epoch of this process from then on: clients may have seen
more of the old one than was stored, and its numbers must not be given twice.

A run is noted as running before its backend is called (see :mod:`gateway.app.drive`), and a run that
is run again loses its stored request with that note. So nothing is ever run twice by accident, and no
message can bring the gateway down again and again.

Until all of them stand in their lanes new messages wait, so that the order of a session holds, and a
request that is repeated meets the run that it began.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from gateway.app.agents import AgentDirectory
from gateway.app.deferreds import together
from gateway.app.drive import Drive
from gateway.core.run import EXPIRED, EXPIRED_TEXT, INTERRUPTED, Run, RunOutcome, Waiter
from gateway.errors import Unavailable
from gateway.interfaces import IClock, IStore
from gateway.model import EventSpan, RunRecord, RunRequest, RunState, decode_request

INTERRUPTED_TEXT = "interrupted by a restart"

AT_ONCE = 100
"""Runs that are ended at once."""

BREATH = 500
"""Runs that are taken up before the reactor gets its turn."""

END_PATIENCE_S = 5.0

_log = Logger()


class Host(Protocol):
    """What the recovery needs of the runs."""

    clock: IClock
    store: IStore
    epoch: str

    def adopt(self, run: Run, *, stored_epoch: str, age_s: float, rerun: bool) -> Drive | None:
        """Take a stored run into its lane; None if it is known here."""

    def go_on(self, session_key: str) -> None:
        """Let the first run of a session go."""

    def wait(self, run_id: str, timeout_s: float) -> Deferred[RunOutcome | None]:
        """Return how a run ended."""


class Ending:
    """How a stored run is ended that will not be run: the state, a code, and words for people."""

    __slots__ = ("drive", "error", "stop_reason")

    def __init__(self, drive: Drive, stop_reason: str, error: str) -> None:
        self.drive = drive
        self.stop_reason = stop_reason
        self.error = error


class Recovery:
    """The start-up's search for open runs. Asked again after a failure, it goes on where it was."""

    def __init__(self, host: Host, agents: AgentDirectory, *, ttl_s: float) -> None:
        self._host = host
        self._agents = agents
        self._ttl_s = ttl_s
        self._looked = False
        self._closed = False
        """Whether new messages are kept out: from the first look on, until all runs have their place."""
        self._looking = False
        self._waiting: list[Deferred[None]] = []
        self._endings: deque[Ending] = deque()

    async def opened(self) -> None:
        """Wait until new messages may come in. Raises Unavailable where the store was asked in vain."""
        if not self._closed:
            return
        if not self._looking:
            raise _starting()
        waiting: Deferred[None] = Deferred()
        self._waiting.append(waiting)
        await waiting

    async def run(self) -> int:
        """Take up or end every run that is open; return how many there were. Raises StoreError."""
        found = await self._look()
        while self._endings:
            batch = [self._endings[at] for at in range(min(AT_ONCE, len(self._endings)))]
            for each in batch:
                seq = await last_seq(self._host.store, each.drive.run.run_id)
                each.drive.go_on_after(seq)
            await together([self._end(each) for each in batch])
            for _ in batch:
                self._endings.popleft()
        return found

    async def _look(self) -> int:
        """Give every open run its place; then let in who waits."""
        self._closed = self._looking = True
        try:
            records: tuple[RunRecord, ...] = await self._host.store.open_runs()
            found = await self._take(deque(records))
            self._closed = False
        finally:
            self._looking = False
            waiting, self._waiting = self._waiting, []
            for each in waiting:
                if self._closed:
                    each.errback(_starting())
                else:
                    each.callback(None)
        return found

    async def _take(self, records: deque[RunRecord]) -> int:
        sessions: dict[str, None] = {}
        found, ended = 0, len(self._endings)
        while records:
            record = records.popleft()
            if record.epoch == self._host.epoch or not self._place(record):
                continue
            sessions[record.session_key] = None
            found += 1
            if found % BREATH == 0:
                await deferLater(self._host.clock, 0, lambda: None)
        ended = len(self._endings) - ended
        if found:
            _log.warn(
                "{count} runs were open after a crash; ended={ended} run={taken}",
                count=found,
                ended=ended,
                taken=found - ended,
            )
        for key in sessions:
            self._host.go_on(key)
        return found

    async def end(self, record: RunRecord, seq: int, waiters: list[Waiter]) -> RunOutcome:
        """End a run that is open in the store, with its log up to ``seq``, and that nobody drives."""
        drive = self._adopt(record, None)
        assert drive is not None, "who asks has let go of its key"
        drive.run.waiters = waiters
        drive.go_on_after(seq)
        outcome = await self._end(Ending(drive, INTERRUPTED, INTERRUPTED_TEXT))
        assert outcome is not None, "an end is announced whatever the store does"
        return outcome

    def _place(self, record: RunRecord) -> bool:
        """Put a run into its lane, to go or to be ended; return whether it was not known here."""
        request, why = self._request_of(record, self._age_s(record))
        drive = self._adopt(record, request)
        if drive is None:
            return False
        if request is not None:
            drive.accept()
        else:
            self._endings.append(Ending(drive, *why))
        return True

    def _adopt(self, record: RunRecord, request: RunRequest | None) -> Drive | None:
        """Put a run into its lane; without its request it is only ended. None if it is known here."""
        run = Run(
            request or _request_without_content(record),
            epoch=self._host.epoch,
            origin=record.origin,
            actor=record.actor,
            fingerprint=record.fingerprint,
            accepted_at_ms=record.accepted_at_ms,
        )
        if request is None:
            run.started_at_ms = record.started_at_ms
        return self._host.adopt(
            run,
            stored_epoch=record.epoch,
            age_s=self._age_s(record),
            rerun=record.state is RunState.RUNNING,
        )

    def _age_s(self, record: RunRecord) -> float:
        return max(0, self._host.clock.now_ms() - record.accepted_at_ms) / 1000

    def _request_of(
        self, record: RunRecord, age_s: float
    ) -> tuple[RunRequest | None, tuple[str, str]]:
        """Return the request of a run that is to be run, else why not: a code, and words for people."""
        started, agent = record.state is RunState.RUNNING, self._agents.get(record.agent_id)
        interrupted = (INTERRUPTED, INTERRUPTED_TEXT)
        if record.request_json is None:
            return None, interrupted
        if agent is None:
            text = f'Agent "{record.agent_id}" no longer exists in configuration'
            return None, (INTERRUPTED, text)
        if started and not agent.reruns:
            return None, interrupted
        if age_s >= self._ttl_s:
            return None, interrupted if started else (EXPIRED, EXPIRED_TEXT)
        try:
            request = decode_request(record.request_json)
        except msgspec.DecodeError as error:
            _log.error("run {run}: its request: {error}", run=record.run_id, error=error)
            return None, interrupted
        same = _request_without_content(record)
        names = ("run_id", "session_key", "session_id", "agent_id")
        kept = {name: getattr(same, name) for name in names}
        return msgspec.structs.replace(request, **kept), interrupted

    def _end(self, ending: Ending) -> Deferred[RunOutcome | None]:
        """End one run, unless it was aborted meanwhile; fires when that was announced."""
        drive = ending.drive
        done = self._host.wait(drive.run.run_id, END_PATIENCE_S)
        drive.accept()
        drive.finish(RunState.FAILED, stop_reason=ending.stop_reason, error=ending.error)
        return done


async def last_seq(store: IStore, run_id: str) -> int:
    """Return where the stored log of a run ends. Raises StoreError."""
    span: EventSpan | None = await store.event_span(run_id)
    return 0 if span is None else span.last_seq


def _request_without_content(record: RunRecord) -> RunRequest:
    return RunRequest(
        run_id=record.run_id,
        session_key=record.session_key,
        session_id=record.session_id,
        agent_id=record.agent_id,
        text="",
    )


def _starting() -> Unavailable:
    return Unavailable("the gateway is starting; try again", retryable=True, retry_after_ms=1000)
