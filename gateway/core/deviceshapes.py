"""Paired devices as the protocol shows them; no secret is among it (protocol: pairing)."""

from __future__ import annotations

from typing import Any

from gateway.model import Device, RoleGrant


def device_shape(device: Device, protocol: int) -> dict[str, Any]:
    """Return a paired device; its tokens are summed up by role."""
    facts: dict[str, Any] = {
        "displayName": device.name or device.display_name,
        "platform": device.platform,
        "clientId": device.client_id,
        "clientMode": device.client_mode,
        "remoteIp": device.remote_ip,
    }
    if protocol >= 4:
        facts |= {
            "deviceFamily": device.device_family,
            "approvedVia": device.approved_via,
            "lastSeenAtMs": device.last_seen_at_ms,
            "lastSeenReason": device.last_seen_reason,
        }
    return {
        "deviceId": device.device_id,
        "publicKey": device.public_key,
        **{name: value for name, value in facts.items() if value},
        "role": device.roles[0] if device.roles else "operator",
        "roles": list(device.roles),
        "scopes": list(device.scopes),
        "createdAtMs": device.created_at_ms,
        "approvedAtMs": device.approved_at_ms,
        "tokens": [_grant_shape(grant) for grant in device.grants],
    }


def _grant_shape(grant: RoleGrant) -> dict[str, Any]:
    times = {
        "rotatedAtMs": grant.rotated_at_ms,
        "revokedAtMs": grant.revoked_at_ms,
        "lastUsedAtMs": grant.last_used_at_ms,
    }
    return {
        "role": grant.role,
        "scopes": list(grant.scopes),
        "createdAtMs": grant.created_at_ms,
        **{name: value for name, value in times.items() if value is not None},
    }
