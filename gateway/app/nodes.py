"""Connected devices of role node."""

from __future__ import annotations

from typing import Any

from gateway.app.context import Caller
from gateway.app.hub import Hub
from gateway.interfaces import IClock, IConnection, IStore
from gateway.model import Device, Role


class Nodes:
    """The nodes by id. A newer connection of a node takes the older one's place."""

    def __init__(self, *, clock: IClock, store: IStore, hub: Hub) -> None:
        self._clock = clock
        self._store = store
        self._hub = hub
        self._connected: dict[str, tuple[IConnection, int]] = {}

    def __len__(self) -> int:
        return len(self._connected)

    def joined(self, connection: IConnection) -> None:
        """Enter a connection of role node."""
        self._connected[node_id(connection.caller)] = (connection, self._clock.now_ms())

    def left(self, connection: IConnection) -> None:
        """Remove a connection, unless a newer one has its place."""
        key = node_id(connection.caller)
        held = self._connected.get(key)
        if held is not None and held[0] is connection:
            del self._connected[key]

    async def list(self) -> list[dict[str, Any]]:
        """Return paired and connected nodes, connected ones first, then by name."""
        devices: tuple[Device, ...] = await self._store.list_devices()
        paired = {d.device_id: d for d in devices if Role.NODE in d.roles}
        rows = [
            _row(key, paired.get(key), self._connected.get(key))
            for key in {*paired, *self._connected}
        ]
        return sorted(
            rows, key=lambda r: (not r["connected"], r.get("displayName", r["nodeId"]).lower())
        )


def node_id(caller: Caller) -> str:
    """Return the id of a node: its device's, else its client's."""
    return caller.principal.device_id or caller.client.id


def _row(
    key: str, device: Device | None, connected: tuple[IConnection, int] | None
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "nodeId": key,
        "caps": [],
        "commands": [],
        "paired": device is not None,
        "connected": connected is not None,
    }
    facts: dict[str, Any] = {}
    if device is not None:
        facts |= {
            "displayName": device.display_name,
            "platform": device.platform,
            "deviceFamily": device.device_family,
            "clientId": device.client_id,
            "clientMode": device.client_mode,
            "approvedAtMs": device.approved_at_ms,
            "lastSeenAtMs": device.last_seen_at_ms,
        }
    if connected is not None:
        connection, since_ms = connected
        caller: Caller = connection.caller
        client = caller.client
        row["caps"] = sorted(caller.caps)
        facts |= {
            "displayName": client.display_name,
            "platform": client.platform,
            "version": client.version,
            "deviceFamily": client.device_family,
            "modelIdentifier": client.model_identifier,
            "clientId": client.id,
            "clientMode": client.mode,
            "connectedAtMs": since_ms,
        }
        if not caller.peer.local:
            facts["remoteIp"] = caller.peer.address
    return row | {name: value for name, value in facts.items() if value is not None}
