"""How a gateway stops: one step after the other, each within its time, whatever hangs or fails.

Requirements. Nothing is cut that could end by itself: runs that go have the grace to finish, clients hear
of the stop first and of their run's end before their connection ends. Ten thousand clients must not come
back in one second. The whole takes a bounded time, and an idle gateway none.

Design (children of a MultiService would be stopped at once)::

    0                                                 grace
    |-- runs may finish ----------------| ends stored |-- answers to the closes, agents, the store --|
                  |-- connections close, 500 a second or faster --|

No more connections and runs; tell the clients; let the runs finish, then end and store the rest, while
the agents stop; close the connections, as late as the grace allows while runs go, since until then their
clients can watch; close the store. A connection that is still being written to, or whose run goes, is
closed last.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred, TimeoutError, gatherResults, maybeDeferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from gateway.app.operations import StopOrder
from gateway.app.stopping import stop_runs
from gateway.core.events import Event
from gateway.errors import CloseCause, CloseCode
from gateway.net.listen import Listener
from gateway.net.websocket import GatewayProtocol
from gateway.wiring import Wiring

AFTER_S = 1.4
"""What it may take after the grace: the answers to the closes, then the store."""

STOP_S = 3.0 + AFTER_S
"""How long it may take as a whole, with the default of ``limits.drain_grace_s``."""

STORE_S = 0.5
"""What the store may take in any case."""

ENDS_S = 1.2
"""The last part of the grace, at most two fifths of it: the ends of runs are stored and sent in it. An end is
told after a second, whatever the store does."""

LEAST_S = 0.5
"""As long the ends of runs and what waits for slow clients are given where no grace is."""

AT_ONCE = 50
"""So many connections are closed without spreading them."""

RATE = 500.0
"""Connections that are closed in a second, unless the grace wants more."""

CATCH_UP_S = 0.5
"""The last part of the grace, at most a fifth, is left for closes that a busy machine is behind with."""

POLL_S = 0.02


class Drain:
    """The stop of one gateway, done once."""

    _log = Logger()

    def __init__(self, wiring: Wiring, listeners: Sequence[Listener], order: StopOrder) -> None:
        self._wiring = wiring
        self._clock = wiring.clock
        self._listeners = listeners
        self._order = order
        grace, now = order.grace_s, wiring.clock.seconds()
        self._runs_until = now + grace - min(ENDS_S, 0.4 * grace)
        self._graceful_until = now + max(grace, LEAST_S)
        self._ends_at = self._graceful_until + AFTER_S
        self._runs_over = False
        self._agents: list[Deferred[None]] = []

    def hurry(self) -> None:
        """Leave no more grace: the runs end now."""
        now = self._clock.seconds()
        self._runs_until = min(self._runs_until, now)
        self._graceful_until = min(self._graceful_until, now + LEAST_S)
        self._ends_at = min(self._ends_at, self._graceful_until + AFTER_S)

    async def run(self) -> None:
        """Stop everything. What takes too long or fails is logged, and the next step follows."""
        for listener in self._listeners:
            await self._step(listener.spec, self._ends_at, listener.stopListening)
        services = self._wiring.services
        services.runs.refuse()
        services.invocations.refuse()
        self._close(each for each in self._wiring.factory.open_connections if not each.context)
        services.hub.broadcast(shutdown_event(self._order))
        ending = Deferred.fromCoroutine(self._step("runs", self._ends_at, self._end_runs))
        await self._step("connections", self._ends_at, self._close_connections)
        await ending
        # The beats go on until here: clients leave where they miss ticks.
        beats = [
            self._step(str(beat.name), self._ends_at, beat.stopService)
            for beat in self._wiring.beats
        ]
        await gatherResults([*self._agents, *map(Deferred.fromCoroutine, beats)])
        store_until = max(self._ends_at, self._clock.seconds() + STORE_S)
        await self._step("the store", store_until, self._wiring.store.stopService)

    async def _step(self, what: str, until: float, work: Callable[[], Any]) -> None:
        try:
            left = max(0.0, until - self._clock.seconds())
            await maybeDeferred(work).addTimeout(left, self._clock)
        except TimeoutError:
            self._log.warn("stopping: {what} took too long", what=what)
        except Exception:
            self._log.failure("stopping: {what} failed", what=what)

    async def _pause(self) -> None:
        await deferLater(self._clock, POLL_S, lambda: None)

    # -- runs

    async def _end_runs(self) -> None:
        """Let runs and commands of nodes finish, then end what is left; the agents stop meanwhile."""
        services = self._wiring.services
        while (
            services.runs.unfinished or services.invocations
        ) and self._clock.seconds() < self._runs_until:
            await self._pause()
        services.invocations.stop()
        patience = max(LEAST_S, self._graceful_until - self._clock.seconds())
        ending = Deferred.fromCoroutine(stop_runs(services.runs, patience))
        # The runs are aborted by now: what a stubborn agent takes must not add to what the store takes.
        stops = [
            self._step(f"agent {agent.agent_id}", self._ends_at, agent.backend.stopService)
            for agent in services.agents
        ]
        self._agents = list(map(Deferred.fromCoroutine, stops))
        await ending
        self._runs_over = True

    # -- connections

    async def _close_connections(self) -> None:
        """Close, and wait until every close frame was answered or its grace is over."""
        factory = self._wiring.factory
        while not self._runs_over and self._clock.seconds() < self._spread_from():
            await self._pause()
        await self._spread(factory.open_connections)
        self._close(factory.open_connections)
        deadline = self._clock.seconds() + self._wiring.config.limits.close_grace_s + 10 * POLL_S
        while len(factory) and self._clock.seconds() < deadline:
            await self._pause()

    def _spread_from(self) -> float:
        """Return the latest moment from which the closes are spread within the grace as they should."""
        return self._spread_until() - _spread_s(len(self._wiring.factory))

    def _spread_until(self) -> float:
        """Return when the last of many closes is due."""
        return self._graceful_until - min(CATCH_UP_S, self._order.grace_s / 5)

    async def _spread(self, connections: Sequence[GatewayProtocol]) -> None:
        """Close one after the other, evenly with jitter; those that are held as late as possible."""
        now, count = self._clock.seconds(), len(connections)
        gap = min(_spread_s(count), max(0.0, self._spread_until() - now)) / max(1, count - AT_ONCE)
        jitter = self._wiring.entropy.fraction
        due = deque(
            (now if index < AT_ONCE else now + gap * (index - AT_ONCE + jitter()), connection)
            for index, connection in enumerate(connections)
        )
        held: list[GatewayProtocol] = []
        while due or held:
            now = self._clock.seconds()
            late = now >= self._graceful_until
            while due and (late or due[0][0] <= now):
                held.append(due.popleft()[1])
            kept = [] if late else self._still_held(held)
            stay = set(kept)
            self._close(each for each in held if each not in stay)
            held = kept
            if due or held:
                await self._pause()

    def _still_held(self, connections: Iterable[GatewayProtocol]) -> list[GatewayProtocol]:
        """Return those that wait for something that may still come: what was queued, a run's end."""
        runs = [] if self._runs_over else self._wiring.services.runs.unfinished
        owners = {run.conn_id for run in runs}

        def held(each: GatewayProtocol) -> bool:
            if each.closing is not None or each.context is None:
                return False
            return each.waiting or each.conn_id in owners or (bool(runs) and each.answering)

        return list(filter(held, connections))

    def _close(self, connections: Iterable[GatewayProtocol]) -> None:
        for connection in connections:
            connection.close(CloseCause.DRAIN, CloseCode.RESTART, "service restart")


