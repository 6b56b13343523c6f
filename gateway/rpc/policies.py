"""The policy of exec approvals: what may be run unasked, here and on nodes."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from gateway.app.context import Context
from gateway.core.access import ADMIN
from gateway.core.execpolicyfile import beyond_3
from gateway.core.frames import EncodeFailed, NotJson, decode, encode
from gateway.core.invocation import Ask
from gateway.core.params import SINCE_4, NonEmpty, NoParams, Params, given
from gateway.errors import Unavailable
from gateway.model import ExecPolicyFile
from gateway.rpc.table import MethodTable

methods = MethodTable()

Action = Literal["allow", "deny", "prompt"]

NODE_TIMEOUT_S: Final = 15.0
"""How long a node may take to read or write its policy."""


class ExecApprovalsSetParams(Params, frozen=True):
    """The whole new policy, and the hash of the one that it replaces."""

    file: ExecPolicyFile
    base_hash: NonEmpty | UnsetType = UNSET

    def violation(self, protocol: int) -> str | None:
        """Return what version 3 does not have."""
        return _violation(self.file, protocol)


class ExecApprovalsNodeGetParams(Params, frozen=True):
    """Which node."""

    node_id: NonEmpty


class NativeRule(Params, frozen=True):
    """A rule of a node that has a form of its own."""

    pattern: NonEmpty
    action: Action
    description: str | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET
    shells: list[NonEmpty] | UnsetType = UNSET


class NativePolicy(Params, frozen=True):
    """The policy of a node that has a form of its own."""

    rules: list[NativeRule]
    default_action: Action | UnsetType = UNSET


class ExecApprovalsNodeSetParams(Params, frozen=True):
    """Which node, its whole new policy (``native``: in the node's own form), and the hash of the old one."""

    node_id: NonEmpty
    file: ExecPolicyFile | UnsetType = UNSET
    native: Annotated[NativePolicy | UnsetType, SINCE_4] = UNSET
    base_hash: NonEmpty | UnsetType = UNSET

    def violation(self, protocol: int) -> str | None:
        """Return what the types do not say: one of both forms, the native one with a hash."""
        if (self.file is UNSET) == (self.native is UNSET):
            return "at root: must have required property 'file'"
        if self.native is not UNSET and self.base_hash is UNSET:
            return "at root: must have required property 'baseHash'"
        return _violation(self.file, protocol)


@methods.method("exec.approvals.get", scope=ADMIN)
async def exec_approvals_get(context: Context, params: NoParams) -> dict[str, Any]:
    """Read the policy, with the hash that guards its change."""
    return await context.services.policies.snapshot(context.caller.protocol)


@methods.method("exec.approvals.set", scope=ADMIN)
async def exec_approvals_set(context: Context, params: ExecApprovalsSetParams) -> dict[str, Any]:
    """Replace the policy, if it is still what the caller has read."""
    caller = context.caller
    return await context.services.policies.replace(
        params.file, given(params.base_hash, None), caller.protocol
    )


@methods.method("exec.approvals.node.get", scope=ADMIN, waits=True)
async def exec_approvals_node_get(
    context: Context, params: ExecApprovalsNodeGetParams
) -> msgspec.Raw:
    """Read the policy of a node, from the node."""
    return await _at_node(context, params.node_id, "get", {})


@methods.method("exec.approvals.node.set", scope=ADMIN, waits=True)
async def exec_approvals_node_set(
    context: Context, params: ExecApprovalsNodeSetParams
) -> msgspec.Raw:
    """Replace the policy of a node, at the node."""
    written = {"file": params.file, "native": params.native, "baseHash": params.base_hash}
    given_ = {name: value for name, value in written.items() if value is not UNSET}
    return await _at_node(context, params.node_id, "set", given_)


async def _at_node(
    context: Context, node_id: str, verb: str, params: dict[str, Any]
) -> msgspec.Raw:
    """Let a node read or write its policy; return what it answers, without a token.

    Raises as :meth:`gateway.app.invocations.Invocations.invoke`, and Unavailable for what is no policy.
    """
    once = context.services.entropy.uuid4()
    ask = Ask(
        node_id=node_id,
        command=f"system.execApprovals.{verb}",
        idempotency_key=once,
        fingerprint=once,
        timeout_s=NODE_TIMEOUT_S,
        params=params,
    )
    answer = await context.services.invocations.invoke(context.caller, ask)
    payload = answer["payload"]
    if not isinstance(payload, msgspec.Raw):
        raise _no_policy()  # nothing, or a text that is no JSON: a token may stand in it
    try:
        return msgspec.Raw(encode(_without_token(decode(bytes(payload)))))
    except (EncodeFailed, NotJson) as error:
        raise _no_policy() from error  # a number or a nesting that is not read here


def _without_token(policy: Any) -> dict[str, Any]:
    """Return a node's policy as operators may see it. Raises Unavailable for what is none."""
    if not isinstance(policy, dict):
        raise _no_policy()
    file = policy.get("file")
    socket = file.get("socket") if isinstance(file, dict) else None
    if isinstance(socket, dict):
        socket.pop("token", None)
    return policy


def _no_policy() -> Unavailable:
    return Unavailable("the node's answer is no policy of exec approvals")


def _violation(file: ExecPolicyFile | UnsetType, protocol: int) -> str | None:
    name = None if protocol >= 4 or isinstance(file, UnsetType) else beyond_3(file)
    return None if name is None else f"at /file: unexpected property '{name}'"
