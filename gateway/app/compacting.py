"""Shortening a conversation because somebody asks for it, while no run of its session goes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, TimeoutError, maybeDeferred, succeed
from twisted.logger import Logger
from zope.interface import implementer

from gateway.app.agents import Agent
from gateway.app.bindings import agent_session_of, bind
from gateway.app.holds import Hold
from gateway.app.runs import Runs
from gateway.app.sessions import Sessions
from gateway.core.batch import launched
from gateway.errors import BackendError
from gateway.interfaces import ICompactingBackend, IEntropy, IRunSink
from gateway.model import ApprovalRequest, Compaction, Decision, Message, RunRequest, Session

LANE_WAIT_S = 60.0
"""How long is waited for the runs of the session to end."""

COMPACT_S = 300.0
"""How long an agent may take for a summary."""

MAX_LINES = 10_000
"""The most messages that can be asked to be kept: no agent reads as many."""

NOTHING = "there is nothing to shorten in this session yet"
BUSY = "runs of this session go on: try again when they have ended, or stop them with chat.abort"
SLOW = f"the agent took longer than {COMPACT_S:g} s; send maxLines to keep only the last messages"
FAILED = "the agent failed (see the gateway's log); send maxLines to keep only the last messages"
ANEW = "the session began anew meanwhile"

STOPPED = "it was stopped"

Work = Callable[[str, Session, Hold], Awaitable[dict[str, Any]]]


class Compacting:
    """Shortens conversations."""

    _log = Logger()

    def __init__(self, runs: Runs, sessions: Sessions, entropy: IEntropy) -> None:
        self._runs = runs
        self._sessions = sessions
        self._entropy = entropy

    async def summarise(self, key: str, agent: Agent) -> dict[str, Any]:
        """Have the agent summarise its older turns; return what became of it.

        ``{compacted: true, result: {summary, firstKeptEntryId, tokensBefore, details}}``, or
        ``{compacted: false, reason}``. Raises StoreError and Unavailable.
        """
        if not ICompactingBackend.providedBy(agent.backend):
            return _not(
                f'agent "{agent.agent_id}" can not summarise; send maxLines to keep only the last'
                " messages"
            )

        async def work(operation_id: str, session: Session, hold: Hold) -> dict[str, Any]:
            return await self._summarise(operation_id, session, agent, hold)

        return await self._held(key, agent.agent_id, work)

    async def cut(self, key: str, agent: Agent, lines: int) -> dict[str, Any]:
        """Let the agent start afresh with the last ``lines`` messages; return what became of it.

        ``{compacted, kept}``: how many messages it will read. The transcript stays as it is. Raises
        StoreError and Unavailable.
        """
        lines = min(lines, MAX_LINES)

        async def work(_operation_id: str, session: Session, _hold: Hold) -> dict[str, Any]:
            return await self._cut(session, lines)

        return await self._held(key, agent.agent_id, work)

    async def _held(self, key: str, agent_id: str, work: Work) -> dict[str, Any]:
        """Do the work while the session is held; tell those who follow it."""
        if await self._sessions.get(key) is None:
            return _not(NOTHING)
        operation_id = f"compact-{self._entropy.uuid4()}"
        try:
            hold = await self._runs.hold(key, operation_id).addTimeout(
                LANE_WAIT_S, self._runs.clock
            )
        except TimeoutError:
            return _not(BUSY)
        done = _not(FAILED)
        self._sessions.announce_operation(key, agent_id, operation_id, "start")
        try:
            session = await self._sessions.get(key)
            done = _not(NOTHING) if session is None else await work(operation_id, session, hold)
        finally:
            hold.release()
            told = {name: done[name] for name in ("compacted", "reason") if name in done}
            self._sessions.announce_operation(key, agent_id, operation_id, "end", **told)
        return done

    async def _cut(self, session: Session, lines: int) -> dict[str, Any]:
        summaries = self._sessions.summaries
        unfinished = frozenset(self._runs.lanes.runs(session.key))
        held = await summaries.held(session.session_id, lines + 1, unfinished)
        if held <= lines:
            return {"compacted": False, "kept": held}
        text = f"Earlier messages were left out: the conversation was cut to its last {lines}."
        compaction = Compaction(summary=text, kept_messages=lines)
        noted = await self._note(session, compaction, drop_binding=True)
        return _not(ANEW) if noted is None else {"compacted": True, "kept": lines}

    async def _note(
        self, session: Session, compaction: Compaction, *, drop_binding: bool = False
    ) -> Message | None:
        """Put the summary into the transcript; None if the session began anew meanwhile."""
        return await self._sessions.summaries.note(
            session.key,
            session.session_id,
            compaction,
            frozenset(self._runs.lanes.runs(session.key)),
            revision=session.lifecycle_revision,
            drop_binding=drop_binding,
        )

    async def _summarise(
        self, operation_id: str, session: Session, agent: Agent, hold: Hold
    ) -> dict[str, Any]:
        compaction = await self._ask(operation_id, session, agent, hold)
        if isinstance(compaction, str):
            return _not(compaction)
        noted = await self._note(session, compaction)
        if noted is None:
            return _not(ANEW)
        summaries = self._sessions.summaries
        details = {
            name: noted.meta[name] for name in ("keptMessages", "tokensAfter") if name in noted.meta
        }
        return {
            "compacted": True,
            "result": {
                "summary": compaction.summary,
                "firstKeptEntryId": await summaries.first_kept(session.session_id, noted),
                "tokensBefore": noted.meta.get("tokensBefore"),
                "details": details,
            },
        }

    async def _ask(
        self, operation_id: str, session: Session, agent: Agent, hold: Hold
    ) -> Compaction | str:
        """Return the agent's summary, or why there is none."""
        asked = RunRequest(
            run_id=operation_id,
            session_key=session.key,
            session_id=session.session_id,
            agent_id=agent.agent_id,
            text="",
        )
        bound = agent_session_of(session, agent.kind)
        request = launched(asked, session, agent.model.provider, agent_session=bound)
        sink = CompactSink(self._runs, self._sessions, session, agent.kind)
        backend: Any = agent.backend
        working: Deferred[Any] = maybeDeferred(backend.compact, request, sink)
        hold.stopped_by(working.cancel)
        try:
            told = await working.addTimeout(COMPACT_S, self._runs.clock)
        except TimeoutError:
            return SLOW
        except CancelledError:
            # Else the caller is gone, or the backend stops.
            return STOPPED if hold.stopped else FAILED
        except BackendError as error:
            return f"{error.message}; send maxLines to keep only the last messages"
        except Exception:
            self._log.failure("session {session}: its agent did not summarise", session=session.key)
            return FAILED
        finally:
            sink.close()
        if told is None:
            told = sink.told
        if told is None:
            return NOTHING
        if not isinstance(told, Compaction):
            self._log.error(
                "session {session}: its agent gave {result!r:.200} for a summary",
                session=session.key,
                result=told,
            )
            return FAILED
        return told


