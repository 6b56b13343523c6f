"""Devices of role node: who they are, and what they tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

from msgspec import UNSET, Meta, UnsetType

from gateway.app.context import Context
from gateway.core.access import PAIRING, READ
from gateway.core.frames import NotJson, decode
from gateway.core.params import NonEmpty, NoParams, Params
from gateway.errors import InvalidRequest
from gateway.model import Role
from gateway.rpc.table import MethodTable

methods = MethodTable()

MAX_NAME: Final = 256


class NodeEventParams(Params, frozen=True, rename={"payload_json": "payloadJSON"}):
    """An event of a node; ``payloadJSON`` (JSON text) wins over ``payload``."""

    event: NonEmpty
    payload: Any | UnsetType = UNSET
    payload_json: str | UnsetType = UNSET


class DescribeParams(Params, frozen=True):
    """Which node."""

    node_id: NonEmpty


class RenameParams(Params, frozen=True):
    """Which node, and its name."""

    node_id: NonEmpty
    display_name: Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]


@methods.method("node.list", scope=READ)
async def node_list(context: Context, params: NoParams) -> dict[str, Any]:
    """List paired and connected nodes."""
    services = context.services
    return {"ts": services.clock.now_ms(), "nodes": await services.node_directory.list()}


@methods.method("node.describe", scope=READ)
async def node_describe(context: Context, params: DescribeParams) -> dict[str, Any]:
    """Describe one node, paired or connected."""
    services = context.services
    node = await services.node_directory.describe(params.node_id)
    return {"ts": services.clock.now_ms(), **node}


@methods.method("node.rename", scope=PAIRING)
async def node_rename(context: Context, params: RenameParams) -> dict[str, Any]:
    """Give a node a name, which stays whatever it calls itself."""
    name = " ".join(params.display_name.split())
    if not name.isprintable() or not name:
        raise InvalidRequest("displayName must be a name that can be shown")
    await context.services.node_directory.rename(params.node_id, name)
    return {"nodeId": params.node_id, "displayName": name}


@methods.method("node.event", scope=None, role=Role.NODE)
async def node_event(context: Context, params: NodeEventParams) -> dict[str, Any]:
    """Take an event of a node; one of protocol 4 has to be approved."""
    await context.services.surfaces.check_heard(context.caller)
    return await context.services.node_events.handle(context.caller, params.event, _payload(params))


def _payload(params: NodeEventParams) -> Mapping[str, Any] | None:
    payload = params.payload
    if not isinstance(params.payload_json, UnsetType):
        try:
            payload = decode(params.payload_json.encode("utf-8", "surrogatepass"))
        except NotJson:
            return None
    return payload if isinstance(payload, dict) else None
