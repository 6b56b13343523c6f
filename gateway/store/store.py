"""The store on a SQL database: :class:`IStore` by SQLAlchemy Core."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from twisted.internet.defer import Deferred
from zope.interface import implementer

from gateway.interfaces import IStore
from gateway.model import (
    EventSpan,
    LatencySum,
    Message,
    NodeRecord,
    Pairing,
    Retention,
    RetentionPass,
    RunEvent,
    RunQuery,
    RunRecord,
    Session,
    SessionPage,
    SessionQuery,
    TurnEnd,
    UsageQuery,
    UsageSum,
)
from gateway.store import (
    logs,
    nodes,
    pairings,
    retention,
    runs,
    sessions,
    transcripts,
    usage,
)
from gateway.store.database import Database


@implementer(IStore)
class SQLStore(Database):
    """Sessions, transcripts, runs and devices in one database; how it works is told by its base."""

    def get_session(self, key: str) -> Deferred[Session | None]:
        """See IStore."""
        return self._read(partial(sessions.by_key, key=key))

    def get_session_by_id(self, session_id: str) -> Deferred[Session | None]:
        """See IStore."""
        return self._read(partial(sessions.by_id, session_id=session_id))

    def find_sessions(self, query: SessionQuery) -> Deferred[SessionPage]:
        """See IStore. Case is folded as Unicode has it."""
        return self._read(partial(sessions.find, query=query))

    def update_session(
        self,
        key: str,
        change: Callable[[Session | None], Session | None],
        *,
        drop_transcript: bool = False,
        append: Sequence[Message] = (),
    ) -> Deferred[Session | None]:
        """See IStore. The previews of the session stay as they are."""
        return self._write(
            partial(
                sessions.update_by,
                key=key,
                change=change,
                drop_transcript=drop_transcript,
                append=tuple(append),
            )
        )

    def delete_session(
        self, key: str, *, delete_transcript: bool, check: Callable[[Session], None] | None = None
    ) -> Deferred[bool]:
        """See IStore. The logs of its runs stay until prune_runs."""
        return self._write(
            partial(sessions.remove, key=key, delete_transcript=delete_transcript, check=check)
        )

    def append_messages(
        self, session_id: str, messages: Sequence[Message]
    ) -> Deferred[tuple[Message, ...]]:
        """See IStore. The previews of the session stay as they are."""
        return self._write(
            partial(transcripts.append, session_id=session_id, added=tuple(messages))
        )

    def list_messages(
        self, session_id: str, *, limit: int, before_seq: int | None = None, offset: int = 0
    ) -> Deferred[tuple[Message, ...]]:
        """See IStore."""
        return self._read(
            partial(
                transcripts.newest,
                session_id=session_id,
                limit=limit,
                before_seq=before_seq,
                offset=offset,
            )
        )

    def count_messages(self, session_id: str) -> Deferred[int]:
        """See IStore."""
        return self._read(partial(transcripts.count, session_id=session_id))

    def newest_summary(self, session_id: str) -> Deferred[Message | None]:
        """See IStore."""
        return self._read(partial(transcripts.newest_summary, session_id=session_id))

    def accept_turn(
        self,
        run: RunRecord,
        change: Callable[[Session | None], Session],
        message: Message | None,
    ) -> Deferred[tuple[Session, Message | None]]:
        """See IStore. Fails with VersionConflict if a run of this id is stored."""
        return self._write(partial(runs.accept, run=run, change=change, message=message))

    def append_events(self, events: Sequence[RunEvent]) -> Deferred[None]:
        """See IStore. An event whose place in its log another has fails all of them."""
        return self._write(partial(logs.append, events=tuple(events)))

    def finish_turn(self, end: TurnEnd) -> Deferred[tuple[Message, ...]]:
        """See IStore. Fails with VersionConflict if the run has ended before."""
        return self._write(partial(runs.finish, end=end))

    def get_run(self, run_id: str) -> Deferred[RunRecord | None]:
        """See IStore."""
        return self._read(partial(runs.by_id, run_id=run_id))

    def open_runs(self) -> Deferred[tuple[RunRecord, ...]]:
        """See IStore. Oldest is what was accepted first, whatever the clock said."""
        return self._read(runs.open_runs)

    def runs_of(self, query: RunQuery) -> Deferred[tuple[RunRecord, ...]]:
        """See IStore. Newest is what was accepted last, whatever the clock said."""
        return self._read(partial(runs.newest, query=query))

    def update_run(
        self, run_id: str, change: Callable[[RunRecord | None], RunRecord | None]
    ) -> Deferred[RunRecord | None]:
        """See IStore. A change to a terminal state is refused: that is for finish_turn."""
        return self._write(partial(runs.update_by, run_id=run_id, change=change))

    def start_run(
        self, run_id: str, change: Callable[[RunRecord | None], RunRecord | None]
    ) -> Deferred[tuple[RunRecord | None, Session | None]]:
        """See IStore."""
        return self._write(partial(runs.start_by, run_id=run_id, change=change))

    def list_events(
        self, run_id: str, *, after_seq: int, limit: int, epoch: str | None = None
    ) -> Deferred[tuple[RunEvent, ...]]:
        """See IStore. The run's own epoch is the one that it is stored with."""
        return self._read(
            partial(logs.read, run_id=run_id, after_seq=after_seq, limit=limit, epoch=epoch)
        )

    def event_span(self, run_id: str) -> Deferred[EventSpan | None]:
        """See IStore."""
        return self._read(partial(logs.span, run_id=run_id))

    def sum_usage(self, query: UsageQuery) -> Deferred[tuple[UsageSum, ...]]:
        """See IStore."""
        return self._report(partial(usage.add_up, query=query))

    def sum_latency(self, query: UsageQuery) -> Deferred[tuple[LatencySum, ...]]:
        """See IStore. The 95th percentile is that of the nearest rank."""
        return self._report(partial(usage.latency, query=query))

    def prune_runs(self, ended_before_ms: int, limit: int) -> Deferred[int]:
        """See IStore. Everything else waits meanwhile: keep ``limit`` small and come again."""
        return self._write(partial(runs.prune, ended_before_ms=ended_before_ms, limit=limit))

    def apply_retention(self, retention: Retention) -> Deferred[RetentionPass]:
        """See IStore. One call removes the events of up to 256 runs, some hundred per transaction."""
        return Deferred.fromCoroutine(self._apply(retention))

    async def _apply(self, policy: Retention) -> RetentionPass:
        plan = await self._read(partial(retention.plan, policy=policy))
        if plan is None:
            return await self._forget_usage(policy.usage_before_ms)
        forgotten = events = 0
        while plan.run_ids:
            step = await self._write(partial(retention.carry_out, plan=plan))
            forgotten += step.runs
            events += step.events
            plan = step.left
        return RetentionPass(runs=forgotten, events=events, more=True)

    async def _forget_usage(self, before_ms: int | None) -> RetentionPass:
        removed = 0
        if before_ms is not None:
            work = partial(usage.prune, before_ms=before_ms, limit=retention.STEP_USAGE)
            removed = await self._write(work)
        return RetentionPass(runs=0, events=0, more=removed > 0, usage=removed)

    def get_pairing(self, device_id: str) -> Deferred[Pairing]:
        """See IStore."""
        return self._read(partial(pairings.of_device, device_id=device_id))

    def find_pairing_request(self, request_id: str) -> Deferred[Pairing | None]:
        """See IStore."""
        return self._read(partial(pairings.of_request, request_id=request_id))

    def list_pairings(self) -> Deferred[tuple[Pairing, ...]]:
        """See IStore."""
        return self._read(pairings.newest)

    def update_pairing(
        self, device_id: str, change: Callable[[Pairing], Pairing]
    ) -> Deferred[Pairing]:
        """See IStore."""
        return self._write(partial(pairings.update_by, device_id=device_id, change=change))

    def get_node(self, node_id: str) -> Deferred[NodeRecord]:
        """See IStore."""
        return self._read(partial(nodes.node_by_id, node_id=node_id))

    def list_nodes(self) -> Deferred[tuple[NodeRecord, ...]]:
        """See IStore."""
        return self._read(nodes.all_nodes)

    def update_node(
        self, node_id: str, change: Callable[[NodeRecord], NodeRecord]
    ) -> Deferred[NodeRecord]:
        """See IStore."""
        return self._write(partial(nodes.update_node, node_id=node_id, change=change))

    def get_setting(self, name: str) -> Deferred[bytes | None]:
        """See IStore."""
        return self._read(partial(nodes.setting, name=name))

    def update_setting(
        self, name: str, change: Callable[[bytes | None], bytes | None]
    ) -> Deferred[bytes | None]:
        """See IStore."""
        return self._write(partial(nodes.update_setting, name=name, change=change))