@implementer(IRunSink)
class CompactSink:
    """The sink of a compaction: what is said goes nowhere, but the history can be read."""

    def __init__(self, runs: Runs, sessions: Sessions, session: Session, kind: str) -> None:
        self._runs = runs
        self._sessions = sessions
        self._session = session
        self._kind = kind
        self._open = True
        self.told: Compaction | None = None
        """What the backend said of the summary before it returned."""

    def text(self, delta: str) -> None:
        """There is no answer to append to."""

    def replace(self, text: str) -> None:
        """There is no answer to rewrite."""

    def emit(self, stream: str, data: dict[str, Any]) -> None:
        """Nobody listens to a run that is none."""

    def history(self, limit: int) -> Deferred[tuple[Message, ...]]:
        """Return the transcript, but for the messages of runs that wait."""
        unfinished: Collection[str] = frozenset(self._runs.lanes.runs(self._session.key))
        return Deferred.fromCoroutine(
            self._sessions.summaries.history(self._session.session_id, limit, unfinished)
        )

    def ask(self, request: ApprovalRequest) -> Deferred[Decision | None]:
        """Nobody is asked for the sake of a summary."""
        return succeed(None)

    def bind(self, agent_session: str | None) -> None:
        """Remember the backend's name of the conversation with the session."""
        if self._open:
            session = self._session
            bind(
                self._runs.store,
                session.key,
                session.session_id,
                kind=self._kind,
                name=agent_session,
                revision=session.lifecycle_revision,
            )

    def compacted(self, compaction: Compaction) -> Deferred[None]:
        """Take the summary; it is noted when the backend is done."""
        self.told = compaction
        return succeed(None)

    def close(self) -> None:
        """Nothing more is taken."""
        self._open = False


def _not(reason: str) -> dict[str, Any]:
    return {"compacted": False, "reason": reason}
