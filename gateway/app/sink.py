"""Where a backend puts what it produces: collects text, paces it, keeps order."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from zope.interface import implementer

from gateway.app.bindings import bind
from gateway.app.runquestions import RunQuestions
from gateway.app.summaries import Summaries
from gateway.core.run import Run, RunOutput
from gateway.interfaces import IClock, IRunSink, IStore
from gateway.model import ApprovalRequest, Compaction, Decision, Message

MAX_TEXT_CHARS = 4 * 1024 * 1024
"""The longest answer of one run; beyond it the run fails."""


@implementer(IRunSink)
class Sink:
    """The sink of one run. The first text goes out at once, later ones at most every ``interval_s``.

    Once closed it knows its run no more, so a backend that keeps its sink keeps nothing else alive.
    """

    def __init__(
        self,
        run: Run,
        *,
        clock: IClock,
        store: IStore,
        interval_s: float,
        emit: Callable[[RunOutput], None],
        overflow: Callable[[str], None],
        unfinished: Callable[[], Collection[str]],
        kind: str,
        summaries: Summaries,
        questions: RunQuestions,
    ) -> None:
        """Make the sink of a run.

        :param emit: takes every event.
        :param overflow: is told why the answer is refused.
        :param unfinished: returns the runs of this session that go or wait: their messages are stored
            already, but are no history yet.
        :param kind: the backend's name, as the configuration has it.
        :param summaries: reads and shortens histories.
        :param questions: what becomes of the questions it asks.
        """
        self._run: Run | None = run
        self._clock = clock
        self._store = store
        self._interval_s = interval_s
        self._emit = emit
        self._overflow: Callable[[str], None] | None = overflow
        self._unfinished = unfinished
        self._kind = kind
        self._summaries = summaries
        self._questions = questions
        self._timer: IDelayedCall | None = None

    def text(self, delta: str) -> None:
        """Append to the visible answer."""
        if self._run is not None:
            self._run.add_text(delta)
            self._pace(self._run)

    def replace(self, text: str) -> None:
        """Rewrite the visible answer as a whole."""
        if self._run is not None:
            self._run.replace_text(text)
            self._pace(self._run)

    def emit(self, stream: str, data: dict[str, Any]) -> None:
        """Emit an event on another stream, after the text before it.

        Raises EncodeFailed where the data have no JSON form, and ValueError for what only the run
        itself says.
        """
        if self._run is None:
            return
        outputs = self._run.emit(stream, data, self._clock.now_ms())
        if len(outputs) > 1 and self._timer is not None:
            # The text before went out with it: the next one is due an interval later.
            self._timer.reset(self._interval_s)
        for output in outputs:
            self._emit(output)

    def history(self, limit: int) -> Deferred[tuple[Message, ...]]:
        """Return the newest ``limit`` messages of the turns before this one, oldest first.

        Where the conversation was shortened the summary is the first of them.
        """
        if self._run is None:
            return succeed(())
        unfinished = frozenset(self._unfinished())
        return Deferred.fromCoroutine(
            self._summaries.history(self._run.session_id, limit, unfinished)
        )

    def ask(self, request: ApprovalRequest) -> Deferred[Decision | None]:
        """Ask an operator; None if nobody could answer, or nobody did in time.

        On stream ``approval`` the run shows that it waits, and that it waits no more. The end of
        the run answers None; cancel the Deferred to take the question back.
        """
        if self._run is None:
            return succeed(None)
        return self._questions.ask(
            self._run, request, tell=lambda data: self.emit("approval", data)
        )

    def bind(self, agent_session: str | None) -> None:
        """Remember the backend's name of the conversation with the session, or that it has none."""
        if self._run is not None:
            run = self._run
            bind(self._store, run.session_key, run.session_id, kind=self._kind, name=agent_session)

    def compacted(self, compaction: Compaction) -> Deferred[None]:
        """Write a summary into the transcript; it fails as the store does."""
        if self._run is None:
            return succeed(None)
        run = self._run
        noting = Deferred.fromCoroutine(
            self._summaries.note(
                run.session_key,
                run.session_id,
                compaction,
                frozenset((run.run_id, *self._unfinished())),
                began_ms=run.started_at_ms,
            )
        )
        return noting.addCallback(lambda _: None)

    def close(self) -> None:
        """The run is over: nothing more is taken, and what it asked is withdrawn."""
        run, self._run, self._overflow = self._run, None, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if run is not None:
            self._questions.run_ended(run.run_id)

    def _pace(self, run: Run) -> None:
        if run.text_size > MAX_TEXT_CHARS:
            assert self._overflow is not None
            self._overflow(f"the answer is longer than {MAX_TEXT_CHARS} characters")
        elif self._timer is None:
            self._flush()

    def _flush(self) -> None:
        """Send what was collected; while there was something, look again after the interval."""
        self._timer = None
        assert self._run is not None
        output = self._run.flush(self._clock.now_ms())
        if output is not None:
            self._timer = self._clock.callLater(self._interval_s, self._flush)
            self._emit(output)
