"""Watches the event loop: how late it is, and what held it where that is too long.

Requirements
    One callback that computes or blocks for 50 ms delays every client by as much. The log has to name
    it, and lag has to be seen in the metrics and in ``health``, at less than 0.5 % of a core when idle.

Design
    The loop's selector notes when a turn of the loop begins and ends, which is exact and costs nothing
    while the loop waits. A thread sleeps until the turn that it saw could become too long; if it
    still goes on then, the thread takes the stack of the loop's thread: functions, files and lines,
    no values. It takes it again when the turn has become twice as long, so that what is told stands
    for the longer part of it. The end of the turn judges (:mod:`gateway.core.looplag`) and logs, on
    the loop's own thread. Ten times a second a beat measures how late a timer comes: later than any
    turn explains where nothing of the process ran while the loop waited.

    Under a reactor that was not made by :mod:`gateway.tap` there is no such selector. Then the beats come
    more often, and one that is too late stands for a turn that was too long.
"""

from __future__ import annotations

import gc
import math
import os
import selectors
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from gateway.core.looplag import (
    Frame,
    HoldCause,
    Lag,
    LagWindow,
    Silence,
    Sparing,
    blame,
    callback_of,
    is_polling,
)
from gateway.interfaces import IClock
from gateway.metrics import Metrics

BEAT_S = 0.1
ALONE_BEAT_S = 0.02
"""Between two beats where nothing else tells of turns."""
PUBLISH_S = 1.0
LINE_S = 10.0
"""One line in so many seconds."""
MIN_LOOK_S = 0.005
MAX_FRAMES = 60
FULL = 2
"""The oldest generation, whose collection is the one that takes long."""

_UNKNOWN = Frame("?", "?", 0)


