"""Who is there: clients, principals, devices and their tokens."""

from __future__ import annotations

from enum import StrEnum

from gateway.model.base import Struct


class Role(StrEnum):
    """The role of a connection."""

    OPERATOR = "operator"
    NODE = "node"


class ClientInfo(Struct, frozen=True, kw_only=True):
    """What a client says of itself in ``connect`` (never a source of rights)."""

    id: str
    version: str
    platform: str
    mode: str
    display_name: str | None = None
    device_family: str | None = None
    model_identifier: str | None = None
    instance_id: str | None = None


class Principal(Struct, frozen=True, kw_only=True):
    """Who a connection acts for, and with which rights: the server's grant, never the client's claim."""

    role: Role
    scopes: tuple[str, ...]
    auth_method: str
    """none, token, password or device-token."""
    device_id: str | None = None

    @property
    def actor(self) -> str:
        """A stable name for who acts: the device, or the shared credential."""
        return self.device_id or f"shared:{self.auth_method}"


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
    """silent or owner."""
    display_name: str | None = None
    platform: str | None = None
    device_family: str | None = None
    client_id: str | None = None
    client_mode: str | None = None
    last_seen_at_ms: int | None = None
    version: int = 0


class DeviceToken(Struct, frozen=True, kw_only=True):
    """A token of a device for one role; only its SHA-256 digest (hex) is kept."""

    digest: str
    device_id: str
    role: str
    scopes: tuple[str, ...]
    issued_at_ms: int
    last_used_at_ms: int | None = None
