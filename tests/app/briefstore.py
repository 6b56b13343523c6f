"""As much of a store as runs need: it keeps sessions and open runs, and forgets all else at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec.structs import replace
from twisted.internet.defer import Deferred, fail, succeed

from gateway.errors import VersionConflict
from gateway.model import Message, NodeRecord, Pairing, RunEvent, RunRecord, Session, TurnEnd


class BriefStore:
    """For tests with very many runs: what it answers is right, and it does not grow with them."""

    failing: str | None = None

    def __init__(self) -> None:
        self.sessions: dict[str, Session] = {}
        self.runs: dict[str, RunRecord] = {}
        self.ended = 0
        self.events = 0
        """Events stored, in batches or with the end of their run."""

    def get_session(self, key: str) -> Deferred[Session | None]:
        return succeed(self.sessions.get(key))

    def accept_turn(
        self,
        run: RunRecord,
        change: Callable[[Session | None], Session],
        message: Message | None,
    ) -> Deferred[tuple[Session, Message | None]]:
        if run.run_id in self.runs:
            return fail(VersionConflict("stored already"))
        self.runs[run.run_id] = run
        session = self.sessions[run.session_key] = change(self.sessions.get(run.session_key))
        return succeed((session, message and replace(message, seq=1)))

    def start_run(
        self, run_id: str, change: Callable[[RunRecord | None], RunRecord | None]
    ) -> Deferred[tuple[RunRecord | None, Session | None]]:
        wanted = change(self.runs.get(run_id))
        assert wanted is not None
        self.runs[run_id] = wanted
        return succeed((wanted, self.sessions.get(wanted.session_key)))

    def append_events(self, events: Sequence[RunEvent]) -> Deferred[None]:
        self.events += len(events)
        return succeed(None)

    def finish_turn(self, end: TurnEnd) -> Deferred[tuple[Message, ...]]:
        del self.runs[end.run.run_id]
        self.ended += 1
        self.events += len(end.events)
        return succeed(end.messages)

    def get_pairing(self, device_id: str) -> Deferred[Pairing]:
        return succeed(Pairing(device_id=device_id))

    def update_node(
        self, node_id: str, change: Callable[[NodeRecord], NodeRecord]
    ) -> Deferred[NodeRecord]:
        return succeed(change(NodeRecord(node_id=node_id)))

    def get_run(self, run_id: str) -> Deferred[RunRecord | None]:
        return succeed(self.runs.get(run_id))
