"""What is known of nodes: those that are paired and those that are connected, as operators see them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec.structs import replace

from gateway.app.nodes import Nodes, NodeSession
from gateway.errors import InvalidRequest
from gateway.interfaces import IClock, IStore
from gateway.model import Device, NodeRecord, NodeSurface, Pairing, Role

Facts = Callable[[str], Mapping[str, Any]]
"""From the id of a node to more that is told of it."""


class NodeDirectory:
    """Lists, describes and renames nodes."""

    def __init__(self, *, clock: IClock, store: IStore, nodes: Nodes) -> None:
        self._clock = clock
        self._store = store
        self._nodes = nodes
        self._facts: list[Facts] = []

    def add_facts(self, facts: Facts) -> None:
        """Tell more of each node, from now on."""
        self._facts.append(facts)

    async def list(self) -> list[dict[str, Any]]:
        """Return paired and connected nodes, connected ones first, then by name."""
        devices = {
            pairing.device_id: pairing.device
            for pairing in await self._store.list_pairings()
            if _is_node(pairing)
        }
        records = {record.node_id: record for record in await self._store.list_nodes()}
        paired = {*devices, *(key for key, record in records.items() if _is_paired(record))}
        sessions = {session.node_id: session for session in self._nodes.connected}
        rows = [
            self._row(key, devices.get(key), records.get(key), sessions.get(key))
            for key in {*paired, *sessions}
        ]
        return sorted(
            rows, key=lambda r: (not r["connected"], r.get("displayName", r["nodeId"]).lower())
        )

    async def describe(self, node_id: str) -> dict[str, Any]:
        """Return one node. Raises InvalidRequest for one that is unknown."""
        device, record, session = await self._find(node_id)
        if device is None and session is None and not _is_paired(record):
            raise _unknown()
        return self._row(node_id, device, record, session)

    async def knows(self, node_id: str) -> bool:
        """Whether a node is paired or connected."""
        device, record, session = await self._find(node_id)
        return device is not None or session is not None or _is_paired(record)

    async def rename(self, node_id: str, name: str) -> None:
        """Give a node a name that stays, whatever it calls itself. Raises InvalidRequest."""
        if not await self.knows(node_id):
            raise _unknown()
        await self._store.update_node(node_id, lambda record: replace(record, name=name))

    async def _find(self, node_id: str) -> tuple[Device | None, NodeRecord, NodeSession | None]:
        pairing: Pairing = await self._store.get_pairing(node_id)
        record: NodeRecord = await self._store.get_node(node_id)
        device = pairing.device if _is_node(pairing) else None
        return device, record, self._nodes.session(node_id)

    def _row(
        self,
        node_id: str,
        device: Device | None,
        record: NodeRecord | None,
        session: NodeSession | None,
    ) -> dict[str, Any]:
        record = record or NodeRecord(node_id=node_id)
        facts = {**_of_device(device), **_of_record(record), **_of_session(session)}
        named = record.name or (device and device.name)
        if named:
            facts["displayName"] = named
        for more in self._facts:
            facts |= more(node_id)
        surface = session.live if session is not None else record.approved or NodeSurface()
        row: dict[str, Any] = {
            "nodeId": node_id,
            "caps": sorted(surface.caps),
            "commands": sorted(surface.commands),
            "paired": device is not None or _is_paired(record),
            "connected": session is not None,
        }
        if surface.permissions:
            row["permissions"] = dict(surface.permissions)
        row |= _approval(record, session, self._clock.now_ms())
        return row | {name: value for name, value in facts.items() if value is not None}


def _unknown() -> InvalidRequest:
    return InvalidRequest("unknown nodeId")


def _is_node(pairing: Pairing) -> bool:
    device = pairing.device
    return device is not None and Role.NODE in device.roles


def _is_paired(record: NodeRecord) -> bool:
    """Whether a node counts as paired without a device: by version 3's own pairing."""
    return record.legacy_token is not None


def _approval(record: NodeRecord, session: NodeSession | None, now_ms: int) -> dict[str, Any]:
    """Return where the approval of what the node offers stands; version 3 has none."""
    request = record.request
    if request is not None and not request.legacy and request.expires_at_ms > now_ms:
        return {
            "approvalState": "pending-approval",
            "pendingRequestId": request.request_id,
            "pendingDeclaredCaps": list(request.surface.caps),
            "pendingDeclaredCommands": list(request.surface.commands),
        }
    if record.approved is None or (session is not None and session.caller.protocol < 4):
        return {}
    return {"approvalState": "approved"}


def _of_device(device: Device | None) -> dict[str, Any]:
    if device is None:
        return {}
    return {
        "displayName": device.display_name,
        "platform": device.platform,
        "deviceFamily": device.device_family,
        "clientId": device.client_id,
        "clientMode": device.client_mode,
        "approvedAtMs": device.approved_at_ms,
        "lastSeenAtMs": device.last_seen_at_ms,
        "lastSeenReason": device.last_seen_reason,
    }


def _of_record(record: NodeRecord) -> dict[str, Any]:
    facts = {
        "displayName": record.display_name,
        "platform": record.platform,
        "version": record.version,
        "deviceFamily": record.device_family,
        "modelIdentifier": record.model_identifier,
        "approvedAtMs": record.approved_at_ms,
        "lastConnectedAtMs": record.last_connected_at_ms,
        "lastDisconnectedAtMs": record.last_disconnected_at_ms,
        "lastSeenAtMs": record.last_seen_at_ms,
        "lastSeenReason": record.last_seen_reason,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _of_session(session: NodeSession | None) -> dict[str, Any]:
    if session is None:
        return {}
    caller = session.caller
    client = caller.client
    facts: dict[str, Any] = {
        "displayName": client.display_name,
        "platform": client.platform,
        "version": client.version,
        "deviceFamily": client.device_family,
        "modelIdentifier": client.model_identifier,
        "clientId": client.id,
        "clientMode": client.mode,
        "pathEnv": caller.path_env,
        "remoteIp": None if caller.peer.local else caller.peer.address,
        "sessionHost": False,
        "nodePluginTools": [],
        "connectedAtMs": session.since_ms,
        "lastConnectedAtMs": session.since_ms,
    }
    return {name: value for name, value in facts.items() if value is not None}
