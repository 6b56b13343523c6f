"""Keeping the store small: what the retention policy does not keep is removed, a little at a time.

Age is measured by the wall clock, but never by one that has jumped ahead since the start: what counts is
the lesser of the clock's time and that of the start plus the time that has really passed. A clock that was
set back keeps runs longer, one that was wrong at the start is believed.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from gateway.app.periodic import Periodic
from gateway.config import StoreConfig
from gateway.errors import StoreError
from gateway.interfaces import IClock, IStore
from gateway.metrics import Metrics
from gateway.model import Retention, RetentionPass

BEAT_S = 60.0
"""How often is looked whether there is anything to do; the first time so long after the start."""

INTERVAL_S = 600.0
"""How long after the policy was met it is applied again."""

PASSES = 8
"""Passes of the store in one beat; each removes up to 256 runs or 1000 entries of usage, in small steps."""

DAY_MS = 86_400_000


class Keeper(Periodic):
    """Applies the retention policy, beat by beat; what is being removed when it stops is left undone."""

    _log = Logger()

    def __init__(
        self, *, clock: IClock, store: IStore, config: StoreConfig, metrics: Metrics
    ) -> None:
        super().__init__("retention", clock, BEAT_S, self.beat)
        self._store = store
        self._config = config
        self._metrics = metrics
        self._started_s, self._started_ms = clock.seconds(), clock.now_ms()
        self._due_s = 0.0
        self._beating: Deferred[None] | None = None

    def stopService(self) -> Deferred[Any] | None:
        """Stop at once."""
        over = super().stopService()
        if self._beating is not None:
            self._beating.cancel()
        return over

    def policy(self) -> Retention:
        """Return what is to be kept as of now; 0 in the configuration keeps everything."""
        config = self._config
        return Retention(
            ended_before_ms=self._before_ms(config.retain_days),
            runs_per_session=config.retain_runs_per_session or None,
            log_bytes=config.retain_bytes or None,
            usage_before_ms=self._before_ms(config.retain_usage_days),
        )

    def _before_ms(self, days: float) -> int | None:
        return round(self._now_ms() - days * DAY_MS) if days else None

    def beat(self) -> Deferred[None]:
        """Remove a part of what is not kept, if it is time for it; what is left is for the next beat."""
        beating = self._beating = Deferred.fromCoroutine(self._remove())

        def over(_: None) -> None:
            self._beating = None

        return beating.addErrback(
            lambda failure: failure.trap(CancelledError) and None
        ).addCallback(over)

    async def _remove(self) -> None:
        if self.clock.seconds() < self._due_s:
            return
        try:
            if await self._apply():
                self._due_s = self.clock.seconds() + INTERVAL_S
        except StoreError as error:
            self._log.warn("old runs were not removed: {error}", error=error)

    async def _apply(self) -> bool:
        """Return whether the policy is met. Raises StoreError."""
        policy = self.policy()
        for _ in range(PASSES):
            done: RetentionPass = await self._store.apply_retention(policy)
            self._metrics.retained(runs=done.runs, events=done.events, usage=done.usage)
            if not done.more:
                return True
        return False

    def _now_ms(self) -> int:
        passed_ms = round((self.clock.seconds() - self._started_s) * 1000)
        return min(self.clock.now_ms(), self._started_ms + passed_ms)