class Turns:
    """Since when the loop has been busy. ``seconds`` is the steady clock."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self.seconds = seconds
        self.since = math.inf
        """When the turn that goes on began; infinite while the loop waits."""
        self.limit_s = math.inf
        self.held: Callable[[float, float], None] = _ignored
        """Called with the begin and the end of a turn that took as long as the limit."""

    def end(self) -> None:
        """Note that the loop has nothing to do."""
        since, self.since = self.since, math.inf
        now = self.seconds()
        if now - since >= self.limit_s:
            self.held(since, now)

    def watch(self, limit_s: float, held: Callable[[float, float], None]) -> None:
        """Call ``held`` from now on."""
        self.limit_s, self.held = limit_s, held

    def unwatch(self) -> None:
        """Call nobody any more."""
        self.limit_s, self.held = math.inf, _ignored


def _ignored(since: float, now: float) -> None:
    """Do nothing with a turn."""


class WatchedSelector(selectors.DefaultSelector):
    """The system's selector, which tells ``turns`` when the loop waits and when it goes on."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        super().__init__()
        self.turns = Turns(seconds)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for events; between two calls, the loop is busy."""
        turns = self.turns
        turns.end()
        try:
            return super().select(timeout)
        finally:
            turns.since = turns.seconds()


class Watchdog(Service):
    """Watches the loop of the thread that starts it, while it runs.

    ``tell`` is given the ``eventLoop`` of ``health`` once a second. ``limit_s`` is how long the loop may
    be held before the log says by what. ``turns`` are those of the loop's selector, where it has any.
    """

    name = "watchdog"
    _log = Logger()

    def __init__(
        self,
        clock: IClock,
        metrics: Metrics,
        tell: Callable[[dict[str, Any]], None],
        *,
        limit_s: float,
        turns: Turns | None = None,
    ) -> None:
        self._clock = clock
        self._metrics = metrics
        self._tell = tell
        self._limit_s = limit_s
        self._alone = turns is None
        self._beat_s = ALONE_BEAT_S if turns is None else BEAT_S
        self._turns = Turns(clock.seconds) if turns is None else turns
        self._window = LagWindow(limit_s, processors=os.cpu_count() or 1)
        self._sparing = Sparing(LINE_S)
        self._call: IDelayedCall | None = None
        self._watcher: _Watcher | None = None
        self._collecting_since: float | None = None
        self._collector_s = 0.0
        self._due = self._publish_at = self._held_until = 0.0
        self._loop_cpu = self._process_cpu = 0.0

    def lag(self) -> Lag:
        """Return the lag of the last minute."""
        return self._window.lag(self._clock.seconds())

    def startService(self) -> None:
        """Begin to watch the loop of this thread."""
        super().startService()  # type: ignore[no-untyped-call]
        gc.callbacks.append(self._collected)
        self._turns.watch(self._limit_s, self._held)
        self._watcher = _Watcher(self._turns, self._limit_s, threading.get_ident())
        self._watcher.start()
        self._arm(self._clock.seconds())

    def stopService(self) -> None:
        """Stop watching; the thread has ended when it returns."""
        super().stopService()  # type: ignore[no-untyped-call]
        if self._watcher is None:
            return
        self._turns.unwatch()
        self._watcher.stop()
        self._watcher = None
        gc.callbacks.remove(self._collected)
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _arm(self, now: float) -> None:
        self._loop_cpu, self._process_cpu = time.thread_time(), time.process_time()
        self._collector_s = 0.0
        self._due = now + self._beat_s
        if self._alone:
            self._turns.since = self._due
        self._call = self._clock.callLater(self._beat_s, self._beat)

    def _beat(self) -> None:
        now = self._clock.seconds()
        self._window.beat(now, max(0.0, now - self._due))
        if self._alone:
            self._turns.end()
        elif (idle_s := self._turns.since - max(self._due, self._held_until)) >= self._limit_s:
            self._count(now, HoldCause.STALLED, idle_s, 0.0, [])
        self._arm(now)
        if now >= self._publish_at:
            self._publish_at = now + PUBLISH_S
            cpu = self._loop_cpu, self._process_cpu
            self._tell(self._window.state(now, self._clock.now_ms(), *cpu))

    def _held(self, since: float, now: float) -> None:
        """Take in a turn that was too long. The selector calls this: what it raised would end the loop."""
        try:
            self._judge(since, now)
        except Exception:
            self._log.failure("a turn of {ms} ms was not judged", ms=round((now - since) * 1000))

    def _judge(self, since: float, now: float) -> None:
        assert self._watcher is not None, "turns are watched while the thread runs"
        stack, unwatched_s = self._watcher.saw(since, now)
        length_s = now - since
        # Since the last beat, that is: more than was computed in this turn, by a tenth of a second at most.
        loop_cpu_s = min(length_s, time.thread_time() - self._loop_cpu)
        cause = blame(
            Silence(
                length_s=length_s,
                loop_cpu_s=loop_cpu_s,
                process_cpu_s=time.process_time() - self._process_cpu,
                collector_s=self._collector_s,
                unwatched_s=unwatched_s,
                polling=is_polling(stack),
            )
        )
        self._held_until = now
        self._window.beat(now, length_s)
        self._count(now, cause, length_s, loop_cpu_s, stack)

    def _count(
        self,
        now: float,
        cause: HoldCause,
        length_s: float,
        loop_cpu_s: float,
        stack: list[Frame],
    ) -> None:
        """Count what held the loop, and log it unless something was logged just before."""
        self._metrics.loop_held(cause)
        left_out = self._sparing.ask(now)
        if left_out is None:
            return
        facts = {"ms": round(length_s * 1000), "cpuMs": round(loop_cpu_s * 1000), "more": left_out}
        if cause is HoldCause.CALLBACK:
            self._log.warn(
                "loop held ms={ms} cpuMs={cpuMs} in={held} callback={callback} more={more}\n{stack}",
                held=str(stack[-1] if stack else _UNKNOWN),
                callback=str(callback_of(stack) or _UNKNOWN),
                stack="\n".join(f"  {frame}" for frame in stack),
                **facts,
            )
        else:
            self._log.warn(
                "loop held ms={ms} cpuMs={cpuMs} by={cause} more={more}", cause=str(cause), **facts
            )

    def _collected(self, phase: str, info: dict[str, int]) -> None:
        """Note how long full collections take; called by the interpreter, on whatever thread it is."""
        if info["generation"] != FULL:
            return
        now = self._clock.seconds()
        if phase == "start":
            self._collecting_since = now
        elif self._collecting_since is not None:
            self._collector_s += now - self._collecting_since
            self._collecting_since = None


class _Watcher(threading.Thread):
    """The thread that looks what the loop does in a turn that takes long.

    What both threads touch is replaced whole; a look that comes in between is lost, and does no harm.
    """

    def __init__(self, turns: Turns, limit_s: float, watched: int) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._turns = turns
        self._limit_s = limit_s
        self._watched = watched
        self._over = threading.Event()
        self._due = math.inf
        """When the thread should wake next."""
        self._late: tuple[float, float] = (0.0, 0.0)
        """How late it woke at worst in the turn that began then."""
        self._seen: tuple[float, list[Frame]] = (0.0, [])
        """The stack, of the turn that began then."""

    def saw(self, since: float, now: float) -> tuple[list[Frame], float]:
        """Return the stack of the turn that began then, and how long the thread itself could not run."""
        turn, stack = self._seen
        late_turn, late_s = self._late
        return (
            stack if turn == since else [],
            max(late_s if late_turn == since else 0.0, now - self._due),
        )

    def stop(self) -> None:
        """End the thread, and wait until it has ended."""
        self._over.set()
        self.join()

    def run(self) -> None:
        """Look again and again until it is over."""
        seconds, limit_s = self._turns.seconds, self._limit_s
        wait_s = limit_s
        looked, next_look_s = 0.0, 0.0
        while True:
            self._due = seconds() + wait_s
            if self._over.wait(wait_s):
                return
            now, since = seconds(), self._turns.since
            turn, late_s = self._late
            self._late = (since, max(now - self._due, late_s if turn == since else 0.0))
            age_s = now - since
            if age_s >= limit_s:
                if looked != since or age_s >= next_look_s:
                    stack = _stack_of(sys._current_frames().get(self._watched))
                    if self._turns.since == since:
                        self._seen = (since, stack)
                    looked, next_look_s = since, 2 * age_s
                wait_s = limit_s
            else:
                wait_s = max(MIN_LOOK_S, min(limit_s, limit_s - age_s))


def _stack_of(frame: FrameType | None) -> list[Frame]:
    """Return the functions of a stack, outermost first; of a deep one the innermost."""
    found: list[Frame] = []
    while frame is not None and len(found) < MAX_FRAMES:
        code = frame.f_code
        found.append(Frame(code.co_qualname, code.co_filename, frame.f_lineno or 0))
        frame = frame.f_back
    return found[::-1]
