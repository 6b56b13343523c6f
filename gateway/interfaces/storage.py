"""What the gateway asks of a database."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.application.service import IService
from twisted.internet.defer import Deferred
from zope.interface import Attribute

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


class IStore(IService):
    """Persistent state. One transaction per method; each raises :class:`gateway.errors.StoreError`."""

    failing: str | None = Attribute(
        "Why the store does not work, in words for people, and what mends it unless it mends by itself;"
        " None while it works."
    )

    def open() -> None:
        """Open or create the database, before the reactor runs. Raises StartError."""

    def get_session(key: str) -> Deferred[Session | None]:
        """Return the session under a canonical key."""

    def get_session_by_id(session_id: str) -> Deferred[Session | None]:
        """Return the session with this id."""

    def find_sessions(query: SessionQuery) -> Deferred[SessionPage]:
        """Return one page of sessions."""

    def update_session(
        key: str,
        change: Callable[[Session | None], Session | None],
        *,
        drop_transcript: bool = False,
        append: Sequence[Message] = (),
    ) -> Deferred[Session | None]:
        """Replace a session by ``change(current)`` in one transaction; ``None`` leaves it as it is.

        ``change`` is pure and may run in another thread. The store sets ``version``. What ``change``
        raises fails the Deferred, and nothing is written. With ``drop_transcript`` the messages of the
        session that was stored go in the same transaction; ``append`` is put at the end of the transcript
        of the one that ``change`` gives. Returns what is stored afterwards.
        """

    def delete_session(
        key: str, *, delete_transcript: bool, check: Callable[[Session], None] | None = None
    ) -> Deferred[bool]:
        """Delete a session; return whether there was one.

        ``check`` sees the session in the same transaction: what it raises fails the Deferred, and
        nothing is deleted. As for a change, it is pure and may run in another thread.
        """

    def append_messages(
        session_id: str, messages: Sequence[Message]
    ) -> Deferred[tuple[Message, ...]]:
        """Append to a transcript; return the messages with the ``seq`` given to them."""

    def list_messages(
        session_id: str, *, limit: int, before_seq: int | None = None, offset: int = 0
    ) -> Deferred[tuple[Message, ...]]:
        """Return the newest messages (before ``before_seq``, after leaving out ``offset``), oldest first."""

    def count_messages(session_id: str) -> Deferred[int]:
        """Return how many messages a transcript holds."""

    def newest_summary(session_id: str) -> Deferred[Message | None]:
        """Return the newest message of a transcript that says that what came before was summarised.

        Its role is ``system``, and its meta have the ``kind`` ``compaction``.
        """

    def accept_turn(
        run: RunRecord, change: Callable[[Session | None], Session], message: Message | None
    ) -> Deferred[tuple[Session, Message | None]]:
        """Store in one transaction: the session (as update_session), the user's message, the run.

        ``run.session_id`` and the transcript written to are those of the session that ``change``
        returns. Returns the stored session, and the message with its seq. Fails with VersionConflict
        for a run that is stored already.
        """

    def append_events(events: Sequence[RunEvent]) -> Deferred[None]:
        """Append to the logs of runs; events that are stored already may come again, and stay once."""

    def finish_turn(end: TurnEnd) -> Deferred[tuple[Message, ...]]:
        """Store the end of a run in one transaction: record, last events, messages, session counters.

        The session is updated in place (tokens added, previews, updated_at_ms, aborted_last_run), if
        it still exists under the run's key with the run's session id; the rest, what its models used
        included, is written in any case.
        With ``moved_from`` the events of that epoch are put under the run's own. Returns the messages with
        their seq. Fails with VersionConflict for a run that has ended.
        """

    def get_run(run_id: str) -> Deferred[RunRecord | None]:
        """Return a stored run."""

    def open_runs() -> Deferred[tuple[RunRecord, ...]]:
        """Return the runs that are not in a terminal state, oldest first."""

    def runs_of(query: RunQuery) -> Deferred[tuple[RunRecord, ...]]:
        """Return runs, newest first, at most 1000; without their ``request_json``."""

    def update_run(
        run_id: str, change: Callable[[RunRecord | None], RunRecord | None]
    ) -> Deferred[RunRecord | None]:
        """Replace the record of an open run by ``change(current)``, as :meth:`update_session`.

        For who takes over an accepted run, with an epoch of its own, and who notes that it runs. Fails
        with VersionConflict for a run that is unknown or has ended, unless ``change`` returns None.
        """

    def start_run(
        run_id: str, change: Callable[[RunRecord | None], RunRecord | None]
    ) -> Deferred[tuple[RunRecord | None, Session | None]]:
        """Do as :meth:`update_run`; return the record and, of the same moment, the session of its key."""

    def list_events(
        run_id: str, *, after_seq: int, limit: int, epoch: str | None = None
    ) -> Deferred[tuple[RunEvent, ...]]:
        """Return events of a run's log in order: of the run's own epoch, unless one is given."""

    def event_span(run_id: str) -> Deferred[EventSpan | None]:
        """Return which events of a run's log are stored, in its own epoch; None for an unknown run."""

    def sum_usage(query: UsageQuery) -> Deferred[tuple[UsageSum, ...]]:
        """Add up what runs used; the parts that were used last come first.

        Without parts to tell apart there is one sum, or none if nothing was used.
        """

    def sum_latency(query: UsageQuery) -> Deferred[tuple[LatencySum, ...]]:
        """Tell how long runs took whose usage is known: of each day, or in all; ``limit`` is ignored."""

    def prune_runs(ended_before_ms: int, limit: int) -> Deferred[int]:
        """Delete ended runs with their events, at most ``limit`` runs; return how many."""

    def apply_retention(retention: Retention) -> Deferred[RetentionPass]:
        """Remove what a policy does not keep: the oldest first, never of an open run.

        One call removes a bounded part, in transactions so small that other writes hardly wait; call
        it again while there is ``more``. A run whose log was removed wholly or from its beginning says
        so by ``evicted_through``; a run that was forgotten is unknown.
        """

    def backup(path: str) -> Deferred[None]:
        """Write a copy of everything stored to a file (an absolute path), while the store goes on working.

        The file appears whole or not at all, readable for its owner only; an older backup under the
        same name is replaced, any other file is refused. Cancel the Deferred to give it up.
        """

    def get_pairing(device_id: str) -> Deferred[Pairing]:
        """Return what is known of a device: nothing of one that was never heard of."""

    def find_pairing_request(request_id: str) -> Deferred[Pairing | None]:
        """Return the pairing whose open request has this id."""

    def list_pairings() -> Deferred[tuple[Pairing, ...]]:
        """Return all devices and requests, the newest first, at most 2000."""

    def update_pairing(device_id: str, change: Callable[[Pairing], Pairing]) -> Deferred[Pairing]:
        """Replace what is known of a device by ``change(current)`` in one transaction.

        The record, its tokens and its open request change together or not at all; what ``change`` leaves
        out is deleted, and a pairing without a device keeps no tokens. ``change`` is pure and may run in
        another thread; what it raises fails the Deferred, and nothing is written. The store sets
        ``device.version``. Returns what is stored afterwards.
        """

    def get_node(node_id: str) -> Deferred[NodeRecord]:
        """Return what is kept of a node: nothing of one that was never heard of."""

    def list_nodes() -> Deferred[tuple[NodeRecord, ...]]:
        """Return all nodes, by id, at most 2000."""

    def update_node(
        node_id: str, change: Callable[[NodeRecord], NodeRecord]
    ) -> Deferred[NodeRecord]:
        """Replace what is kept of a node by ``change(current)``, as :meth:`update_pairing`.

        A record that says nothing is deleted.
        """

    def get_setting(name: str) -> Deferred[bytes | None]:
        """Return a setting that clients may change while the gateway runs, as it was stored."""

    def update_setting(
        name: str, change: Callable[[bytes | None], bytes | None]
    ) -> Deferred[bytes | None]:
        """Replace a setting by ``change(current)``, as :meth:`update_pairing`; ``None`` deletes it."""