class Shutdown:
    """When the gateway stops: by a signal, or because somebody asked."""

    _log = Logger()

    def __init__(self, wiring: Wiring, stop_process: Callable[[], None]) -> None:
        """``stop_process`` begins to stop the process, which then awaits :meth:`run`."""
        self._wiring = wiring
        self._stop_process = stop_process
        self._drain: Drain | None = None
        self.order: StopOrder | None = None
        """How the gateway stops, once it does."""
        wiring.operations.shut_down = self.ask

    def ask(self, order: StopOrder) -> StopOrder:
        """Stop the process from its next turn on; if it stops already, do not wait any longer.

        Returns the order that is in force.
        """
        if self.order is not None:
            self.order = replace(self.order, grace_s=0.0)
            self.hurry()
            return self.order
        self.order = order
        self._wiring.services.runs.refuse()
        # Who asked is answered first.
        self._wiring.clock.callLater(0, self._stop_process)
        return order

    def hurry(self) -> None:
        """Leave no more grace, if the gateway stops: who says it twice does not want to wait."""
        if self._drain is not None:
            self._log.info("stopping at once")
            self._drain.hurry()

    async def run(self, listeners: Sequence[Listener]) -> None:
        """Stop everything; takes little more than the grace, whatever hangs."""
        if self.order is None:
            self.order = StopOrder(self._wiring.config.limits.drain_grace_s)
        self._log.info("gateway stopping grace={grace}", grace=self.order.grace_s)
        self._drain = Drain(self._wiring, listeners, self.order)
        await self._drain.run()


def _spread_s(count: int) -> float:
    """Return over how many seconds so many closes are spread, if there is time."""
    return max(0, count - AT_ONCE) / RATE


def shutdown_event(order: StopOrder) -> Event:
    """Return what clients are told; version 3 says null where it is not known when to come back."""
    unknown: dict[str, Any] = {"reason": order.reason}
    known = unknown | {"restartExpectedMs": order.restart_expected_ms}
    return Event("shutdown", unknown if order.restart_expected_ms is None else known, v3=known)
