"""The approval of nodes: what they may do, and version 3's own pairing."""

from __future__ import annotations

from typing import Any, Final

from msgspec import UNSET, UnsetType

from gateway.app.context import Context
from gateway.core.params import NonEmpty, NoParams, Params, given
from gateway.core.surface import PAIRING, REQUEST_TTL_MS
from gateway.errors import InvalidRequest
from gateway.model import NodeSurface, SurfaceRequest
from gateway.rpc.table import MethodTable

methods = MethodTable()

MAX_CHARS: Final = 256
"""Longest text in a request of version 3's own pairing, in characters."""
MAX_ITEMS: Final = 128
"""Capabilities, and commands, in such a request."""


class NodePairRequestIdParams(Params, frozen=True):
    """Which request."""

    request_id: NonEmpty


class NodePairRemoveParams(Params, frozen=True):
    """Which node."""

    node_id: NonEmpty


class NodePairRequestParams(Params, frozen=True):
    """What is said of a node for which a token is asked."""

    node_id: NonEmpty
    display_name: NonEmpty | UnsetType = UNSET
    platform: NonEmpty | UnsetType = UNSET
    version: NonEmpty | UnsetType = UNSET
    core_version: NonEmpty | UnsetType = UNSET
    ui_version: NonEmpty | UnsetType = UNSET
    device_family: NonEmpty | UnsetType = UNSET
    model_identifier: NonEmpty | UnsetType = UNSET
    caps: list[NonEmpty] | UnsetType = UNSET
    commands: list[NonEmpty] | UnsetType = UNSET
    remote_ip: NonEmpty | UnsetType = UNSET
    silent: bool | UnsetType = UNSET


class NodePairVerifyParams(Params, frozen=True):
    """A token, and whose it should be."""

    node_id: NonEmpty
    token: NonEmpty


@methods.method("node.pair.list", scope=PAIRING)
async def node_pair_list(context: Context, params: NoParams) -> dict[str, Any]:
    """List the nodes that ask for approval of what they can do, and those that were approved."""
    return await context.services.surfaces.list(context.caller)


@methods.method("node.pair.approve", scope=PAIRING)
async def node_pair_approve(context: Context, params: NodePairRequestIdParams) -> dict[str, Any]:
    """Approve what a node asks for; it takes the scopes that the request names, and holds at once."""
    return await context.services.surfaces.approve(context.caller, params.request_id)


@methods.method("node.pair.reject", scope=PAIRING)
async def node_pair_reject(context: Context, params: NodePairRequestIdParams) -> dict[str, Any]:
    """Reject what a node asks for; what was approved before stays."""
    return await context.services.surfaces.reject(context.caller, params.request_id)


@methods.method("node.pair.remove", scope=PAIRING)
async def node_pair_remove(context: Context, params: NodePairRemoveParams) -> dict[str, Any]:
    """Take the role node from a device, and close its connections."""
    return await context.services.surfaces.remove(context.caller, params.node_id)


@methods.method("node.pair.request", scope=PAIRING)
async def node_pair_request(context: Context, params: NodePairRequestParams) -> dict[str, Any]:
    """Ask for a token for a node (protocol 3's own pairing, which decides nothing here)."""
    services = context.services
    caps, commands = given(params.caps, []), given(params.commands, [])
    texts = [
        params.node_id,
        *caps,
        *commands,
        *(
            given(text, "")
            for text in (
                params.display_name,
                params.platform,
                params.version,
                params.device_family,
                params.remote_ip,
            )
        ),
    ]
    if max(len(caps), len(commands)) > MAX_ITEMS or max(map(len, texts)) > MAX_CHARS:
        raise InvalidRequest(f"at most {MAX_CHARS} characters a text, and {MAX_ITEMS} commands")
    now_ms = services.clock.now_ms()
    asked = SurfaceRequest(
        request_id=services.entropy.uuid4(),
        surface=NodeSurface(caps=tuple(caps), commands=tuple(commands)),
        requested_at_ms=now_ms,
        expires_at_ms=now_ms + REQUEST_TTL_MS,
        display_name=given(params.display_name, None),
        platform=given(params.platform, None),
        version=given(params.version, None),
        device_family=given(params.device_family, None),
        remote_ip=given(params.remote_ip, None),
        silent=given(params.silent, False),
        legacy=True,
    )
    return await services.legacy_nodes.request(params.node_id, asked)


@methods.method("node.pair.verify", scope=PAIRING)
async def node_pair_verify(context: Context, params: NodePairVerifyParams) -> dict[str, Any]:
    """Check a node's token (protocol 3's own pairing)."""
    return await context.services.legacy_nodes.verify(params.node_id, params.token)
