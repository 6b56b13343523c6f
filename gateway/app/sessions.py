"""Sessions and their transcripts: opened by runs, listed, patched, reset, deleted, announced."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from twisted.internet.defer import DeferredLock
from twisted.logger import Logger

from gateway.app.agents import AgentDirectory
from gateway.app.hub import Hub
from gateway.app.summaries import Summaries
from gateway.core.events import Event
from gateway.core.projection import chat_end, usage_payload
from gateway.core.run import Run, RunOutcome
from gateway.core.sessionkey import agent_of
from gateway.core.sessionrow import session_row
from gateway.core.transcript import text_of, wire_message
from gateway.core.usage import run_usage
from gateway.errors import InvalidRequest
from gateway.interfaces import IClock, IEntropy, IStore
from gateway.model import Message, RunRequest, RunState, Session, SessionQuery

Change = Callable[[Session | None], Session]
Check = Callable[[Session | None], None]
"""Raises if a session is not the one that somebody knew."""
Ended = Callable[[str], None]
"""Takes the key of a session whose conversation has ended: it began anew, or was deleted."""

ANSWER_PAGE = 50
ANSWER_PAGES = 200
"""How far back in a transcript the answer of a run is looked for."""

QUESTION_PAGES = 10
"""The same for the message of a run that waits: behind it stand only others that wait, and notes."""


class Sessions:
    """The sessions of all agents."""

    _log = Logger()

    def __init__(
        self, *, clock: IClock, entropy: IEntropy, store: IStore, hub: Hub, agents: AgentDirectory
    ) -> None:
        self._clock = clock
        self._entropy = entropy
        self._store = store
        self._hub = hub
        self._agents = agents
        self.summaries = Summaries(
            clock=clock,
            entropy=entropy,
            store=store,
            announce=lambda session: self.announce(session, reason="compact"),
        )
        self._busy: Callable[[str], bool] = lambda _key: False
        self._ended: list[Ended] = []
        self._labels = DeferredLock()
        """Held from the check that a label is free until it is taken."""

    def knows_busy(self, busy: Callable[[str], bool]) -> None:
        """Be told how to ask whether a run goes in a session."""
        self._busy = busy

    def add_ended(self, ended: Ended) -> None:
        """Call ``ended`` whenever a conversation has ended, from now on."""
        self._ended.append(ended)

    def new(self, key: str, *, created_via: str = "operator", **fields: Any) -> Session:
        """Return a session that is not stored yet."""
        now_ms = self._clock.now_ms()
        return Session(
            key=key,
            session_id=self._entropy.uuid4(),
            agent_id=agent_of(key, self._agents.keys),
            created_at_ms=now_ms,
            updated_at_ms=now_ms,
            lifecycle_revision=self._entropy.uuid4(),
            created_via=created_via,
            **fields,
        )

    def opening(self, request: RunRequest) -> Change:
        """Return the change that opens a run's session, making it if it is new."""
        fresh = self.new(request.session_key)
        if request.session_id:
            fresh = msgspec.structs.replace(fresh, session_id=request.session_id)

        def change(current: Session | None) -> Session:
            if current is None:
                return fresh
            return msgspec.structs.replace(current, updated_at_ms=fresh.updated_at_ms)

        return change

    def accepted(self, session: Session, run: Run) -> None:
        """Announce that a session got a run."""
        self.announce(session, reason="send", run_id=run.run_id)

    def answer_of(self, run: Run, outcome: RunOutcome) -> tuple[Message, ...]:
        """Return what the transcript keeps of a run's answer: nothing, or one message."""
        if not run.text:
            return ()
        meta: dict[str, Any] = {}
        if outcome.provider is not None:
            meta["provider"] = outcome.provider
        if outcome.model is not None:
            meta["model"] = outcome.model
        if outcome.usage is not None:
            meta["usage"] = run_usage(outcome.usage)
        if outcome.state is RunState.ABORTED:
            meta["aborted"] = True
        message = Message(
            message_id=self._entropy.uuid4(),
            role="assistant",
            content=[{"type": "text", "text": run.text}],
            timestamp_ms=outcome.ended_at_ms,
            run_id=run.run_id,
            stop_reason=outcome.stop_reason,
            meta=meta,
        )
        return (message,)

    def ended(self, run: Run, outcome: RunOutcome, messages: Sequence[Message]) -> None:
        """Announce what a run's end changed, to those who follow sessions."""
        key = run.session_key
        self.announce_messages(key, run.request.agent_id, messages)
        if not self._hub.session_followers(key, watched=False):
            return
        phase, run_id = "error" if outcome.state is RunState.FAILED else "end", run.run_id

        def announce(session: Session | None) -> None:
            if session is not None:
                self.announce(session, phase=phase, run_id=run_id)

        reading = self._store.get_session(key)

        reading.addCallback(announce)
        reading.addErrback(
            lambda failure: self._log.failure(
                "announcing session {session}", failure=failure, session=key
            )
        )

    async def get(self, key: str) -> Session | None:
        """Return the session under a canonical key."""
        session: Session | None = await self._store.get_session(key)
        return session

    async def require(self, key: str) -> Session:
        """Return a session. Raises InvalidRequest if there is none."""
        session = await self.get(key)
        if session is None:
            raise InvalidRequest("session not found")
        return session

    async def answer_text(self, session_id: str, run_id: str) -> str:
        """Return the text a run answered with, as the transcript has it; empty if it is not there."""
        found = await self._messages_of(session_id, run_id, ANSWER_PAGES)
        answers = [message for message in found if message.role == "assistant"]
        return text_of(answers[-1].content) if answers else ""

    async def question_of(self, session_id: str, run_id: str) -> Message | None:
        """Return the message of a run that has not started, as the transcript has it."""
        found = await self._messages_of(session_id, run_id, QUESTION_PAGES)
        return found[0] if found else None

    async def _messages_of(self, session_id: str, run_id: str, pages: int) -> list[Message]:
        """Return the messages of a run that stand on the last page which has any."""
        before: int | None = None
        for _ in range(pages):
            page: tuple[Message, ...] = await self._store.list_messages(
                session_id, limit=ANSWER_PAGE, before_seq=before
            )
            found = [message for message in page if message.run_id == run_id]
            if found or not page:
                return found
            before = page[0].seq
        return []

    async def inject(self, key: str, text: str, label: str | None) -> str:
        """Append an assistant message to a transcript and show it; return its id."""
        session = await self.require(key)
        message = Message(
            message_id=self._entropy.uuid4(),
            role="assistant",
            content=[{"type": "text", "text": f"[{label}]\n\n{text}" if label else text}],
            timestamp_ms=self._clock.now_ms(),
            stop_reason="stop",
            meta={"model": "gateway-injected", "provider": "gateway", "usage": usage_payload(0, 0)},
        )
        (stored,) = await self._store.append_messages(session.session_id, [message])
        await self.touch(key)
        outcome = RunOutcome(
            run_id=f"inject-{message.message_id}",
            session_key=key,
            session_id=session.session_id,
            state=RunState.DONE,
            started_at_ms=None,
            ended_at_ms=message.timestamp_ms,
        )
        shown = text_of(stored.content)
        event = chat_end(outcome.run_id, key, session.agent_id, 0, outcome, shown)
        self._hub.broadcast_session(event, key)
        self.announce_messages(key, session.agent_id, (stored,))
        return message.message_id

    async def touch(self, key: str) -> None:
        """Mark a session as changed now."""
        now_ms = self._clock.now_ms()
        await self._store.update_session(
            key, lambda s: None if s is None else msgspec.structs.replace(s, updated_at_ms=now_ms)
        )

    async def create(self, key: str, *, label: str | None = None, **fields: Any) -> Session:
        """Make a session; one that exists keeps what it has, but for the given fields.

        Raises InvalidRequest for a label that another session has.
        """
        if label is not None:
            fields["label"] = label
        fresh = self.new(key, **fields)

        def change(current: Session | None) -> Session:
            if current is None:
                return fresh
            settings = {**current.settings, **fields.get("settings", {})}
            changed = {**fields, "settings": settings, "updated_at_ms": fresh.updated_at_ms}
            return msgspec.structs.replace(current, **changed)

        session = await self._write(key, change, label)
        self.announce(session, reason="create")
        return session

    async def reset(
        self,
        key: str,
        *,
        reason: str = "reset",
        keep_id: bool = False,
        check: Check | None = None,
    ) -> Session:
        """Begin a session anew: a new transcript, counters at zero, settings kept.

        ``keep_id`` (version 4) keeps the session id and drops the transcript under it. Where ``check``
        raises, the session stays as it is.
        """
        fresh = self.new(key)

        def renewed(held: Session | None) -> Session:
            if check is not None:
                check(held)
            if held is None:
                return fresh
            kept: dict[str, Any] = {
                name: getattr(held, name)
                for name in ("label", "settings", "parent_key", "last_channel", "created_via")
            }
            if keep_id:
                kept |= {"session_id": held.session_id, "created_at_ms": held.created_at_ms}
            return msgspec.structs.replace(fresh, **kept)

        session: Session | None = await self._store.update_session(
            key, renewed, drop_transcript=keep_id
        )
        assert session is not None
        self._has_ended(key)
        self.announce(session, reason=reason)
        return session

    def check_deletable(self, key: str) -> None:
        """Raise InvalidRequest for a main session, which can not be deleted."""
        if key == self._agents.keys.main_session(agent_of(key, self._agents.keys)):
            raise InvalidRequest(f"Cannot delete the main session ({key}).")

    async def delete(
        self, key: str, *, delete_transcript: bool, check: Check | None = None
    ) -> bool:
        """Delete a session; return whether there was one. Raises as :meth:`check_deletable`.

        Where ``check`` raises, the session stays.
        """
        self.check_deletable(key)
        held: list[Session] = []

        def look(session: Session) -> None:
            if check is not None:
                check(session)
            held.append(session)

        deleted: bool = await self._store.delete_session(
            key, delete_transcript=delete_transcript, check=look
        )
        if deleted:
            self._has_ended(key)
            self.announce(held[-1], reason="delete")
        return deleted

    def _has_ended(self, key: str) -> None:
        for ended in self._ended:
            ended(key)

    async def patch(
        self, key: str, change: Callable[[Session], Session], *, label: str | None = None
    ) -> Session:
        """Change a session by compare-and-set on the stored one, making it if it is new.

        ``label`` is the one that the change gives it. Raises InvalidRequest if another session has it.
        """
        fresh = self.new(key)
        now_ms = self._clock.now_ms()

        def patched(current: Session | None) -> Session:
            return msgspec.structs.replace(change(current or fresh), updated_at_ms=now_ms)

        session = await self._write(key, patched, label)
        self.announce(session, reason="patch")
        return session

    async def _write(self, key: str, change: Change, label: str | None = None) -> Session:
        """Store a change. With a ``label``, only if no other session has it: one after the other."""
        if label is None:
            session: Session | None = await self._store.update_session(key, change)
            assert session is not None
            return session
        async with self._labels:
            page = await self._store.find_sessions(SessionQuery(limit=1, label=label))
            if page.sessions and page.sessions[0].key != key:
                raise InvalidRequest(f"label already in use: {label}")
            return await self._write(key, change)

    def row(
        self, session: Session, *, titles: bool = False, last_message: bool = False
    ) -> dict[str, Any]:
        """Return a session as a row of ``sessions.list``."""
        agent = self._agents.get(session.agent_id) or self._agents.default
        return session_row(
            session,
            model=agent.chosen(session.settings.get("model")),
            main_key=self._agents.keys.main_session(session.agent_id),
            busy=self._busy(session.key),
            titles=titles,
            last_message=last_message,
        )

    def announce(self, session: Session, *, run_id: str | None = None, **what: str) -> None:
        """Send ``sessions.changed`` (``reason=`` or ``phase=``) to those who follow all sessions."""
        followers = self._hub.session_followers(session.key, watched=False)
        if not followers:
            return
        payload: dict[str, Any] = {
            "sessionKey": session.key,
            "agentId": session.agent_id,
            **what,
            "ts": self._clock.now_ms(),
            "session": self.row(session),
        }
        if run_id is not None:
            payload["runId"] = run_id
        self._hub.send_to(Event("sessions.changed", payload), followers, session.key)

    def announce_operation(
        self, key: str, agent_id: str, operation_id: str, phase: str, **what: Any
    ) -> None:
        """Send ``session.operation`` of a compaction to those who follow this session or all."""
        followers = self._hub.session_followers(key, watched=True)
        if followers:
            payload = {
                "operationId": operation_id,
                "operation": "compact",
                "phase": phase,
                "sessionKey": key,
                "agentId": agent_id,
                "ts": self._clock.now_ms(),
                **what,
            }
            self._hub.send_to(Event("session.operation", payload), followers, key)

    def announce_messages(self, key: str, agent_id: str, messages: Sequence[Message]) -> None:
        """Send each as ``session.message`` to those who follow this session or all."""
        for message in messages:
            self._message_event(key, agent_id, message)

    def _message_event(self, key: str, agent_id: str, message: Message) -> None:
        followers = self._hub.session_followers(key, watched=True)
        if not followers:
            return
        payload: dict[str, Any] = {
            "sessionKey": key,
            "agentId": agent_id,
            "message": wire_message(message, 4),
            "messageSeq": message.seq,
        }
        if message.role == "user":
            payload["senderIsOwner"] = True
        self._hub.send_to(Event("session.message", payload, group=message.run_id), followers, key)
