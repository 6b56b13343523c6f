"""Work that waits for nodes: operators leave it, nodes fetch it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from gateway.app.context import Context
from gateway.app.nodepending import ITEM_TTL_S
from gateway.app.nodes import node_id
from gateway.core.access import WRITE
from gateway.core.params import NonEmpty, NoParams, Params, given
from gateway.errors import InvalidRequest
from gateway.model import Role
from gateway.rpc.table import MethodTable

methods = MethodTable()

DEFAULT_ITEMS = 4
MAX_IDS = 256


class NodePendingEnqueueParams(Params, frozen=True):
    """A question for a node's next contact."""

    node_id: NonEmpty
    type: Literal["status.request", "location.request"]
    priority: Literal["normal", "high"] | UnsetType = UNSET
    expires_in_ms: Annotated[int, msgspec.Meta(ge=1000, le=86_400_000)] | UnsetType = UNSET
    wake: bool | UnsetType = UNSET


class NodePendingDrainParams(Params, frozen=True):
    """How many questions at most."""

    max_items: Annotated[int, msgspec.Meta(ge=1, le=10)] | UnsetType = UNSET


class NodePendingAckParams(Params, frozen=True):
    """Which actions were run."""

    ids: Annotated[list[NonEmpty], msgspec.Meta(min_length=1)]


@methods.method("node.pending.enqueue", scope=WRITE)
async def node_pending_enqueue(
    context: Context, params: NodePendingEnqueueParams
) -> dict[str, Any]:
    """Leave a question for a node, which it fetches at its next contact; it is not woken."""
    services, key = context.services, params.node_id
    if services.nodes.session(key) is None:
        device = (await services.store.get_pairing(key)).device
        if device is None or Role.NODE not in device.roles:
            raise InvalidRequest("unknown nodeId")
    ttl_s = given(params.expires_in_ms, round(ITEM_TTL_S * 1000)) / 1000
    revision, item = services.node_pending.enqueue(
        key, params.type, priority=given(params.priority, "normal"), ttl_s=ttl_s
    )
    return {
        "nodeId": key,
        "revision": revision,
        "queued": item.shape(),
        "wakeTriggered": False,  # there is no push service
    }


@methods.method("node.pending.drain", scope=None, role=Role.NODE)
def node_pending_drain(context: Context, params: NodePendingDrainParams) -> dict[str, Any]:
    """Fetch the questions that wait for this node, and forget them."""
    pending = context.services.node_pending
    return pending.drain(node_id(context.caller), given(params.max_items, DEFAULT_ITEMS))


@methods.method("node.pending.pull", scope=None, role=Role.NODE)
def node_pending_pull(context: Context, params: NoParams) -> dict[str, Any]:
    """Fetch the commands that wait until this node is in the foreground."""
    key, services = node_id(context.caller), context.services
    session = services.nodes.session(key)
    if session is None or session.connection.conn_id != context.caller.conn_id:
        return {"nodeId": key, "actions": []}  # a newer connection is the node
    actions = services.node_pending.pull(key, session.live.commands)
    return {"nodeId": key, "actions": [action.shape() for action in actions]}


@methods.method("node.pending.ack", scope=None, role=Role.NODE)
def node_pending_ack(context: Context, params: NodePendingAckParams) -> dict[str, Any]:
    """Say which of the fetched commands were run."""
    key = node_id(context.caller)
    if len(params.ids) > MAX_IDS:
        raise InvalidRequest(f"at most {MAX_IDS} ids")
    acked, remaining = context.services.node_pending.acknowledge(key, params.ids)
    return {"nodeId": key, "ackedIds": acked, "remainingCount": remaining}


@methods.method("skills.bins", scope=None, role=Role.NODE)
def skills_bins(context: Context, params: NoParams) -> dict[str, Any]:
    """List the programs that skills use; there are no skills here, so there are none."""
    return {"bins": []}
