"""How fast what an agent reports goes into a run's sink.

Requirements. A run makes at most 20 events a second for its subscribers over all streams, whatever its agent
sends. Order stays, nothing of the answer is lost, and what comes seldom goes out at once.

Design. A bucket of tokens, filled by time: a report takes one, and so does a piece of text when it
begins an event of the sink (which paces text itself, at most one event in :data:`TEXT_SLOT_S`, and makes
another when a report follows text). What finds no token waits in one queue. There, text joins the text
before it, and a report with a key joins the one of that key: a report is made when it goes out, so it
tells the latest. One timer, only while something waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from typing import Any

from twisted.internet.interfaces import IDelayedCall

from gateway.interfaces import IClock, IRunSink

RATE = 14.0
"""Events a second, when there are more all the time."""
BURST = 6.0
"""Events at once after a pause; in no second there are more than both together."""
TEXT_SLOT_S = 0.1
"""What the sink makes one event of at least."""
CROWD = 12
"""Reports that may wait before more of them are a crowd."""

Report = tuple[str, dict[str, Any]]
"""A stream and its data."""


class _Entry:
    """What waits: text, or a report that is made when it goes out."""

    __slots__ = ("key", "make", "pieces", "ready_at")

    def __init__(
        self, key: Hashable, make: Callable[[], Report | None] | None, ready_at: float
    ) -> None:
        self.key = key
        self.make = make
        self.ready_at = ready_at
        self.pieces: list[str] = []


class Pacer:
    """Puts text and reports into ``sink``.

    ``on_error`` is called with what the sink raises while the queue is worked off later; what it raises
    at once goes to the caller.
    """

    def __init__(
        self, sink: IRunSink, clock: IClock, on_error: Callable[[Exception], None]
    ) -> None:
        self._sink = sink
        self._clock = clock
        self._on_error = on_error
        self._tokens = BURST
        self._filled_at = clock.seconds()
        self._text_until = 0.0
        self._unpaid_text = False
        self._queue: deque[_Entry] = deque()
        self._keys: set[Hashable] = set()
        self._timer: IDelayedCall | None = None
        self._closed = False

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def crowded(self) -> bool:
        """Whether so much waits that what can be left out should be."""
        return len(self._queue) >= CROWD

    def text(self, piece: str) -> None:
        """Append to the answer, after what was reported before."""
        if self._closed:
            return
        if not self._queue and self._clock.seconds() < self._text_until:
            self._unpaid_text = True
            self._sink.text(piece)
            return
        if not self._queue or self._queue[-1].make is not None:
            self._queue.append(_Entry(None, None, 0.0))
        self._queue[-1].pieces.append(piece)
        self._pump()

    def report(
        self,
        make: Callable[[], Report | None],
        *,
        key: Hashable = None,
        ready_at: float = 0.0,
    ) -> None:
        """Report what ``make`` returns when it is this one's turn; nothing if that is None.

        With a ``key`` that waits already nothing is added. Before ``ready_at`` it goes out only if
        something else comes after it.
        """
        if self._closed or (key is not None and key in self._keys):
            return
        if key is not None:
            self._keys.add(key)
        self._queue.append(_Entry(key, make, ready_at))
        self._pump()

    def discard(self, key: Hashable) -> None:
        """Take back the report with this key, if it waits."""
        if key in self._keys:
            self._keys.discard(key)
            self._queue = deque(entry for entry in self._queue if entry.key != key)

    def flush(self) -> None:
        """Let out all that waits."""
        self._disarm()
        while self._queue:
            self._let_out()

    def close(self) -> None:
        """Forget what waits; nothing more is taken."""
        self._closed = True
        self._disarm()
        self._queue.clear()
        self._keys.clear()

    def _pump(self) -> None:
        now = self._clock.seconds()
        self._tokens = min(BURST, self._tokens + (now - self._filled_at) * RATE)
        self._filled_at = now
        while self._queue and self._wait(now) <= 0:
            self._let_out()
        if not self._queue:
            self._disarm()
        elif self._timer is None and not self._closed:
            self._timer = self._clock.callLater(self._wait(now), self._tick)

    def _wait(self, now: float) -> float:
        """Return how long the first entry has to wait."""
        wait = (1.0 - self._tokens) / RATE if self._tokens < 1.0 - 1e-9 else 0.0
        if len(self._queue) == 1:
            wait = max(wait, self._queue[0].ready_at - now)
        return wait

    def _let_out(self) -> None:
        entry = self._queue.popleft()
        self._keys.discard(entry.key)
        if entry.make is None:
            self._tokens -= 1.0
            self._text_until, self._unpaid_text = self._clock.seconds() + TEXT_SLOT_S, False
            self._sink.text("".join(entry.pieces))
            return
        report = entry.make()
        if report is not None:
            self._tokens -= 2.0 if self._unpaid_text else 1.0
            self._text_until, self._unpaid_text = 0.0, False
            self._sink.emit(*report)

    def _tick(self) -> None:
        self._timer = None
        try:
            self._pump()
        except Exception as error:
            self.close()
            self._on_error(error)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
