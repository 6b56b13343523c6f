"""What clients are told of the approval of nodes: requests, their ends, approved nodes."""

from __future__ import annotations

from typing import Any

from gateway.core.surface import NOTHING, approve_scopes
from gateway.model import Device, NodeRecord, SurfaceRequest


def requested(node_id: str, request: SurfaceRequest, *, repair: bool = False) -> dict[str, Any]:
    """Return a request: the event ``node.pair.requested``, and a row of ``node.pair.list``.

    ``repair``: of version 3's own pairing of nodes, whether the node has a token already.
    """
    shape: dict[str, Any] = {
        "requestId": request.request_id,
        "nodeId": node_id,
        "clientId": request.client_id,
        "clientMode": request.client_mode,
        "displayName": request.display_name,
        "platform": request.platform,
        "version": request.version,
        "deviceFamily": request.device_family,
        "remoteIp": request.remote_ip,
        "silent": request.silent or None,
    }
    surface = request.surface
    if request.legacy:
        shape |= {
            "caps": list(surface.caps) or None,
            "commands": list(surface.commands) or None,
            "isRepair": repair,
        }
    else:
        shape |= {
            "caps": list(surface.caps),
            "commands": list(surface.commands),
            "permissions": dict(surface.permissions) or None,
            "requiredApproveScopes": list(approve_scopes(surface)),
        }
    return _given(shape) | {"ts": request.requested_at_ms}


def resolved(request_id: str, node_id: str, decision: str, now_ms: int) -> dict[str, Any]:
    """Return the end of a request (approved, rejected), or of a node (removed: no request)."""
    return {"requestId": request_id, "nodeId": node_id, "decision": decision, "ts": now_ms}


def approved(record: NodeRecord, device: Device | None) -> dict[str, Any]:
    """Return a node with what is approved of it."""
    surface = record.approved or NOTHING
    since_ms = record.approved_at_ms
    shape = {
        "nodeId": record.node_id,
        "clientId": device.client_id if device else None,
        "clientMode": device.client_mode if device else None,
        "displayName": record.name
        or record.display_name
        or (device.display_name if device else None),
        "platform": record.platform or (device.platform if device else None),
        "version": record.version,
        "deviceFamily": record.device_family or (device.device_family if device else None),
        "caps": list(surface.caps),
        "commands": list(surface.commands),
        "permissions": dict(surface.permissions) or None,
        "createdAtMs": device.created_at_ms if device else since_ms,
        "approvedAtMs": since_ms,
        "lastConnectedAtMs": record.last_connected_at_ms,
        "lastSeenAtMs": record.last_seen_at_ms,
        "lastSeenReason": record.last_seen_reason,
    }
    return _given(shape)


def _given(shape: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in shape.items() if value is not None}
