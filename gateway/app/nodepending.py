"""What waits for nodes: questions for their next contact, and actions for when they are in the foreground.

Requirements. A node on a phone is asleep most of the time. An operator leaves it a question (for its
status, its location), which it drains when it wakes; a command that it could not run in the background
waits until it pulls and acknowledges it. Nothing here may grow: one question of a type and 64 actions per
node, a bounded number of nodes, each with a time. What does not fit is refused, not dropped.

Design. In memory: a restart forgets all of it. A question is a hint that costs nothing to ask again, an
action waits ten minutes, and whoever sent it was told that it had not run; a write to the database for
each would cost more than it saves. Times follow the steady clock, what nodes are told is the wall clock.

An action leaves only as long as its command is live, and who asked for it has the rights that it was
asked on: what was taken back meanwhile is gone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.app.revocation import Meant
from gateway.core.invocation import Invocation
from gateway.core.nodecommands import needs_admin
from gateway.core.registry import Registry, RegistryFull
from gateway.errors import Unavailable
from gateway.interfaces import IClock, IEntropy
from gateway.model import Principal

ITEM_TTL_S: Final = 86_400.0
ACTION_TTL_S: Final = 600.0
MAX_ACTIONS: Final = 64
"""Actions that wait for one node."""
MAX_ACTION_BYTES: Final = 262_144
"""Bytes of the params of all actions that wait for one node."""

BACKGROUND: Final = "NODE_BACKGROUND_UNAVAILABLE"
"""The code of a node that can do something only while somebody looks at it."""

STATUS: Final = "status.request"
_RANKS: Final = ("high", "normal", "default")
_BASELINE_ID: Final = "baseline-status"


@dataclass(frozen=True, slots=True)
class Item:
    """A question for a node; ``expires`` is of the steady clock."""

    id: str
    type: str
    priority: str
    created_at_ms: int
    expires_at_ms: int
    expires: float

    def shape(self) -> dict[str, Any]:
        """Return the item as it is told."""
        return {
            "id": self.id,
            "type": self.type,
            "priority": self.priority,
            "createdAtMs": self.created_at_ms,
            "expiresAtMs": self.expires_at_ms,
        }


@dataclass(frozen=True, slots=True)
class Action:
    """A command that waits until its node is in the foreground."""

    id: str
    key: str
    """The idempotency key of the call."""
    command: str
    params_json: str | None = field(repr=False)
    enqueued_at_ms: int
    expires: float
    asker: Principal | None = None

    def shape(self) -> dict[str, Any]:
        """Return the action as its node is told."""
        return {
            "id": self.id,
            "command": self.command,
            "paramsJSON": self.params_json,
            "enqueuedAtMs": self.enqueued_at_ms,
        }


@dataclass(slots=True)
class _Queue:
    revision: int = 0
    items: dict[str, Item] = field(default_factory=dict)
    """By type."""
    actions: dict[str, Action] = field(default_factory=dict)
    """By id, the oldest first."""

    @property
    def busy(self) -> bool:
        return bool(self.items or self.actions)

    def expire(self, now: float) -> None:
        self.items = {name: item for name, item in self.items.items() if item.expires > now}
        self.actions = {key: each for key, each in self.actions.items() if each.expires > now}


class NodePending:
    """What waits for each node; a Sweepable."""

    name = "node-pending"

    def __init__(self, *, clock: IClock, entropy: IEntropy, maximum: int) -> None:
        self._clock = clock
        self._entropy = entropy
        self._queues: Registry[_Queue] = Registry(
            self.name, maximum=maximum, ttl_s=ITEM_TTL_S, in_use=lambda queue: queue.busy
        )

    def __len__(self) -> int:
        return len(self._queues)

    def sweep(self, now: float) -> int:
        """Remove what has expired, then queues that are empty; return how many queues were removed."""
        for queue in self._queues:
            queue.expire(now)
        return self._queues.sweep(now)

    def forget(self, node_id: str) -> None:
        """Drop everything that waits for a node: it is none any more."""
        self._queues.pop(node_id)

    def end_of(self, meant: Meant) -> None:
        """Drop the commands that were asked for on rights that are gone."""
        for queue in self._queues:
            queue.actions = {
                key: action
                for key, action in queue.actions.items()
                if action.asker is None or not meant(action.asker)
            }

    # -- questions

    def enqueue(
        self, node_id: str, kind: str, *, priority: str, ttl_s: float = ITEM_TTL_S
    ) -> tuple[int, Item]:
        """Leave a question for a node; return the revision of its queue, and the item.

        One of a type waits: asked again it keeps its id, the higher priority and the later end. Raises
        Unavailable when questions wait for too many nodes.
        """
        queue, now, now_ms = self._queue(node_id), self._clock.seconds(), self._clock.now_ms()
        held = queue.items.get(kind)
        item = Item(
            id=held.id if held else self._entropy.uuid4(),
            type=kind,
            priority=min(priority, held.priority, key=_RANKS.index) if held else priority,
            created_at_ms=held.created_at_ms if held else now_ms,
            expires_at_ms=max(now_ms + round(ttl_s * 1000), held.expires_at_ms if held else 0),
            expires=max(now + ttl_s, held.expires if held else 0.0),
        )
        if item != held:
            queue.items[kind] = item
            queue.revision += 1
        return queue.revision, item

    def drain(self, node_id: str, most: int) -> dict[str, Any]:
        """Return the questions for a node, at most so many, and forget those.

        The highest priority comes first, then the oldest. Where there is room and none is waiting, a
        question for the status is added, so that who asks has something to answer.
        """
        queue = self._held(node_id)
        waiting = sorted(
            queue.items.values(), key=lambda item: (_RANKS.index(item.priority), item.created_at_ms)
        )
        taken = waiting[:most]
        for item in taken:
            del queue.items[item.type]
        queue.revision += bool(taken)
        items = [item.shape() for item in taken]
        if len(items) < most and all(item.type != STATUS for item in taken):
            items.append(
                {
                    "id": _BASELINE_ID,
                    "type": STATUS,
                    "priority": "default",
                    "createdAtMs": self._clock.now_ms(),
                    "expiresAtMs": None,
                }
            )
        return {
            "nodeId": node_id,
            "revision": queue.revision,
            "items": items,
            "hasMore": bool(queue.items),
        }

    # -- actions

    def queue_action(
        self,
        node_id: str,
        command: str,
        params_json: str | None,
        *,
        key: str,
        asker: Principal | None = None,
    ) -> Action | None:
        """Keep a command until its node is in the foreground; None if there is no room for it.

        A call that is repeated with its idempotency ``key`` waits once.
        """
        try:
            queue = self._queue(node_id)
        except Unavailable:
            return None
        for action in queue.actions.values():
            if action.key == key:
                return action
        size = sum(len(each.params_json or "") for each in queue.actions.values())
        if len(queue.actions) >= MAX_ACTIONS or size + len(params_json or "") > MAX_ACTION_BYTES:
            return None
        action = Action(
            id=self._entropy.uuid4(),
            key=key,
            command=command,
            params_json=params_json,
            enqueued_at_ms=self._clock.now_ms(),
            expires=self._clock.seconds() + ACTION_TTL_S,
            asker=asker,
        )
        queue.actions[action.id] = action
        return action

    def put_off(self, invocation: Invocation, code: str) -> dict[str, Any] | None:
        """Keep what a node of version 4 could not do in the background; return what its asker is told.

        None for any other refusal, and where there is no room. What runs programs or reaches files does not
        wait: it was allowed for the moment it was asked for.
        """
        if code != BACKGROUND or invocation.protocol < 4 or needs_admin(invocation.command):
            return None
        action = self.queue_action(
            invocation.node_id,
            invocation.command,
            invocation.params_json,
            key=invocation.key,
            asker=invocation.asker,
        )
        if action is None:
            return None
        return {
            "code": "QUEUED_UNTIL_FOREGROUND",
            "queuedActionId": action.id,
            "nodeId": invocation.node_id,
            "command": invocation.command,
            "wakeTriggered": False,
        }

    def pull(self, node_id: str, live: Collection[str]) -> list[Action]:
        """Return the actions that wait for a node, the oldest first.

        ``live`` are the commands it may be given now; an action of any other is dropped.
        """
        queue = self._held(node_id)
        queue.actions = {
            key: action for key, action in queue.actions.items() if action.command in live
        }
        return list(queue.actions.values())

    def acknowledge(self, node_id: str, ids: Iterable[str]) -> tuple[list[str], int]:
        """Forget actions that a node has run; return their ids, and how many still wait."""
        queue = self._held(node_id)
        acked = [key for key in dict.fromkeys(ids) if queue.actions.pop(key, None) is not None]
        return acked, len(queue.actions)

    # -- queues

    def _held(self, node_id: str) -> _Queue:
        """Return what waits for a node, without making a place for it."""
        queue = self._queues.get(node_id) or _Queue()
        queue.expire(self._clock.seconds())
        return queue

    def _queue(self, node_id: str) -> _Queue:
        """Return the queue of a node, made if there is none. Raises Unavailable."""
        queue, now = self._held(node_id), self._clock.seconds()
        try:
            self._queues.put(node_id, queue, now)
        except RegistryFull as full:
            raise Unavailable("too much waits for nodes", retryable=True) from full
        return queue
