"""The contracts between the layers, and the plugin interfaces of third parties.

Every asynchronous method returns a Deferred; whoever called it may cancel it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.application.service import IService
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.plugin import IPlugin
from zope.interface import Attribute, Interface

from gateway.model import (
    ApprovalRequest,
    Attachment,
    Compaction,
    Decision,
    Device,
    DeviceToken,
    EventSpan,
    LatencySum,
    Message,
    ModelInfo,
    Retention,
    RetentionPass,
    RunEvent,
    RunQuery,
    RunRecord,
    RunRequest,
    RunResult,
    Session,
    SessionPage,
    SessionQuery,
    TurnEnd,
    UsageQuery,
    UsageSum,
)


class IClock(IReactorTime):
    """Time, injected: ``seconds()`` never goes back, ``now_ms()`` is the wall clock."""

    def now_ms() -> int:
        """Return milliseconds since the epoch."""


class IEntropy(Interface):
    """Randomness, injected."""

    def token_bytes(size: int) -> bytes:
        """Return ``size`` unpredictable bytes."""

    def uuid4() -> str:
        """Return a random UUID as lower-case text."""

    def fraction() -> float:
        """Return a number in [0, 1), for jitter."""


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

    def get_device(device_id: str) -> Deferred[Device | None]:
        """Return a paired device."""

    def list_devices() -> Deferred[tuple[Device, ...]]:
        """Return all paired devices, newest first, at most 1000."""

    def update_device(
        device_id: str, change: Callable[[Device | None], Device | None]
    ) -> Deferred[Device | None]:
        """Replace a device by ``change(current)``, as :meth:`update_session`."""

    def put_device_token(token: DeviceToken, *, keep: int) -> Deferred[None]:
        """Store a token; of its device and role it and the newest others stay, ``keep`` in all."""

    def get_device_token(digest: str) -> Deferred[DeviceToken | None]:
        """Return the token with this digest."""


class IConnection(Interface):
    """One connection as the hub and the handlers see it."""

    conn_id: str = Attribute("UUID of the connection.")
    protocol: int = Attribute("Protocol version chosen for it: 3 or 4.")
    caller: Any = Attribute("The gateway.app.context.Caller of an authenticated connection.")
    waiting: bool = Attribute("Whether what it is sent has to wait, since its peer reads slowly.")

    def deliver(event: Any) -> None:
        """Queue or write one broadcast event (gateway.core.events.Event); takes a connection number."""

    def deliver_direct(event: Any) -> None:
        """Queue or write one event to this connection only, without a number."""

    def close(cause: Any, code: int, reason: str, **details: Any) -> None:
        """Close it. Idempotent: the first cause stays, later details are merged."""


class IRunSink(Interface):
    """Where an agent backend puts what a run produces. Calls after the run's end are ignored."""

    def text(delta: str) -> None:
        """Append to the visible answer."""

    def replace(text: str) -> None:
        """Rewrite the visible answer as a whole."""

    def emit(stream: str, data: dict[str, Any]) -> None:
        """Emit an event on another stream: tool, thinking, plan, usage, compaction ..."""

    def history(limit: int) -> Deferred[tuple[Message, ...]]:
        """Return the transcript before this run's own message, for a backend that starts afresh.

        The newest ``limit`` messages of turns that are over, oldest first. Where the conversation was
        shortened the first is the newest summary: a message of role ``system`` (see
        :func:`gateway.core.transcript.is_summary`), after it what it does not stand for.
        """

    def ask(request: ApprovalRequest) -> Deferred[Decision | None]:
        """Ask an operator; None if nobody could decide, or nobody did in time.

        The end of the run answers None; cancel the Deferred to take the question back.
        """

    def bind(agent_session: str | None) -> None:
        """Remember the backend's own name of this conversation: later runs of the session get it back.

        None forgets it. So does a reset of the session, and the gateway where the agent has to start
        afresh: a request without it, in a session for which one was bound, asks for a new conversation.
        """

    def compacted(compaction: Compaction) -> Deferred[None]:
        """Note in the transcript that older turns were summarised; they stay in it.

        From then on :meth:`history` gives the summary in their place.
        """


