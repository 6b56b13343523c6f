"""Devices of role node: who they are, and what they tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import UNSET, UnsetType

from gateway.app.context import Context
from gateway.core.access import READ
from gateway.core.frames import NotJson, decode
from gateway.core.params import NonEmpty, NoParams, Params
from gateway.model import Role
from gateway.rpc.table import MethodTable

methods = MethodTable()


class NodeEventParams(Params, frozen=True, rename={"payload_json": "payloadJSON"}):
    """An event of a node; ``payloadJSON`` (JSON text) wins over ``payload``."""

    event: NonEmpty
    payload: Any | UnsetType = UNSET
    payload_json: str | UnsetType = UNSET


@methods.method("node.list", scope=READ)
async def node_list(context: Context, params: NoParams) -> dict[str, Any]:
    """List paired and connected nodes."""
    services = context.services
    return {"ts": services.clock.now_ms(), "nodes": await services.nodes.list()}


@methods.method("node.event", scope=None, role=Role.NODE)
async def node_event(context: Context, params: NodeEventParams) -> dict[str, Any]:
    """Take an event of a node: a voice transcript starts a turn."""
    if params.event != "voice.transcript":
        return _not_handled(params.event, "unsupported_event")
    payload = _payload(params)
    if payload is None:
        return _not_handled(params.event, "invalid_payload")
    await context.services.voice.transcript(context.caller, payload)
    return {"ok": True}


def _payload(params: NodeEventParams) -> Mapping[str, Any] | None:
    payload = params.payload
    if not isinstance(params.payload_json, UnsetType):
        try:
            payload = decode(params.payload_json.encode("utf-8", "surrogatepass"))
        except NotJson:
            return None
    return payload if isinstance(payload, dict) else None


def _not_handled(event: str, reason: str) -> dict[str, Any]:
    return {"ok": True, "event": event[:128], "handled": False, "reason": reason}
