"""How a gateway stops: one step after the other, each within its time, whatever hangs or fails.

The order (children of a MultiService would be stopped at once): no more connections; tell the clients;
end the runs and store their ends, while the agents stop; send what waits; close the connections; close
the store.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, TimeoutError, gatherResults, maybeDeferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from gateway.app.stopping import stop_runs
from gateway.core.events import Event
from gateway.errors import CloseCause, CloseCode
from gateway.net.listen import Listener
from gateway.wiring import Wiring

STOP_S = 4.5
"""How long it may take as a whole, with the default of ``limits.drain_grace_s``."""

STORE_S = 1.0
"""What the store may take in any case."""

POLL_S = 0.02


class Drain:
    """The stop of one gateway, done once."""

    _log = Logger()

    def __init__(self, wiring: Wiring, listeners: Sequence[Listener]) -> None:
        self._wiring = wiring
        self._clock = wiring.clock
        self._listeners = listeners

    async def run(self) -> None:
        """Stop everything. What takes too long or fails is logged, and the next step follows."""
        services, limits = self._wiring.services, self._wiring.config.limits
        now = self._clock.seconds()
        ends_at, graceful_until = now + STOP_S, now + limits.drain_grace_s
        for listener in self._listeners:
            await self._step(listener.spec, ends_at, listener.stopListening)
        for beat in self._wiring.beats:
            await self._step(str(beat.name), ends_at, beat.stopService)
        services.hub.broadcast(Event("shutdown", {"reason": "gateway stopping"}))
        ending = Deferred.fromCoroutine(
            self._step("runs", graceful_until, partial(stop_runs, services.runs))
        )
        # The runs are aborted by now: what a stubborn agent takes must not add to what the store takes.
        stops = [
            self._step(f"agent {agent.agent_id}", ends_at, agent.backend.stopService)
            for agent in services.agents
        ]
        agents = gatherResults(map(Deferred.fromCoroutine, stops))
        await ending
        await self._step("slow clients", graceful_until, self._sent)
        await self._step("connections", self._clock.seconds() + STOP_S, self._close_connections)
        await agents
        store_until = max(ends_at, self._clock.seconds() + STORE_S)
        await self._step("the store", store_until, self._wiring.store.stopService)

    async def _step(self, what: str, until: float, work: Callable[[], Any]) -> None:
        try:
            left = max(0.0, until - self._clock.seconds())
            await maybeDeferred(work).addTimeout(left, self._clock)
        except TimeoutError:
            self._log.warn("stopping: {what} took too long", what=what)
        except Exception:
            self._log.failure("stopping: {what} failed", what=what)

    async def _sent(self) -> None:
        """Wait until nobody waits for what was queued."""
        factory = self._wiring.factory
        while any(each.context and each.waiting for each in factory.open_connections):
            await deferLater(self._clock, POLL_S, lambda: None)

    async def _close_connections(self) -> None:
        """Close, and wait until every close frame was answered or its grace is over."""
        factory, limits = self._wiring.factory, self._wiring.config.limits
        for connection in factory.open_connections:
            connection.close(CloseCause.DRAIN, CloseCode.RESTART, "service restart")
        deadline = self._clock.seconds() + limits.close_grace_s + 10 * POLL_S
        while len(factory) and self._clock.seconds() < deadline:
            await deferLater(self._clock, POLL_S, lambda: None)
