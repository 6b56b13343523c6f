"""Asking nodes to do something, and what they answer."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from gateway.app.context import Context
from gateway.app.nodegate import check_command, too_deep
from gateway.app.nodes import node_id
from gateway.core.access import ADMIN, WRITE
from gateway.core.frames import EncodeFailed, decode
from gateway.core.incoming import fingerprint
from gateway.core.invocation import (
    DEFAULT_TIMEOUT_MS,
    MAX_CHUNK_BYTES,
    Ask,
    End,
    Outcome,
    answered,
    failed,
)
from gateway.core.nodecommands import needs_admin
from gateway.core.params import SINCE_4, Natural, NonEmpty, Params, given
from gateway.errors import InvalidRequest
from gateway.model import Role
from gateway.rpc.common import MAX_KEY_CHARS, MAX_OFFSET
from gateway.rpc.table import MethodTable

methods = MethodTable()

Key = Annotated[str, Meta(min_length=1, max_length=MAX_KEY_CHARS)]


class InvokeParams(Params, frozen=True):
    """A command for a node. ``timeoutMs`` is 30,000 unless given, and at most ``limits.node_timeout_s``."""

    node_id: NonEmpty
    command: NonEmpty
    idempotency_key: Key
    params: Any | UnsetType = UNSET
    timeout_ms: Annotated[int, Meta(ge=0, le=MAX_OFFSET)] | UnsetType = UNSET
    session_key: Annotated[Key, SINCE_4] | UnsetType = UNSET
    turn_source_channel: Annotated[str, SINCE_4] | UnsetType = UNSET
    turn_source_to: Annotated[str, SINCE_4] | UnsetType = UNSET
    turn_source_account_id: Annotated[str, SINCE_4] | UnsetType = UNSET
    turn_source_thread_id: Annotated[str | float, SINCE_4] | UnsetType = UNSET


class NodeErrorParams(Params, frozen=True):
    """Why a node did not do what it was asked."""

    code: NonEmpty | UnsetType = UNSET
    message: NonEmpty | UnsetType = UNSET


class ResultParams(
    Params, frozen=True, rename={"node_id": "nodeId", "payload_json": "payloadJSON"}
):
    """A node's answer: ``payloadJSON`` (JSON text) or ``payload`` if it is ``ok``, else ``error``."""

    id: NonEmpty
    node_id: NonEmpty
    ok: bool
    payload: msgspec.Raw | UnsetType = UNSET
    payload_json: msgspec.Raw | UnsetType = UNSET
    error: NodeErrorParams | UnsetType | None = UNSET


class ProgressParams(Params, frozen=True):
    """A piece of what a command puts out; ``seq`` counts from 0."""

    invoke_id: NonEmpty
    node_id: NonEmpty
    seq: Natural
    chunk: Annotated[str, Meta(max_length=MAX_CHUNK_BYTES)]

    def violation(self, protocol: int) -> str | None:
        """Return what the type does not say: the chunk is bounded in bytes."""
        if len(self.chunk.encode("utf-8", "surrogatepass")) > MAX_CHUNK_BYTES:
            return f"at /chunk: must not have more than {MAX_CHUNK_BYTES} bytes"
        return None


def _scope(protocol: int, params: InvokeParams | None) -> str:
    return ADMIN if params is not None and needs_admin(params.command) else WRITE


@methods.method("node.invoke", scope=_scope, waits=True)
async def node_invoke(context: Context, params: InvokeParams) -> dict[str, Any]:
    """Ask a node to do something, and wait for its answer."""
    check_command(params.command)
    asked = (params.node_id, params.command, given(params.params, None))
    try:
        digest = fingerprint(*asked, given(params.session_key, None))
    except EncodeFailed as error:
        raise too_deep() from error
    ask = Ask(
        node_id=params.node_id,
        command=params.command,
        idempotency_key=params.idempotency_key,
        fingerprint=digest,
        timeout_s=given(params.timeout_ms, DEFAULT_TIMEOUT_MS) / 1000,
        params=params.params,
        session_key=given(params.session_key, None),
    )
    return await context.services.invocations.invoke(context.caller, ask)


@methods.method("node.invoke.result", scope=None, role=Role.NODE)
def node_invoke_result(context: Context, params: ResultParams) -> dict[str, Any]:
    """Answer what this node was asked."""
    _check_node(context, params.node_id)
    services = context.services
    outcome = _outcome(params, services.limits.node_result_bytes)
    taken = services.invocations.result(context.caller, params.id, outcome)
    return {"ok": True} if taken else {"ok": True, "ignored": True}


@methods.method("node.invoke.progress", scope=None, role=Role.NODE)
def node_invoke_progress(context: Context, params: ProgressParams) -> dict[str, Any]:
    """Tell how far this node is with what it was asked."""
    _check_node(context, params.node_id)
    invocations = context.services.invocations
    taken = invocations.progress(context.caller, params.invoke_id, params.seq, params.chunk)
    return {"ok": True, "ignored": not taken}


def _check_node(context: Context, claimed: str) -> None:
    if claimed != node_id(context.caller):
        raise InvalidRequest("nodeId mismatch")


def _outcome(params: ResultParams, most: int) -> Outcome:
    """Return what a node says: of ``payloadJSON`` null is dropped, and what is no text is a payload.

    A text of more than ``most`` bytes is not read: nothing but its size is told of it.
    """
    if not params.ok:
        error = params.error or NodeErrorParams()
        assert not isinstance(error, UnsetType)
        return failed(given(error.code, None), given(error.message, None))
    payload = None if isinstance(params.payload, UnsetType) else bytes(params.payload)
    text: str | None = None
    size = 0
    if not isinstance(params.payload_json, UnsetType):
        raw = bytes(params.payload_json)
        if raw.startswith(b'"'):
            size = len(raw)
            if size > most:
                return Outcome(End.OK, size=size)
            text = decode(raw)
        elif raw != b"null" and payload is None:
            payload = raw
    return answered(payload, text, size)
