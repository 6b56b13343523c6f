"""``exec.started``, ``exec.finished`` and ``exec.denied``: what became of a command at a node."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gateway.app.context import Caller
from gateway.app.nodeevents import handled, ignored
from gateway.app.nodes import node_id
from gateway.app.nodeturns import NodeTurns
from gateway.app.systemevents import SystemEvents
from gateway.core.registry import Registry
from gateway.core.systemevents import exec_code, exec_output, exec_text
from gateway.core.voice import bounded_key, first_text
from gateway.interfaces import IClock

FINISHED_TTL_S = 600.0
RESET_TTL_S = 86_400.0
"""As long as it is known what a node was asked to run."""
SessionOfRun = Callable[[str, str], tuple[str, float] | None]
"""From (run id, node id): for which session that node was asked to run that, and when; None if it was not."""


class ExecEvents:
    """Tells agents of them with the next turn of the session; a Sweepable.

    What the gateway asked for is told in the session it was asked for, whatever session the node names:
    one command must not open every conversation to its node. What it did not ask for is heard of nodes of
    protocol 3 only, which can't say what they were asked, in sessions that a node may name.
    """

    name = "exec-finished"

    def __init__(
        self, *, clock: IClock, turns: NodeTurns, events: SystemEvents, maximum: int
    ) -> None:
        self._clock = clock
        self._turns = turns
        self._events = events
        self.session_of_run: SessionOfRun = lambda _run_id, _node_id: None
        self._resets: Registry[float] = Registry("exec-resets", maximum=maximum, ttl_s=RESET_TTL_S)
        """When the conversations of sessions ended: what was asked for in one is not told in the next."""
        self._finished: Registry[bool] = Registry(self.name, maximum=maximum, ttl_s=FINISHED_TTL_S)

    def __len__(self) -> int:
        return len(self._finished)

    def sweep(self, now: float) -> int:
        """Forget what was told ten minutes ago; return how much that was."""
        self._resets.sweep(now)
        return self._finished.sweep(now)

    def conversation_ended(self, key: str) -> None:
        """A session began anew or was deleted: of what was asked for before nothing is told any more."""
        now = self._clock.seconds()
        self._resets.put(key, now, now)

    async def started(self, caller: Caller, payload: Mapping[str, Any]) -> Mapping[str, Any]:
        """Tell that a command was begun."""
        return await self._take("exec.started", caller, payload)

    async def denied(self, caller: Caller, payload: Mapping[str, Any]) -> Mapping[str, Any]:
        """Tell that a command was not run."""
        return await self._take("exec.denied", caller, payload)

    async def finished(self, caller: Caller, payload: Mapping[str, Any]) -> Mapping[str, Any]:
        """Tell how a command ended; a success that printed nothing is not worth a word."""
        return await self._take("exec.finished", caller, payload)

    async def _take(
        self, event: str, caller: Caller, payload: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        node, run_id = node_id(caller), first_text(payload, "runId")
        asked = None if run_id is None else self.session_of_run(run_id, node)
        if caller.protocol >= 4 and asked is None:
            return ignored("unmatched_exec_event")
        named = payload.get("sessionKey") if asked is None else asked[0]
        key = self._turns.key(named, self._turns.own(node))
        if key is None:
            return ignored("unknown_session")
        if event == "exec.finished" and _is_silent(payload):
            return handled("silent")
        if asked is None:
            if not await self._turns.may_name(node, key):
                return ignored("too_many_sessions")
        elif asked[1] <= self._ended_at(key):
            return ignored("session_reset")
        if run_id is not None and not self._first(event, key, run_id):
            return handled("duplicate")
        await self._events.note(key, exec_text(event, node, payload), "exec", by=node)
        return handled()

    def _ended_at(self, key: str) -> float:
        reset = self._resets.get(key)
        return float("-inf") if reset is None else reset

    def _first(self, event: str, key: str, run_id: str) -> bool:
        """Whether this was not told of a command in the last ten minutes; from now on it was."""
        now, mark = self._clock.seconds(), _mark(f"{event} {key}", run_id)
        if self._finished.fresh(mark, now):
            return False
        self._finished.put(mark, True, now)
        return True


def _mark(whose: str, run_id: str) -> str:
    return f"{whose} {bounded_key(run_id.strip())}"


def _is_silent(payload: Mapping[str, Any]) -> bool:
    done = exec_code(payload) == 0 and payload.get("timedOut") is not True
    return done and not exec_output(payload)
