"""Who is here: entries of clients, devices and the gateway itself, with a version for their changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from gateway.app.context import Caller
from gateway.app.hub import Hub
from gateway.core.events import Event
from gateway.core.registry import Registry, RegistryFull
from gateway.core.run import RunOutput
from gateway.interfaces import IClock
from gateway.limits import LimitsConfig
from gateway.model import Struct

PUBLISH_INTERVAL_S = 1.0
"""Least time between two broadcasts of the list: a thousand clients that come back at once are one
change for those who watch, not a thousand lists to a thousand of them."""

UNTRACKED_MODE = "cli"
"""Clients that come for one call are no presence."""

CALL_MODES = frozenset({"backend", "probe"})
"""Programs that come and go: they are presence for protocol 3 only."""

_ROUTINE = frozenset({"periodic", "heartbeat"})


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
    client_id: str | None = None
    """This and what follows: protocol 4."""
    online_since: int | None = None
    last_activity_at: int | None = None


@dataclass(slots=True)
class _Place:
    """One place in the list: by connection for operators, by device for nodes and what is reported."""

    key: str
    one: str
    """Where protocol 3 shows it: one entry for all that share this."""
    group: str
    """Whom it counts against: its device, or its address where it has proven none."""
    entry: PresenceEntry
    gone: bool = False


class Presence:
    """The presence list. Entries die 5 minutes after their last sign of life; connected ones stay.

    No device, and no address, pushes others out of it: of one device at most ``presence_per_device``
    connections are listed, the newest, and as many that ended; and when all of a full list are connected,
    whoever has most places gives one. It is a Sweepable.
    """

    name = "presence"

    def __init__(
        self,
        hub: Hub,
        clock: IClock,
        *,
        host: str,
        version: str,
        limits: LimitsConfig,
        state_version: Callable[[], dict[str, int]],
    ) -> None:
        self._hub = hub
        self._clock = clock
        self._host = host
        self._gateway_version = version
        self._per_device = limits.presence_per_device
        self._holders: dict[str, str] = {}
        """The connection that holds a place, by its key."""
        self._state_version = state_version

        def made(name: str) -> Registry[_Place]:
            return Registry(
                name,
                maximum=limits.presence_max,
                ttl_s=limits.presence_ttl_s,
                in_use=lambda place: place.key in self._holders,
            )

        self.entries = made(self.name)
        self._calls = made("presence-calls")
        """Programs that come and go, beside the others so that they take nobody's place."""
        self.version = 1
        self._changed: set[int] = set()
        """The protocol versions whose list is another since the last broadcast."""
        self._published_at: float | None = None
        self._due = False

    def __len__(self) -> int:
        return len(self.entries) + len(self._calls)

    def sweep(self, now: float) -> int:
        """Remove the entries that have expired, and let those who watch know; return how many there were."""
        removed = self.entries.sweep(now), self._calls.sweep(now)
        if any(removed):
            self.version += 1
            self._changed |= {3, 4} if removed[0] else {3}
            self._due = True
        return sum(removed)

    def list(self, protocol: int = 4) -> list[PresenceEntry]:
        """Return all entries as a protocol version has them, the gateway's own first, then the newest."""
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
        newest = list(reversed(list(self.entries)))
        if protocol >= 4:
            return [own, *(place.entry for place in newest)]
        shown: dict[str, _Place] = {}
        for place in (*newest, *reversed(list(self._calls))):
            held = shown.get(place.one)
            if held is None or (held.gone and not place.gone):
                shown[place.one] = place
        return [own, *(_as_three(place.entry) for place in shown.values())]

    def joined(self, caller: Caller) -> bool:
        """Enter a connection; return whether everybody is to be told of it."""
        client = caller.client
        if client.mode == UNTRACKED_MODE:
            return False
        device_id, now_ms = caller.principal.device_id, self._clock.now_ms()
        host = client.display_name or client.id
        entry = PresenceEntry(
            ts=now_ms,
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
            client_id=client.id,
            online_since=now_ms,
        )
        key = _key(caller)
        one = (device_id or client.instance_id or caller.conn_id).lower()
        place = _Place(key, one, device_id or f"@{caller.peer.address}", entry)
        registry = self._registry(caller)
        for each in [p for p in registry if p.gone and p.one == one]:
            registry.pop(each.key)
        if device_id is not None:
            self._bound(registry, lambda p: p.group == device_id and p.key != key, spare=1)
        self._holders[key] = caller.conn_id
        self._put(registry, place)
        return registry is self.entries

    def left(self, caller: Caller) -> bool:
        """Mark the entry of a connection that is gone, unless a newer one has it; return whether it was."""
        key, registry = _key(caller), self._registry(caller)
        if self._holders.get(key) != caller.conn_id:
            return False
        del self._holders[key]
        place = registry.get(key)
        if place is None:
            return False
        place.gone = True
        place.entry = msgspec.structs.replace(
            place.entry, reason="disconnect", ts=self._clock.now_ms()
        )
        self._put(registry, place)
        self._bound(registry, lambda p: p.gone and p.group == place.group)
        return True

    def report(self, entry: PresenceEntry, key: str) -> bool:
        """Enter what a ``system-event`` says of somebody; return whether it is news.

        It is where what it says of the place, the version or the mode is not what was said before, or
        where it gives another reason that is no routine.
        """
        key = key.lower()
        held = self.entries.get(key)
        group = key if held is None else held.group
        self._put(self.entries, _Place(key, key, group, entry))
        if held is None:
            return True
        names = ["host", "ip", "version", "mode"]
        if entry.reason not in _ROUTINE:
            names.append("reason")
        return any(getattr(entry, name) != getattr(held.entry, name) for name in names)

    def heard(self, output: RunOutput) -> None:
        """Listen to runs: who starts one is at his client."""
        run = output.run
        key = "" if output.seq > 1 or run.conn_id is None else run.conn_id.lower()
        place = self.entries.get(key) if self._holders.get(key) == run.conn_id else None
        if place is not None:
            place.entry = msgspec.structs.replace(place.entry, last_activity_at=run.accepted_at_ms)

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
        self.sweep(now)
        self._published_at, self._due = now, False
        versions, self._changed = self._changed or {3, 4}, set()
        four, three = (
            {"presence": self.list(version)} if version in versions else None for version in (4, 3)
        )
        event = Event("presence", four, v3=three, state_version=self._state_version())
        self._hub.broadcast(event)

    def _registry(self, caller: Caller) -> Registry[_Place]:
        return self._calls if caller.client.mode in CALL_MODES else self.entries

    def _bound(
        self, registry: Registry[_Place], of: Callable[[_Place], bool], spare: int = 0
    ) -> None:
        """Remove the oldest of some places above what one device may have."""
        found = [place.key for place in registry if of(place)]
        for key in found[: max(0, len(found) + spare - self._per_device)]:
            registry.pop(key)

    def _put(self, registry: Registry[_Place], place: _Place) -> None:
        """Enter as the newest. A full list loses its oldest entry, a connected one only if all are."""
        now = self._clock.seconds()
        try:
            registry.put(place.key, place, now)
        except RegistryFull:
            crowd = Counter(each.group for each in registry)
            largest = max(crowd.values())
            registry.pop(next(p.key for p in registry if crowd[p.group] == largest))
            registry.put(place.key, place, now)
        self._changed |= {3} if registry is self._calls else {3, 4}
        self.version += 1


def _key(caller: Caller) -> str:
    """A node keeps its place from one connection to the next; clients have one per connection."""
    device_id = caller.principal.device_id
    return (device_id if caller.is_node and device_id else caller.conn_id).lower()


def _as_three(entry: PresenceEntry) -> PresenceEntry:
    """Return an entry without what the closed schema of protocol 3 does not have."""
    return msgspec.structs.replace(entry, client_id=None, online_since=None, last_activity_at=None)
