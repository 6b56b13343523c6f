"""Several processes of one agent: which of them serves a run, and how many there are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from gateway.agents.supervisor import MakeWorker, Supervisor, Worker
from gateway.errors import BackendError
from gateway.interfaces import IClock, IEntropy


class PoolWorker(Worker, Protocol):
    """A worker that keeps conversations."""

    def holds(self, key: str, session_id: str) -> bool:
        """Whether it has the conversation of this session in its memory."""

    def describe(self) -> dict[str, Any]:
        """Return what is known of its process: ``pid`` and the like."""


W = TypeVar("W", bound=PoolWorker)


class Place:
    """Where one run is."""

    def __init__(self, run_id: str, key: str) -> None:
        self.run_id = run_id
        self.key = key


class Slot(Generic[W]):
    """Room for one process, kept running by a supervisor of its own.

    :ivar runs: those that go on or wait here.
    :ivar started: whether there is or should be a process.
    :ivar idle_since: when the last run ended, on the clock's ``seconds()``.
    """

    def __init__(self, number: int, supervisor: Supervisor[W]) -> None:
        self.number = number
        self.supervisor = supervisor
        self.runs: set[Place] = set()
        self.started = False
        self.idle_since = 0.0

    @property
    def failing(self) -> bool:
        """Whether its process has died and the next has not shown yet that it works."""
        return self.supervisor.ready is None and self.supervisor.last_error is not None

    def serves(self, key: str, session_id: str) -> bool:
        """Whether the session is at home here: it has a run, or its conversation is remembered."""
        worker = self.supervisor.ready
        if worker is not None and worker.holds(key, session_id):
            return True
        return any(place.key == key for place in self.runs)

    def describe(self) -> dict[str, Any]:
        """Return ``{process, state, restarts, runs, lastError?, nextStartInMs?, startedAtMs?, pid? …}``."""
        facts = {"process": self.number, **self.supervisor.describe(), "runs": len(self.runs)}
        worker = self.supervisor.worker
        return facts if worker is None else facts | worker.describe()


class Pool(Generic[W]):
    """At most ``size`` processes of an agent.

    The first runs from :meth:`start` to :meth:`stop`. Another is started when a run comes and all that run
    have one already; it is stopped when it has had none for ``idle_s`` seconds (0: never). A session goes
    to the process that has its conversation, as long as that takes work, another one to the least busy.
    """

    def __init__(
        self,
        name: str,
        make: MakeWorker[W],
        clock: IClock,
        entropy: IEntropy,
        *,
        size: int = 1,
        idle_s: float = 0.0,
    ) -> None:
        self._name = name
        self._clock = clock
        self._idle_s = idle_s
        self._log = Logger(namespace=f"gateway.agents.{name}")
        self._slots = tuple(
            Slot(number, Supervisor(name, make, clock, entropy)) for number in range(1, size + 1)
        )
        self._timer: IDelayedCall | None = None

    @property
    def ready(self) -> bool:
        """Whether a run could start now."""
        return any(slot.supervisor.ready is not None for slot in self._slots)

    def start(self) -> None:
        """Start the first process."""
        self._start(self._slots[0])

    def stop(self) -> Deferred[None]:
        """End all processes; the Deferred fires when they are gone. Nothing is pending then."""
        self._disarm()
        for slot in self._slots:
            slot.started = False
        gone = DeferredList([slot.supervisor.stop() for slot in self._slots])
        return gone.addCallback(lambda _: None)

    async def run(
        self, run_id: str, key: str, session_id: str, work: Callable[[W], Deferred[Any]]
    ) -> Any:
        """Do ``work`` with the worker that suits the session, once it is ready; return what it gives.

        Fails with BackendError as :meth:`Supervisor.when_ready` does, and as ``work`` does.
        """
        slot = self._slot_for(key, session_id)
        place = Place(run_id, key)
        slot.runs.add(place)
        try:
            try:
                worker = await slot.supervisor.when_ready()
            except BackendError:
                other = self._least_busy([each for each in self._slots if each.supervisor.ready])
                if other is None:
                    raise
                slot.runs.remove(place)
                slot = other
                slot.runs.add(place)
                worker = await slot.supervisor.when_ready()
            return await work(worker)
        finally:
            slot.runs.remove(place)
            slot.idle_since = self._clock.seconds()
            self._arm()

    def worker_of(self, run_id: str) -> W | None:
        """Return the worker that a run was given to, if that takes work."""
        slot = self._slot_of(run_id)
        return None if slot is None else slot.supervisor.ready

    def describe(self, run_id: str) -> dict[str, Any]:
        """Return what is known of the process of a run; nothing if it could be any of several."""
        slot = self._slots[0] if len(self._slots) == 1 else self._slot_of(run_id)
        return {} if slot is None else slot.describe()

    def describe_all(self) -> tuple[dict[str, Any], ...]:
        """Return the same of each process that there is or should be."""
        shown = (slot for slot in self._slots if slot.started or slot is self._slots[0])
        return tuple(slot.describe() for slot in shown)

    def _slot_for(self, key: str, session_id: str) -> Slot[W]:
        usable = [slot for slot in self._slots if slot.started]
        for slot in usable:
            if slot.serves(key, session_id):
                return slot
        best = self._least_busy(usable)
        if best is None:
            return self._slots[0]
        spare = next((slot for slot in self._slots if self._spare(slot)), None)
        if best.runs and spare is not None and not any(slot.failing for slot in usable):
            self._start(spare)
            return spare
        return best

    def _slot_of(self, run_id: str) -> Slot[W] | None:
        for slot in self._slots:
            if any(place.run_id == run_id for place in slot.runs):
                return slot
        return None

    def _least_busy(self, slots: list[Slot[W]]) -> Slot[W] | None:
        """Of those that do not fail, if there is one, the one with the fewest runs."""
        return min(
            slots, key=lambda slot: (slot.failing, len(slot.runs), slot.number), default=None
        )

    def _spare(self, slot: Slot[W]) -> bool:
        return not slot.started and slot.supervisor.worker is None

    def _start(self, slot: Slot[W]) -> None:
        slot.started = True
        slot.idle_since = self._clock.seconds()
        slot.supervisor.start()

    def _arm(self) -> None:
        """Look again when the next process has been idle for long enough."""
        idle = [slot.idle_since for slot in self._slots[1:] if slot.started and not slot.runs]
        if idle and self._idle_s > 0 and self._timer is None:
            due = min(idle) + self._idle_s - self._clock.seconds()
            self._timer = self._clock.callLater(max(0.0, due), self._stop_idle)

    def _stop_idle(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        for slot in self._slots[1:]:
            if slot.started and not slot.runs and now - slot.idle_since >= self._idle_s:
                self._log.info("process {number} was idle: stopped", number=slot.number)
                slot.started = False
                slot.supervisor.stop()
        self._arm()

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
