"""What clients are told of devices that ask to be paired."""

from __future__ import annotations

from typing import Any

from gateway.model import PairingRequest


def requested(request: PairingRequest, protocol: int) -> dict[str, Any]:
    """Return an open request: the payload of ``device.pair.requested``, and a row of ``device.pair.list``.

    Version 3 has a closed schema without ``deviceFamily``.
    """
    facts = {
        "displayName": request.display_name,
        "platform": request.platform,
        "deviceFamily": request.device_family if protocol >= 4 else None,
        "clientId": request.client_id,
        "clientMode": request.client_mode,
        "remoteIp": request.remote_ip,
    }
    return {
        "requestId": request.request_id,
        "deviceId": request.device_id,
        "publicKey": request.public_key,
        **{name: value for name, value in facts.items() if value},
        "role": request.role,
        "roles": list(request.roles),
        "scopes": list(request.scopes),
        "silent": False,
        "isRepair": request.is_repair,
        "ts": request.requested_at_ms,
    }


def resolved(request_id: str, device_id: str, decision: str, now_ms: int) -> dict[str, Any]:
    """Return the payload of ``device.pair.resolved``; ``decision`` is approved, rejected or removed."""
    return {
        "requestId": request_id,
        "deviceId": device_id,
        "decision": decision,
        "ts": now_ms,
    }
