"""Conversations of one agent process: which session key is which ACP session, and their turns."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from gateway.agents.acp_content import prompt_error, run_result
from gateway.agents.acp_updates import TurnUpdates
from gateway.agents.jsonrpc import NOT_FOUND, RpcError
from gateway.agents.rpc import Conversation
from gateway.errors import BackendError
from gateway.interfaces import IClock, IRunSink
from gateway.model import RunResult

MAX_SESSIONS = 200
"""Sessions of one process that are remembered; beyond, the one that was idle longest is forgotten."""
MAX_WAITING = 16
"""Turns of one session that may wait for the one before them."""
CANCEL_ANSWER_S = 5.0
"""How long an agent has to answer the prompt that was cancelled."""


class AgentSession:
    """One conversation in the agent.

    ``lock`` is held from before the session is opened until the agent has answered the prompt, which
    may be after the run itself has ended by abort.

    :ivar session_id: the gateway's session id; another one under the same key is another conversation.
    :ivar acp_id: the agent's id of it; None until it is opened there.
    """

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self.acp_id: str | None = None
        self.lock = DeferredLock()

    @property
    def busy(self) -> bool:
        """Whether a turn goes on or waits here."""
        return bool(self.lock.locked or self.lock.waiting)


class SessionTable:
    """The sessions of one process by session key: bounded, least recently used first."""

    def __init__(self) -> None:
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
            session = self._sessions[key] = AgentSession(session_id)
        elif len(session.lock.waiting) >= MAX_WAITING:
            raise BackendError("too many turns wait for the agent in this session")
        self._sessions.move_to_end(key)
        if len(self._sessions) > MAX_SESSIONS:
            self._evict(key)
        return session

    def _evict(self, keep: str) -> None:
        idle = (key for key, each in self._sessions.items() if not each.busy and key != keep)
        key = next(idle, None)
        if key is None:
            del self._sessions[keep]
            raise BackendError(f"the agent has {MAX_SESSIONS} turns going on at once")
        del self._sessions[key]


class Turn:
    """One prompt and its answer.

    :ivar done: gives the run's result. Cancelling it ends the run at once and tells the agent; the
        session stays locked until the agent answers, and ``on_stuck`` is called if it does not.
    """

    def __init__(
        self,
        rpc: Conversation,
        session: AgentSession,
        acp_id: str,
        sink: IRunSink,
        clock: IClock,
        on_stuck: Callable[[], None],
    ) -> None:
        self.done: Deferred[RunResult] = Deferred(self._cancel)
        self.acp_id = acp_id
        self._rpc = rpc
        self._session = session
        self._clock = clock
        self._on_stuck = on_stuck
        self._updates = TurnUpdates(sink, clock.seconds)
        self._deadline: IDelayedCall | None = None

    @property
    def cancelled(self) -> bool:
        """Whether the run has ended and only the agent's answer is missing."""
        return self.done.called

    def start(self, prompt: list[dict[str, Any]], meta: dict[str, Any]) -> Deferred[None]:
        """Send the prompt. The Deferred fires, always with None, when the agent has answered or died."""
        params = {"sessionId": self.acp_id, "prompt": prompt, "_meta": meta}
        answer = self._rpc.request("session/prompt", params)
        return answer.addCallbacks(self._answered, self._failed).addErrback(self._fail)

    def update(self, update: dict[str, Any]) -> None:
        """Take what the agent reports of it. A sink that raises fails this run and no other."""
        if not self.done.called:
            try:
                self._updates.update(update)
            except Exception as error:
                self._abandon()
                self.done.errback(error)

    def stop(self, error: BackendError) -> None:
        """End the run with ``error`` and tell the agent."""
        if not self.done.called:
            self._rpc.notify("session/cancel", {"sessionId": self.acp_id})
            self.done.errback(error)

    def _answered(self, answer: Any) -> None:
        self._disarm()
        if not self.done.called:
            self._updates.flush()
            self.done.callback(run_result(answer))

    def _failed(self, failure: Failure) -> None:
        self._disarm()
        error = failure.value
        if isinstance(error, RpcError):
            if error.code == NOT_FOUND:
                # The agent has lost the session: the next turn opens one.
                self._session.acp_id = None
            raise prompt_error(error) from None
        failure.raiseException()

    def _fail(self, failure: Failure) -> None:
        if not self.done.called:
            self.done.errback(failure)

    def _cancel(self, _: Deferred[RunResult]) -> None:
        self._abandon()

    def _abandon(self) -> None:
        self._rpc.notify("session/cancel", {"sessionId": self.acp_id})
        self._deadline = self._clock.callLater(CANCEL_ANSWER_S, self._stuck)

    def _stuck(self) -> None:
        self._deadline = None
        self._on_stuck()

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
