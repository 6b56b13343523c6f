"""Where a backend puts what it produces: collects text, paces it, keeps order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from zope.interface import implementer

from gateway.core.run import Run, RunOutput
from gateway.interfaces import IClock, IRunSink, IStore
from gateway.model import Message

MAX_TEXT_CHARS = 4 * 1024 * 1024
"""The longest answer of one run; beyond it the run fails."""


@implementer(IRunSink)
class Sink:
    """The sink of one run. The first text goes out at once, later ones at most every ``interval_s``."""

    def __init__(
        self,
        run: Run,
        *,
        clock: IClock,
        store: IStore,
        interval_s: float,
        emit: Callable[[RunOutput], None],
        overflow: Callable[[str], None],
    ) -> None:
        self._run = run
        self._clock = clock
        self._store = store
        self._interval_s = interval_s
        self._emit = emit
        self._overflow = overflow
        self._timer: IDelayedCall | None = None
        self._closed = False

    def text(self, delta: str) -> None:
        """Append to the visible answer."""
        if not self._closed:
            self._run.add_text(delta)
            self._pace()

    def replace(self, text: str) -> None:
        """Rewrite the visible answer as a whole."""
        if not self._closed:
            self._run.replace_text(text)
            self._pace()

    def emit(self, stream: str, data: dict[str, Any]) -> None:
        """Emit an event on another stream, after the text before it. Raises EncodeFailed."""
        if not self._closed:
            for output in self._run.emit(stream, data, self._clock.now_ms()):
                self._emit(output)

    def history(self, limit: int) -> Deferred[tuple[Message, ...]]:
        """Return the transcript before this run's own message."""
        run = self._run
        listed: Deferred[tuple[Message, ...]] = self._store.list_messages(
            run.session_id, limit=limit + 1
        )
        return listed.addCallback(
            lambda messages: tuple(m for m in messages if m.run_id != run.run_id)[-limit:]
        )

    def close(self) -> None:
        """The run is over: nothing more is taken."""
        self._closed = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _pace(self) -> None:
        if self._run.text_size > MAX_TEXT_CHARS:
            self._overflow(f"the answer is longer than {MAX_TEXT_CHARS} characters")
        elif self._timer is None:
            self._flush()

    def _flush(self) -> None:
        """Send what was collected; while there was something, look again after the interval."""
        self._timer = None
        output = self._run.flush(self._clock.now_ms())
        if output is not None:
            self._timer = self._clock.callLater(self._interval_s, self._flush)
            self._emit(output)
