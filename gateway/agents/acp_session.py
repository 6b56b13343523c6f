"""Conversations of one agent process: which session key is which ACP session."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from urllib.parse import quote

from twisted.internet.defer import DeferredLock

from gateway.agents.acp_updates import SessionFacts
from gateway.errors import BackendError

MAX_SESSIONS = 200
"""Sessions of one process that are remembered; beyond, the one that was idle longest is forgotten."""
MAX_WAITING = 16
"""Turns of one session that may wait for the one before them."""
ID_CHARS = 1000
"""Longest id of a session that an agent may give."""


class AgentSession:
    """One conversation in the agent.

    ``lock`` is held from before the session is opened until the agent has answered the prompt, which
    may be after the run itself has ended by abort.

    :ivar session_id: the gateway's session id; another one under the same key is another conversation.
    :ivar dropped: whether its key has another session now: it ends with the turns that it has.
    :ivar acp_id: the agent's id of it; None until it is opened there.
    :ivar bound: whether the gateway was told that id, and tells it with every request from then on.
    :ivar facts: what the agent says of it.
    :ivar preface: the conversation so far, for the first prompt to an agent that can not be told it
        otherwise.
    :ivar default_model: what the agent answered with before another model was asked for.
    """

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self.dropped = False
        self.lock = DeferredLock()
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget what is open in the agent: the next turn opens another conversation."""
        self.acp_id: str | None = None
        self.bound = False
        self.facts = SessionFacts()
        self.preface: str | None = None
        self.default_model: str | None = None

    @property
    def busy(self) -> bool:
        """Whether a turn goes on or waits here."""
        return bool(self.lock.locked or self.lock.waiting)


class SessionTable:
    """The sessions of one process by session key: bounded, least recently used first.

    ``on_forget`` is called with the agent's id of a session that is opened there and forgotten here, and
    whether that is for good: another session has its key.
    """

    def __init__(
        self, on_forget: Callable[[str, bool], None] = lambda _id, _for_good: None
    ) -> None:
        self._on_forget = on_forget
        self._sessions: OrderedDict[str, AgentSession] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def holds(self, key: str, session_id: str) -> bool:
        """Whether this session is open in the agent."""
        session = self._sessions.get(key)
        return (
            session is not None and session.session_id == session_id and session.acp_id is not None
        )

    def get(self, key: str, session_id: str) -> AgentSession:
        """Return the session of a key; a fresh one if its session id has changed.

        Raises BackendError if there are too many, all with a turn going on, or too many turns wait.
        """
        session = self._sessions.get(key)
        if session is None or session.session_id != session_id:
            self._let_go(session, for_good=True)
            session = self._sessions[key] = AgentSession(session_id)
        elif len(session.lock.waiting) >= MAX_WAITING:
            raise BackendError("too many turns wait for the agent in this session")
        self._sessions.move_to_end(key)
        if len(self._sessions) > MAX_SESSIONS:
            self._evict(key)
        return session

    def find(self, acp_id: str) -> AgentSession | None:
        """Return the session that the agent calls so."""
        found = (each for each in self._sessions.values() if each.acp_id == acp_id)
        return next(found, None)

    def release(self, session: AgentSession) -> None:
        """A turn is over: let the next of its session go on. One that was dropped goes with its last turn."""
        session.lock.release()
        if session.dropped and not session.busy:
            self._forget(session, for_good=True)

    def _let_go(self, session: AgentSession | None, *, for_good: bool) -> None:
        if session is not None and session.busy:
            session.dropped = True
        elif session is not None:
            self._forget(session, for_good=for_good)

    def _forget(self, session: AgentSession, *, for_good: bool) -> None:
        acp_id, session.acp_id = session.acp_id, None
        if acp_id is not None:
            self._on_forget(acp_id, for_good)

    def _evict(self, keep: str) -> None:
        idle = (key for key, each in self._sessions.items() if not each.busy and key != keep)
        key = next(idle, None)
        if key is None:
            del self._sessions[keep]
            raise BackendError(f"the agent has {MAX_SESSIONS} turns going on at once")
        self._let_go(self._sessions.pop(key), for_good=False)


def bound_name(agent: str, session_id: str, acp_id: str) -> str:
    """Return what is bound to a session: the agent's id of it, and for whom it means something."""
    return ":".join(["acp", quote(agent, safe=""), quote(session_id, safe=""), acp_id])


def bound_id(bound: str | None, agent: str, session_id: str) -> str | None:
    """Return the agent's id out of :func:`bound_name`; None if it was another agent's or session's."""
    start = bound_name(agent, session_id, "")
    if bound is None or not bound.startswith(start):
        return None
    return bound[len(start) :] or None
