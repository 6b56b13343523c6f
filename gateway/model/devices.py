"""Paired devices, their tokens, and what they ask for."""

from __future__ import annotations

from gateway.model.base import Struct


class RoleGrant(Struct, frozen=True, kw_only=True):
    """What a device may be: one role, with these scopes, until it is revoked."""

    role: str
    scopes: tuple[str, ...]
    created_at_ms: int
    rotated_at_ms: int | None = None
    revoked_at_ms: int | None = None
    """Its tokens are gone; the device has to be approved anew for this role."""
    last_used_at_ms: int | None = None


class Device(Struct, frozen=True, kw_only=True):
    """A paired device."""

    device_id: str
    public_key: str
    """Raw Ed25519 key, base64url without padding."""
    roles: tuple[str, ...]
    scopes: tuple[str, ...]
    """Approved operator scopes."""
    created_at_ms: int
    approved_at_ms: int
    approved_via: str
    """silent, owner or setup-code."""
    name: str | None = None
    """The name that an operator gave it, shown instead of its own."""
    display_name: str | None = None
    platform: str | None = None
    device_family: str | None = None
    client_id: str | None = None
    client_mode: str | None = None
    remote_ip: str | None = None
    last_seen_at_ms: int | None = None
    last_seen_reason: str | None = None
    grants: tuple[RoleGrant, ...] = ()
    """One for each role that it was ever approved for."""
    version: int = 0


class DeviceToken(Struct, frozen=True, kw_only=True):
    """A token of a device for one role; only its SHA-256 digest (hex) is kept."""

    digest: str
    device_id: str
    role: str
    scopes: tuple[str, ...]
    issued_at_ms: int
    last_used_at_ms: int | None = None


class PairingRequest(Struct, frozen=True, kw_only=True):
    """What a device asks an operator for. It expires five minutes after it was made."""

    request_id: str
    device_id: str
    public_key: str
    role: str
    """The role it wants to be now; ``roles`` and ``scopes`` are all that an approval would add."""
    roles: tuple[str, ...]
    scopes: tuple[str, ...]
    requested_at_ms: int
    expires_at_ms: int
    reason: str
    """not-paired, role-upgrade, scope-upgrade or metadata-upgrade."""
    is_repair: bool = False
    """Whether the device is paired already."""
    display_name: str | None = None
    platform: str | None = None
    device_family: str | None = None
    client_id: str | None = None
    client_mode: str | None = None
    remote_ip: str | None = None


class Pairing(Struct, frozen=True, kw_only=True):
    """All that is known of one device: its record if it is paired, its tokens, what it asks for."""

    device_id: str
    device: Device | None = None
    tokens: tuple[DeviceToken, ...] = ()
    """The newest of each role last."""
    request: PairingRequest | None = None
