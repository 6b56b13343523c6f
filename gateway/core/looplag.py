"""How late the event loop is, what held it, and whether that is worth a line. No I/O, no clock.

Requirements
    Whatever keeps the loop from turning delays everybody, so it has to be named. What is no callback's
    fault must not be blamed on one: a collection of garbage, another thread that holds the interpreter, a
    process that was suspended or got no processor. A loop that is held again and again must not flood
    the log.

Design
    A beat is due at fixed moments, and its lateness is the lag: what any event had to wait that came
    at that moment. :class:`LagWindow` keeps the lags of the last minute. :func:`blame` judges a beat
    that came too late by the time the loop's thread and the process have computed in between, and by
    whether a thread that only watches could run. :class:`Sparing` lets one line pass in ten seconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple

WINDOW_S: Final = 60.0
MAX_LAGS: Final = 10_000
"""Lags kept at most; at fifty beats a second, a minute has 3,000."""
BUSY: Final = 0.95
"""The part of a core from which on a loop counts as fully used."""


class HoldCause(StrEnum):
    """What kept the loop from turning."""

    CALLBACK = "callback"
    """What the loop itself was doing: it computed, or waited for something that blocks."""
    COLLECTOR = "collector"
    """A collection of garbage."""
    THREAD = "thread"
    """Another thread of the process, which did not let go of the interpreter."""
    STALLED = "stalled"
    """Nothing of the process ran: it was suspended, or the machine had no time for it."""


class Frame(NamedTuple):
    """One function call of a stack."""

    function: str
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.function} {self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Silence:
    """The time between two beats of which the second came too late; all in seconds."""

    length_s: float
    loop_cpu_s: float
    """Computed by the loop's thread."""
    process_cpu_s: float
    """Computed by the whole process, the loop's thread included."""
    collector_s: float
    """Spent on full collections of garbage."""
    unwatched_s: float
    """The longest time in which the watching thread, which wakes all the time, did not run."""
    polling: bool = False
    """Whether the loop, as far as it was seen, waited for events."""


def blame(silence: Silence) -> HoldCause:
    """Return what kept the loop from turning."""
    half = silence.length_s / 2
    if silence.collector_s >= half:
        return HoldCause.COLLECTOR
    if silence.loop_cpu_s >= half:
        return HoldCause.CALLBACK
    if silence.process_cpu_s - silence.loop_cpu_s >= half and silence.unwatched_s >= half:
        return HoldCause.THREAD
    if silence.polling or silence.unwatched_s >= half:
        return HoldCause.STALLED
    return HoldCause.CALLBACK  # it blocks: the watching thread ran, the loop did not


def callback_of(stack: Sequence[Frame]) -> Frame | None:
    """Return the first function of a stack, outermost first, that the event loop's libraries called."""
    called = max((n for n, frame in enumerate(stack) if frame.function in _TURNS), default=-1)
    inner = stack[called + 1 :]
    return next((f for f in inner if not any(part in f.file for part in _LIBRARIES)), None)


def is_polling(stack: Sequence[Frame]) -> bool:
    """Return whether a stack, outermost first, is that of a loop that waits for events."""
    return bool(stack) and stack[-1].function in _POLLS


_TURNS: Final = frozenset(
    {
        "BaseEventLoop._run_once",
        "Handle._run",
        "ReactorBase.runUntilCurrent",
        "ReactorBase.mainLoop",
        "_SignalReactorMixin.mainLoop",
    }
)
_POLLS: Final = frozenset(
    {
        "EpollSelector.select",
        "KqueueSelector.select",
        "PollSelector.select",
        "SelectSelector.select",
        "EPollReactor.doPoll",
        "PollReactor.doPoll",
        "SelectReactor.doSelect",
    }
)
_LIBRARIES: Final = ("/twisted/", "/asyncio/", "/autobahn/", "/zope/")


class Lag(NamedTuple):
    """The lags of a window, in seconds; all 0 where there are none."""

    p50: float = 0.0
    p99: float = 0.0
    most: float = 0.0


class _Mark(NamedTuple):
    at: float
    loop_cpu: float
    process_cpu: float


class LagWindow:
    """The lags of the last minute, and how much was computed in it.

    ``limit_s`` is from where on a lag is too much. Times are in seconds of one steady clock.
    """

    def __init__(self, limit_s: float, *, processors: int = 1) -> None:
        self._limit_s = limit_s
        self._processors = processors
        self._lags: deque[tuple[float, float]] = deque(maxlen=MAX_LAGS)
        self._marks: deque[_Mark] = deque()
        self._degraded_since_ms: int | None = None

    def __len__(self) -> int:
        return len(self._lags)

    def beat(self, now: float, lag_s: float) -> None:
        """Take in a beat and how late it was."""
        self._lags.append((now, lag_s))

    def lag(self, now: float) -> Lag:
        """Return what the lags of the window come to."""
        while self._lags and self._lags[0][0] <= now - WINDOW_S:
            self._lags.popleft()
        if not self._lags:
            return Lag()
        lags = sorted(lag for _, lag in self._lags)
        count = len(lags)
        # The nearest rank: of a few lags, the 99th percentile is the greatest.
        return Lag(lags[(count - 1) // 2], lags[(99 * count + 99) // 100 - 1], lags[-1])

    def state(self, now: float, now_ms: int, loop_cpu: float, process_cpu: float) -> dict[str, Any]:
        """Return the ``eventLoop`` of ``health``; to be asked about once a second.

        ``loop_cpu`` and ``process_cpu`` are the seconds that the loop's thread and the process have
        computed since they began. The figures cover the last ``intervalMs``, at most the window.
        """
        while len(self._marks) > 1 and self._marks[1].at <= now - WINDOW_S:
            self._marks.popleft()
        self._marks.append(_Mark(now, loop_cpu, process_cpu))
        first = self._marks[0]
        interval = now - first.at
        main = _ratio(loop_cpu - first.loop_cpu, interval)
        whole = _ratio(process_cpu - first.process_cpu, interval)
        lag = self.lag(now)
        reasons = []
        if lag.p99 > self._limit_s:
            reasons.append("event_loop_delay")
        if main >= BUSY:
            reasons.append("event_loop_utilization")
        if not reasons:
            self._degraded_since_ms = None
        elif self._degraded_since_ms is None:
            self._degraded_since_ms = now_ms
        return {
            "degraded": bool(reasons),
            "degradedSinceMs": self._degraded_since_ms,
            "reasons": reasons,
            "intervalMs": round(interval * 1000),
            "delayP99Ms": round(lag.p99 * 1000, 1),
            "delayMaxMs": round(lag.most * 1000, 1),
            "utilization": main,
            "cpuCoreRatio": whole,
            "cpuBreakdown": {
                "mainThreadCoreRatio": main,
                "otherThreadsCoreRatio": max(0.0, round(whole - main, 3)),
                "hostCpuCount": self._processors,
            },
        }


def _ratio(part: float, whole: float) -> float:
    return round(part / whole, 3) if whole > 0 else 0.0


class Sparing:
    """Lets something be said once in ``interval_s``, and counts what was not said."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._next = float("-inf")
        self._left_out = 0

    def ask(self, now: float) -> int | None:
        """Return None to be silent, else how much was left out since it last was said."""
        if now < self._next:
            self._left_out += 1
            return None
        self._next = now + self._interval_s
        left_out, self._left_out = self._left_out, 0
        return left_out
