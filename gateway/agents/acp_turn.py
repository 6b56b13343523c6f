"""One turn of an agent program: a request that takes long, and what is reported meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.agents.acp_content import prompt_error
from gateway.agents.acp_permissions import Questions
from gateway.agents.acp_session import AgentSession
from gateway.agents.acp_updates import TurnUpdates
from gateway.agents.jsonrpc import NOT_FOUND, RpcError
from gateway.agents.rpc import Conversation
from gateway.errors import BackendError
from gateway.interfaces import IClock, IRunSink
from gateway.model import Compaction, Decision

T = TypeVar("T")

CANCEL_ANSWER_S = 5.0
"""How long an agent has to answer the prompt that was cancelled."""


class Turn(Generic[T]):
    """One prompt and its answer, or another request that reports as a prompt does.

    :ivar done: gives what ``read`` makes of the answer. Cancelling it ends the run at once and tells the
        agent; the session stays locked until the agent answers, and ``on_stuck`` is called if it does not.
    :ivar run_id: the gateway's id of the run.
    :ivar updates: what goes into the sink.
    :ivar questions: what an operator is asked; withdrawn when the run ends.
    :ivar permitted: commands that an operator has allowed in this turn, by words and directory.
    """

    def __init__(
        self,
        rpc: Conversation,
        session: AgentSession,
        acp_id: str,
        run_id: str,
        sink: IRunSink,
        clock: IClock,
        *,
        log: Logger,
        on_stuck: Callable[[], None],
        read: Callable[[Any], T],
        terminal: Callable[[str], str | None],
    ) -> None:
        self.done: Deferred[T] = Deferred(self._cancel)
        self.acp_id = acp_id
        self.run_id = run_id
        self.session = session
        self.updates = TurnUpdates(sink, clock, self._sink_failed, terminal)
        self.questions = Questions(sink, log)
        self.permitted: dict[tuple[tuple[str, ...], str], Decision] = {}
        self._rpc = rpc
        self._sink = sink
        self._clock = clock
        self._log = log
        self._on_stuck = on_stuck
        self._read = read
        self._deadline: IDelayedCall | None = None

    @property
    def cancelled(self) -> bool:
        """Whether the run has ended and only the agent's answer is missing."""
        return self.done.called

    def start(self, method: str, params: dict[str, Any]) -> Deferred[None]:
        """Send the request. The Deferred fires, always with None, when the agent has answered or died."""
        answer = self._rpc.request(method, params)
        return answer.addCallbacks(self._answered, self._failed).addErrback(self._fail)

    def update(self, update: dict[str, Any]) -> None:
        """Take what the agent reports of it. A sink that raises fails this run and no other."""
        self._guarded(lambda: self.updates.update(update))

    def event(self, stream: Any, data: Any) -> None:
        """Take what an agent of ours reports in its own words."""

        def tell() -> None:
            if not self.updates.event(stream, data):
                self._log.debug("an event on stream {stream!r:.50} left out", stream=stream)

        self._guarded(tell)

    def compacted(self, compaction: Compaction) -> None:
        """Note that the agent has put older turns into a summary."""

        def note() -> None:
            self.updates.flush()
            noted = self._sink.compacted(compaction)
            noted.addErrback(lambda failure: self._log.failure("no note of a summary", failure))

        self._guarded(note)

    def stop(self, error: BackendError) -> None:
        """End the run with ``error`` and tell the agent."""
        if not self.done.called:
            self._rpc.notify("session/cancel", {"sessionId": self.acp_id})
            self._end(Failure(error))

    def _guarded(self, act: Callable[[], None]) -> None:
        if not self.done.called:
            try:
                act()
            except Exception as error:
                self._sink_failed(error)

    def _sink_failed(self, error: Exception) -> None:
        if not self.done.called:
            self._abandon()
            self.updates.close()
            self._end(Failure(error))

    def _answered(self, answer: Any) -> None:
        self._disarm()
        if not self.done.called:
            self.updates.finish()
            self._end(self._read(answer))

    def _failed(self, failure: Failure) -> None:
        self._disarm()
        error = failure.value
        if isinstance(error, RpcError):
            if error.code == NOT_FOUND:
                # The agent has lost the session: the next turn opens one.
                self.session.acp_id = None
            raise prompt_error(error) from None
        failure.raiseException()

    def _fail(self, failure: Failure) -> None:
        if not self.done.called:
            self._end(failure)

    def _end(self, result: T | Failure) -> None:
        """The one end of the run: what waits to be shown is shown, nothing stays open."""
        self._let_go()
        if isinstance(result, Failure):
            self.done.errback(result)
        else:
            self.done.callback(result)

    def _cancel(self, _: Deferred[T]) -> None:
        self._abandon()
        self._let_go()

    def _let_go(self) -> None:
        try:
            self.updates.finish()
        except Exception:
            self._log.failure("the last reports of a turn could not be told")
        self.updates.close()
        self.questions.withdraw()

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
