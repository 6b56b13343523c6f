"""Things done again and again, on the injected clock.

A pass that raises is logged; the next one still runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from gateway.core.registry import Sweepable
from gateway.interfaces import IClock
from gateway.metrics import Metrics


class Periodic(Service):
    """Calls a function every ``interval_s`` seconds while it runs; a pass that takes longer skips beats."""

    _log = Logger()

    def __init__(
        self, name: str, clock: IClock, interval_s: float, work: Callable[[], Any]
    ) -> None:
        self.name = name
        self.clock = clock
        self.interval_s = interval_s
        self._work = work
        self._loop: LoopingCall | None = None
        self._over: Deferred[Any] | None = None

    def startService(self) -> None:
        """Start the beat; the first pass is one interval away."""
        super().startService()  # type: ignore[no-untyped-call]
        self._loop = LoopingCall(self._beat)
        self._loop.clock = self.clock
        # Its Deferred does not fail, since no pass does.
        self._over = self._loop.start(self.interval_s, now=False)

    def stopService(self) -> Deferred[Any] | None:
        """Stop the beat; returns when the pass that is under way is over."""
        if self._loop is not None and self._loop.running:
            self._loop.stop()
        over, self._loop, self._over = self._over, None, None
        super().stopService()  # type: ignore[no-untyped-call]
        return over

    def _beat(self) -> Deferred[Any]:
        return maybeDeferred(self._work).addErrback(
            lambda failure: self._log.failure(
                "{name}: a pass failed", failure=failure, name=self.name
            )
        )


class Sized(Sweepable, Protocol):
    """A registry that says how much it holds."""

    def __len__(self) -> int:
        """How many entries there are."""


class Measured:
    """A registry whose sweeps, and what they leave, are counted."""

    def __init__(self, registry: Sized, metrics: Metrics) -> None:
        self.name = registry.name
        self._registry = registry
        self._metrics = metrics

    def sweep(self, now: float) -> int:
        """Sweep it; return how many entries were removed."""
        removed = self._registry.sweep(now)
        self._metrics.registry_swept(self.name, len(self._registry), removed)
        return removed


class Pruner(Periodic):
    """Sweeps every bounded registry; one that raises does not keep the others from being swept."""

    def __init__(
        self, clock: IClock, registries: Sequence[Sweepable], *, interval_s: float = 60.0
    ) -> None:
        super().__init__("pruner", clock, interval_s, self.sweep)
        self.registries = registries

    def sweep(self) -> int:
        """Sweep once; return how many entries were removed."""
        removed = 0
        for registry in self.registries:
            try:
                removed += registry.sweep(self.clock.seconds())
            except Exception:
                self._log.failure("sweeping {registry} failed", registry=registry.name)
        return removed
