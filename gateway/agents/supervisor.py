"""Keeps one worker process running: starts it, starts it again after a pause when it dies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from gateway.errors import BackendError
from gateway.interfaces import IClock, IEntropy

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
HEALTHY_S = 60.0
"""A worker that was ready for so long has earned the first pause again."""
PATIENCE_S = 5.0
"""A run waits for a start that is due within this time; beyond, it fails at once."""
MAX_WAITING = 1000


class Worker(Protocol):
    """What is supervised. It calls back when it is ready and, in any case, when it has ended."""

    @property
    def pid(self) -> int | None:
        """Its process id, for the log."""

    @property
    def failed(self) -> bool:
        """Whether it takes no more work; its end follows."""

    def start(self) -> None:
        """Start it. Raises OSError."""

    def stop(self) -> None:
        """End it in order."""


W = TypeVar("W", bound=Worker)
MakeWorker = Callable[[Callable[[], None], Callable[[BackendError], None]], W]
"""Makes a worker from its two callbacks: ready, and ended with why."""


class Backoff:
    """Pauses that double from 0.5 s to 30 s, each shortened by up to a half at random."""

    def __init__(self, entropy: IEntropy) -> None:
        self._entropy = entropy
        self._failures = 0

    def pause(self, healthy_s: float) -> float:
        """Return the seconds to wait after a worker that was ready for ``healthy_s``."""
        if healthy_s >= HEALTHY_S:
            self._failures = 0
        longest: float = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self._failures, 16))
        self._failures += 1
        return longest * (1 - self._entropy.fraction() / 2)


class Supervisor(Generic[W]):
    """One worker at a time, until :meth:`stop`.

    :ivar restarts: how often a worker was started after another had ended.
    :ivar last_error: why the last one ended, None as long as none has. Its words only: an error that is kept
        keeps, by its traceback, the worker that it ended.
    """

    def __init__(self, name: str, make: MakeWorker[W], clock: IClock, entropy: IEntropy) -> None:
        self._name = name
        self._make = make
        self._clock = clock
        self._backoff = Backoff(entropy)
        self._log = Logger(namespace=f"gateway.agents.{name}")
        self._worker: W | None = None
        self._started_at_ms = 0
        self._ready_at: float | None = None
        self._waiting: list[Deferred[W]] = []
        self._next_start: IDelayedCall | None = None
        self._next_start_at = 0.0
        self._stopped: Deferred[None] | None = succeed(None)
        self.restarts = 0
        self.last_error: str | None = None

    @property
    def ready(self) -> W | None:
        """The worker that can take a run now."""
        worker = self._worker
        if worker is None or self._ready_at is None or self._stopped is not None or worker.failed:
            return None
        return worker

    @property
    def worker(self) -> W | None:
        """The worker there is, ready or not."""
        return self._worker

    def describe(self) -> dict[str, Any]:
        """Return ``{state, restarts, startedAtMs?, lastError?, nextStartInMs?}`` for people.

        The states: ready, starting, failing (it takes no more work and ends), waiting (for its next
        start), stopped.
        """
        facts: dict[str, Any] = {"state": self._state(), "restarts": self.restarts}
        if self._worker is not None:
            facts["startedAtMs"] = self._started_at_ms
        if self.last_error is not None:
            facts["lastError"] = self.last_error
        if self._next_start is not None:
            facts["nextStartInMs"] = round((self._next_start_at - self._clock.seconds()) * 1000)
        return facts

    def _state(self) -> str:
        if self._stopped is not None:
            return "stopped"
        if self._worker is None:
            return "waiting"
        if self._worker.failed:
            return "failing"
        return "starting" if self._ready_at is None else "ready"

    def start(self) -> None:
        """Start the first worker."""
        self._stopped = None
        self._spawn()

    def stop(self) -> Deferred[None]:
        """End the worker; the Deferred fires when it is gone. Nothing is pending then."""
        if self._stopped is None:
            self._stopped = Deferred()
            if self._next_start is not None:
                self._next_start.cancel()
                self._next_start = None
            self._fail_waiting(BackendError(f"agent {self._name} is stopping"))
            if self._worker is None:
                self._stopped.callback(None)
            else:
                self._worker.stop()
        return self._stopped

    def when_ready(self) -> Deferred[W]:
        """Return the worker once it is ready.

        Fails with BackendError: if its start fails, at once if the next start is further away than 5 s,
        if the agent is stopped, or if too many wait.
        """
        worker = self.ready
        if worker is not None:
            return succeed(worker)
        if self._stopped is not None:
            return fail(BackendError(f"agent {self._name} is not running"))
        if self._next_start is not None and self.last_error is not None:
            pause = self._next_start_at - self._clock.seconds()
            if pause > PATIENCE_S:
                why = self.last_error
                text = f"agent {self._name} is not running, next start in {pause:.0f} s: {why}"
                return fail(BackendError(text))
        if len(self._waiting) >= MAX_WAITING:
            return fail(BackendError(f"too many runs wait for agent {self._name}"))
        waiter: Deferred[W] = Deferred(self._forget)
        self._waiting.append(waiter)
        return waiter

    def _forget(self, waiter: Deferred[W]) -> None:
        # While those who wait are told, one of them may give up another.
        if waiter in self._waiting:
            self._waiting.remove(waiter)

    def _spawn(self) -> None:
        self._next_start = None
        self._started_at_ms = self._clock.now_ms()
        self._worker = worker = self._make(self._is_ready, self._has_ended)
        try:
            worker.start()
        except OSError as error:
            self._has_ended(BackendError(f"agent {self._name} can not start: {error.strerror}"))

    def _is_ready(self) -> None:
        assert self._worker is not None
        self._ready_at = self._clock.seconds()
        self._log.info("ready, pid={pid}", pid=self._worker.pid)
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.called:
                waiter.callback(self._worker)

    def _has_ended(self, error: BackendError) -> None:
        started = self._ready_at is not None
        healthy = self._clock.seconds() - (self._ready_at or 0.0) if started else 0.0
        self._worker = self._ready_at = None
        if self._stopped is not None:
            self._stopped.callback(None)
            return
        self.last_error = error.message
        pause = self._backoff.pause(healthy)
        self.restarts += 1
        self._log.warn("{why}: next start in {pause:.1f} s", why=error.message, pause=pause)
        self._next_start_at = self._clock.seconds() + pause
        self._next_start = self._clock.callLater(pause, self._spawn)
        if not started or pause > PATIENCE_S:
            self._fail_waiting(error)

    def _fail_waiting(self, error: BackendError) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.called:
                waiter.errback(error)
