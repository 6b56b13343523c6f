"""Who is here: entries of clients, devices and the gateway itself, with a version for their changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from gateway.app.context import Caller
from gateway.app.hub import Hub
from gateway.core.events import Event
from gateway.core.registry import Registry, RegistryFull
from gateway.interfaces import IClock
from gateway.model import Struct

PUBLISH_INTERVAL_S = 1.0
"""Least time between two broadcasts of the list: a thousand clients that come back at once are one
change for those who watch, not a thousand lists to a thousand of them."""

UNTRACKED_MODES = frozenset({"cli", "backend", "probe"})
"""Clients that come for one call are no presence."""


class PresenceEntry(Struct, frozen=True, kw_only=True):
    """One entry, in the shape of both versions' schemas."""

    ts: int
    text: str | None = None
    host: str | None = None
    ip: str | None = None
    version: str | None = None
    platform: str | None = None
    device_family: str | None = None
    model_identifier: str | None = None
    mode: str | None = None
    reason: str | None = None
    device_id: str | None = None
    roles: tuple[str, ...] | None = None
    scopes: tuple[str, ...] | None = None
    instance_id: str | None = None
    last_input_seconds: int | None = None
    tags: tuple[str, ...] | None = None


class Presence:
    """The presence list. Entries die 5 minutes after their last sign of life; connected ones stay.

    It is a Sweepable.
    """

    name = "presence"

    def __init__(
        self,
        hub: Hub,
        clock: IClock,
        *,
        host: str,
        version: str,
        maximum: int,
        ttl_s: float,
        state_version: Callable[[], dict[str, int]],
    ) -> None:
        self._hub = hub
        self._clock = clock
        self._host = host
        self._gateway_version = version
        self._connected: dict[str, str] = {}
        self._state_version = state_version
        self.entries: Registry[tuple[str, PresenceEntry]] = Registry(
            "presence",
            maximum=maximum,
            ttl_s=ttl_s,
            in_use=lambda entry: entry[0] in self._connected,
        )
        self.version = 1
        self._published_at: float | None = None
        self._due = False

    def __len__(self) -> int:
        return len(self.entries)

    def sweep(self, now: float) -> int:
        """Remove the entries that have expired; return how many there were."""
        removed = self.entries.sweep(now)
        self.version += bool(removed)
        return removed

    def list(self) -> list[PresenceEntry]:
        """Return all entries, the gateway's own first, then the newest first."""
        self.sweep(self._clock.seconds())
        text = f"Gateway: {self._host} · app {self._gateway_version} · mode gateway · reason self"
        own = PresenceEntry(
            ts=self._clock.now_ms(),
            text=text,
            host=self._host,
            version=self._gateway_version,
            mode="gateway",
            reason="self",
        )
        # In the order of their last change: the wall clock, which gives ``ts``, may have been set since.
        return [own, *reversed([entry for _, entry in self.entries])]

    def joined(self, caller: Caller) -> bool:
        """Enter a connection; return whether it is one that presence tracks."""
        client = caller.client
        if client.mode in UNTRACKED_MODES:
            return False
        device_id = caller.principal.device_id
        host = client.display_name or client.id
        entry = PresenceEntry(
            ts=self._clock.now_ms(),
            text=f"{'Node' if caller.is_node else 'Client'}: {host} · mode {client.mode}",
            host=host,
            ip=None if caller.peer.local else caller.peer.address,
            version=client.version,
            platform=client.platform,
            device_family=client.device_family,
            model_identifier=client.model_identifier,
            mode=client.mode,
            reason="connect",
            device_id=device_id,
            roles=(caller.principal.role.value,),
            scopes=caller.principal.scopes or None,
            instance_id=device_id or client.instance_id,
        )
        key = self._key(caller)
        self._connected[key] = caller.conn_id
        self._put(key, entry)
        return True

    def left(self, caller: Caller) -> bool:
        """Mark the entry of a connection that is gone, unless a newer one has it; return whether it was."""
        key = self._key(caller)
        if self._connected.get(key) != caller.conn_id:
            return False
        del self._connected[key]
        held = self.entries.get(key)
        if held is None:
            return False
        gone = msgspec.structs.replace(held[1], reason="disconnect", ts=self._clock.now_ms())
        self._put(key, gone)
        return True

    def report(self, entry: PresenceEntry, key: str) -> None:
        """Enter what a ``system-event`` says of somebody."""
        self._put(key, entry)

    def publish(self, *, at_once: bool = False) -> None:
        """Broadcast the list: now, or with the next beat if that was done a moment ago.

        ``at_once`` does not wait: for what somebody reports, rather than who comes and goes.
        """
        now = self._clock.seconds()
        last = self._published_at
        if not at_once and last is not None and now - last < PUBLISH_INTERVAL_S:
            self._due = True
        else:
            self._broadcast(now)

    def flush(self) -> None:
        """Broadcast the list if that is due (done by one beat a second)."""
        if self._due:
            self._broadcast(self._clock.seconds())

    def _broadcast(self, now: float) -> None:
        self._published_at, self._due = now, False
        payload: dict[str, Any] = {"presence": self.list()}
        self._hub.broadcast(Event("presence", payload, state_version=self._state_version()))

    def _key(self, caller: Caller) -> str:
        """A node keeps its place from one connection to the next; clients have one per connection."""
        device_id = caller.principal.device_id
        return (device_id if caller.is_node and device_id else caller.conn_id).lower()

    def _put(self, key: str, entry: PresenceEntry) -> None:
        """Enter as the newest. A full list loses its oldest entry, a connected one only if all are."""
        key, now = key.lower(), self._clock.seconds()
        try:
            self.entries.put(key, (key, entry), now)
        except RegistryFull:
            self.entries.pop_oldest()
            self.entries.put(key, (key, entry), now)
        self.version += 1
