"""Who is there: clients, and the principals that they act for."""

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
    """none, token, password, trusted-proxy, device-token or bootstrap-token."""
    device_id: str | None = None
    token_digest: str | None = None
    """Of the device token that it was let in by, or was given: who loses the token loses the connection."""
    user: str | None = None
    """Who the trusted proxy says it is."""

    @property
    def by_token(self) -> bool:
        """Whether it stands on its device token; who has the shared credential does not."""
        return self.auth_method in ("device-token", "bootstrap-token")

    @property
    def actor(self) -> str:
        """A stable name for who acts: the device, or the shared credential."""
        return self.device_id or f"shared:{self.auth_method}"
