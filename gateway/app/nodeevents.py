"""What nodes tell by ``node.event``: one handler for each event, added when the gateway is wired."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.app.context import Caller
from gateway.app.nodes import node_id
from gateway.core.registry import Registry
from gateway.errors import Unavailable
from gateway.interfaces import IClock
from gateway.limits import LimitsConfig

Handler = Callable[[Caller, Mapping[str, Any]], Awaitable[Mapping[str, Any] | None]]
"""Takes a node and the event's payload; returns :func:`handled` or :func:`ignored`; None is plain ``ok``."""


PACE_S = 60.0


@dataclass(slots=True)
class _Pace:
    """How many events of a node are taken at the moment ``at``; more with time."""

    left: float
    at: float


class NodeEvents:
    """The events that are understood, by name; its registry is to be swept.

    A node tells at most ``node_events_per_minute`` events in a minute, over all its connections: each may
    cost a write to the store, or be told to everybody who reads.
    """

    def __init__(self, clock: IClock, limits: LimitsConfig) -> None:
        self._clock = clock
        self._most = limits.node_events_per_minute
        self._handlers: dict[str, Handler] = {}
        self.paces: Registry[_Pace] = Registry(
            "node-event-paces", maximum=limits.connections_max, ttl_s=PACE_S
        )
        """By node; of one that was silent for a minute there is nothing to know."""

    def add(self, name: str, handler: Handler) -> None:
        """Understand an event from now on. Raises ValueError for one that has a handler."""
        if name in self._handlers:
            raise ValueError(f"node event {name} is handled twice")
        self._handlers[name] = handler

    async def handle(
        self, caller: Caller, name: str, payload: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        """Take an event; ``payload`` is None where it was no object.

        Nodes of protocol 3 are told nothing but ``ok``, whatever became of it. Raises Unavailable for a
        node that tells too much.
        """
        self._count(node_id(caller))
        handler = self._handlers.get(name)
        if handler is None:
            answer: Mapping[str, Any] | None = ignored("unsupported_event")
        elif payload is None:
            answer = ignored("invalid_payload")
        else:
            answer = await handler(caller, payload)
        if caller.protocol < 4 or not answer:
            return {"ok": True}
        return {"ok": True, "event": name[:128], **answer}

    def _count(self, node: str) -> None:
        now, rate = self._clock.seconds(), self._most / PACE_S
        pace = self.paces.get(node) or _Pace(self._most, now)
        left = min(self._most, pace.left + (now - pace.at) * rate)
        if left < 1:
            wait_ms = round((1 - left) / rate * 1000)
            text = f"more than {self._most} events of this node in a minute"
            raise Unavailable(text, retryable=True, retry_after_ms=max(1, wait_ms))
        pace.left, pace.at = left - 1, now
        self.paces.put(node, pace, now)


def handled(reason: str | None = None) -> dict[str, Any]:
    """Return the answer to an event that was taken; ``reason`` says how."""
    return {"handled": True} if reason is None else {"handled": True, "reason": reason}


def ignored(reason: str) -> dict[str, Any]:
    """Return the answer to an event that changed nothing."""
    return {"handled": False, "reason": reason}
