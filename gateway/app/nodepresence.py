"""What nodes say of themselves: that they live, that somebody is at them, how their machine is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from gateway.app.context import Caller
from gateway.app.hub import Hub
from gateway.app.nodeevents import handled, ignored
from gateway.app.nodes import node_id
from gateway.app.pairednodes import PairedNodes
from gateway.core.events import Event
from gateway.core.registry import Registry
from gateway.interfaces import IClock
from gateway.model import NodeRecord

ALIVE_S = 60.0
"""A node is stored as seen at most once in this time."""

STATS_TTL_S = 300.0
"""Numbers of a machine that are older are nothing to show; nodes send them every minute."""

STATS_S = 5.0
"""Least time between two broadcasts of one node's numbers."""

TRIGGERS = frozenset(
    {"background", "silent_push", "bg_app_refresh", "significant_location", "manual", "connect"}
)

_Bytes = Annotated[int, Meta(ge=0, le=2**53)]
_Load = Annotated[float, Meta(ge=0, le=100_000)]


class HostStats(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """How a node's machine is (protocol 4: NodeHostStatsPayload)."""

    cpu_count: Annotated[int, Meta(ge=1, le=4096)]
    memory_total_bytes: _Bytes
    memory_free_bytes: _Bytes
    disk_total_bytes: _Bytes | UnsetType = UNSET
    disk_available_bytes: _Bytes | UnsetType = UNSET
    load_average: tuple[_Load, _Load, _Load] | UnsetType = UNSET


class Activity(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Since when nobody was at a node (protocol 4: NodePresenceActivityPayload)."""

    idle_seconds: Annotated[int, Meta(ge=0, le=2_592_000)] | UnsetType = UNSET
    saturated: bool = False
    source: Literal["app", "system"] | UnsetType = UNSET
    action: Literal["clear"] | UnsetType = UNSET


class NodePresence:
    """Keeps what nodes say of themselves, and tells those who read."""

    def __init__(self, *, clock: IClock, paired: PairedNodes, hub: Hub, maximum: int) -> None:
        self._clock = clock
        self._paired = paired
        self._hub = hub
        self.alive_at: Registry[bool] = Registry("node-alive", maximum=maximum, ttl_s=ALIVE_S)
        self.stats: Registry[dict[str, Any]] = Registry(
            "node-host-stats", maximum=maximum, ttl_s=STATS_TTL_S
        )
        self.told_at: Registry[bool] = Registry("node-stats-told", maximum=maximum, ttl_s=STATS_S)

    def facts(self, node: str) -> dict[str, Any]:
        """Return what the row of a node has of this: ``hostStats``, while they are fresh."""
        stats = self.stats.fresh(node, self._clock.seconds())
        return {} if stats is None else {"hostStats": stats}

    def forget(self, node: str) -> None:
        """Drop what a node said: it is none any more."""
        for kept in (self.alive_at, self.stats, self.told_at):
            kept.pop(node)

    async def alive(self, caller: Caller, payload: Mapping[str, Any]) -> Mapping[str, Any]:
        """Take ``node.presence.alive``: store when a paired node was last seen, and why.

        A node takes ``handled`` for its word that this was stored. Raises StoreError.
        """
        node = caller.principal.device_id
        if node is None:
            return ignored("no_device")
        now = self._clock.seconds()
        if self.alive_at.fresh(node, now):
            return handled("throttled")
        # Before the store is asked: what comes while it works is not written besides.
        self.alive_at.put(node, True, now)
        known = False
        try:
            known = await self._seen(node, payload.get("trigger"))
        finally:
            if not known:
                self.alive_at.pop(node)
        return handled("persisted") if known else ignored("not_paired")

    async def _seen(self, node: str, trigger: object) -> bool:
        """Store that a node was seen; return whether it is paired."""
        seen_ms = self._clock.now_ms()
        known = isinstance(trigger, str) and trigger in TRIGGERS

        def seen(record: NodeRecord) -> NodeRecord:
            reason = str(trigger) if known else "background"
            return msgspec.structs.replace(record, last_seen_at_ms=seen_ms, last_seen_reason=reason)

        return await self._paired.update(node, seen)

    async def activity(self, caller: Caller, payload: Mapping[str, Any]) -> Mapping[str, Any]:
        """Take ``node.presence.activity``: tell since when nobody is at a node, or that it does not know."""
        try:
            said = msgspec.convert(payload, Activity)
        except msgspec.ValidationError:
            return ignored("invalid_payload")
        now_ms = self._clock.now_ms()
        active_ms: int | None = None
        if isinstance(said.action, UnsetType):
            if isinstance(said.idle_seconds, UnsetType):
                return ignored("invalid_payload")
            active_ms = max(0, now_ms - said.idle_seconds * 1000)
        told = {
            "nodeId": node_id(caller),
            "lastActiveAtMs": active_ms,
            "presenceUpdatedAtMs": now_ms,
        }
        self._hub.broadcast(Event("node.presence", told, v3=None))
        return handled("updated")

    async def host_stats(self, caller: Caller, payload: Mapping[str, Any]) -> Mapping[str, Any]:
        """Take ``node.host.stats``: keep the numbers for the node's row, and tell them."""
        try:
            said = msgspec.convert(payload, HostStats)
        except msgspec.ValidationError:
            return ignored("invalid_payload")
        node, now = node_id(caller), self._clock.seconds()
        stats = {**msgspec.to_builtins(said), "updatedAtMs": self._clock.now_ms()}
        self.stats.put(node, stats, now)
        if self.told_at.fresh(node, now):
            return handled("throttled")
        self.told_at.put(node, True, now)
        self._hub.broadcast(Event("node.hostStats", {"nodeId": node, "hostStats": stats}, v3=None))
        return handled("updated")

    async def notification(self, caller: Caller, payload: Mapping[str, Any]) -> Mapping[str, Any]:
        """Take ``notifications.changed``: nothing is made of it.

        Anybody can make a phone show a text, so it is not put before an agent that acts for the owner.
        """
        return ignored("not_used")