class IAgentBackend(IService):
    """An agent that runs turns. A service: started before the first run, stopped after the last."""

    models: Sequence[ModelInfo] = Attribute("What it answers with; the first is the default.")
    reruns: bool = Attribute(
        "Whether a turn that a crash cut off may be started again from its message; without it, not."
    )

    def start(request: RunRequest, sink: IRunSink) -> Deferred[RunResult]:
        """Run one turn. Abort is ``Deferred.cancel()``: the backend stops at once and the Deferred ends.

        Raises or fails with :class:`gateway.errors.BackendError` for failures worth telling the user.
        """

    def ready() -> bool:
        """Whether a run could start now."""


class IWorkerBackend(Interface):
    """What a backend may provide beside IAgentBackend, if its runs go on in processes of its own."""

    def describe_worker(run_id: str) -> Mapping[str, Any]:
        """Return facts of the process behind a run: ``pid``, ``state``, ``restarts``, ``lastError`` ...

        Texts and numbers only, no secrets: who may read sessions sees them. Called while the run goes
        on; it must not block.
        """

    def workers() -> Sequence[Mapping[str, Any]]:
        """Return the same facts of every process there is or should be, for people."""


class ISteerableBackend(Interface):
    """What a backend may provide beside IAgentBackend, if a run that goes on can be told more."""

    def steer(run_id: str, text: str, attachments: Sequence[Attachment]) -> Deferred[bool]:
        """Give a running run another message of the user; whether its agent took it."""


class ICompactingBackend(Interface):
    """What a backend may provide beside IAgentBackend, if it can shorten a conversation when told to."""

    def compact(request: RunRequest, sink: IRunSink) -> Deferred[Compaction | None]:
        """Summarise the older turns of the request's session; None if there is nothing to shorten.

        ``request.text`` is what the summary should heed, or empty. Called while no run of the session
        goes on. Fails with :class:`gateway.errors.BackendError`.
        """


class IModelsBackend(Interface):
    """What a backend may provide beside IAgentBackend, if it can ask which models there are.

    ``models`` of IAgentBackend may change at any time; who lists models reads it anew. This is for a
    list that somebody wants to be fresh.
    """

    def refresh_models() -> Deferred[Sequence[ModelInfo]]:
        """Ask the providers, bring ``models`` up to date, and return it.

        Fails with :class:`gateway.errors.BackendError`; what was known before then stands.
        """


class IWorkspaceBackend(Interface):
    """What a backend may provide beside IAgentBackend, if it decides where the agent's files lie."""

    workspace: str = Attribute("The agent's workspace, an absolute path of a directory.")


class BackendEnvironment:
    """What a backend is made with.

    :ivar agent_id: the agent's id in the configuration.
    :ivar reactor: provides IReactorProcess, IReactorCore and IReactorTCP.
    :ivar state_dir: the directory of the gateway's state.
    :ivar config_dir: the configuration file's directory, None without a file: what relative paths of
        the configuration are relative to.
    :ivar workspace: the directory for the agent's files, an absolute path; it need not exist yet.
    """

    def __init__(
        self,
        *,
        agent_id: str,
        reactor: Any,
        clock: IClock,
        entropy: IEntropy,
        state_dir: str,
        config_dir: str | None = None,
        workspace: str | None = None,
    ) -> None:
        self.agent_id = agent_id
        self.reactor = reactor
        self.clock = clock
        self.entropy = entropy
        self.state_dir = state_dir
        self.config_dir = config_dir
        self.workspace = workspace or os.path.join(
            os.path.abspath(state_dir), "workspace", agent_id
        )


class IAgentBackendFactory(IPlugin):
    """Makes agent backends of one kind: ``[agents.NAME] backend = "<name>"``."""

    name: str = Attribute("The name in the configuration.")
    summary: str = Attribute("One line for people.")
    config_type: type = Attribute("A msgspec.Struct (forbid_unknown_fields) for the agent's table.")

    def make(config: Any, environment: BackendEnvironment) -> IAgentBackend:
        """Make a backend from its decoded configuration. Raises ConfigError."""


RunListener = Callable[[Any], None]
"""Called with every :class:`gateway.core.run.RunOutput`, in order."""
