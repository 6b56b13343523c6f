"""Nodes: devices that do things for agents, and what they were approved to do."""

from __future__ import annotations

from gateway.model.base import Struct


class NodeSurface(Struct, frozen=True, kw_only=True):
    """What a node offers: declared by itself, or the part of it that was approved."""

    caps: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    permissions: tuple[tuple[str, bool], ...] = ()


class SurfaceRequest(Struct, frozen=True, kw_only=True):
    """A surface that waits for an operator. It expires five minutes after it was made."""

    request_id: str
    surface: NodeSurface
    requested_at_ms: int
    expires_at_ms: int
    client_id: str | None = None
    client_mode: str | None = None
    display_name: str | None = None
    platform: str | None = None
    version: str | None = None
    device_family: str | None = None
    remote_ip: str | None = None
    silent: bool = False
    """Whether its device was paired without being asked for: a client on this machine."""
    legacy: bool = False
    """Whether it is version 3's own pairing of nodes, which gives a token and approves no surface."""


class NodeRecord(Struct, frozen=True, kw_only=True):
    """What is kept of one node beside its device."""

    node_id: str
    approved: NodeSurface | None = None
    approved_at_ms: int | None = None
    generation: int = 0
    """Rises with everything that changes what the node may do."""
    request: SurfaceRequest | None = None
    name: str | None = None
    """The name that an operator gave it."""
    last_connected_at_ms: int | None = None
    last_disconnected_at_ms: int | None = None
    last_seen_at_ms: int | None = None
    last_seen_reason: str | None = None
    legacy_token: str | None = None
    """Digest (SHA-256, hex) of the token that protocol 3's own pairing of nodes gave it."""
    display_name: str | None = None
    platform: str | None = None
    version: str | None = None
    device_family: str | None = None
    model_identifier: str | None = None
    remote_ip: str | None = None
    push: dict[str, str] = {}
    """Where it can be woken: what ``push.apns.register`` said."""
    pairing_ms: int | None = None
    """When the grant was made for which the surface was decided about last; another grant starts over."""

    def __repr__(self) -> str:
        """Name it; its address for push messages is nobody's business."""
        return f"NodeRecord({self.node_id!r})"
