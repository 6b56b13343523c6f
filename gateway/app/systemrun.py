"""``system.run`` on a node: an approval that it names must be its own, for exactly this.

What a client says of approvals counts for nothing: ``approved`` and ``approvalDecision`` go to the node
only as what this gateway knows itself. An answer of allow-once serves once. With an approved command goes
what the protocol says of it and nothing else: nobody was shown what a node may make of another param.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.app.approvals import Approvals
from gateway.app.context import Caller
from gateway.core.approval import Approval, visible_text
from gateway.core.execcommand import texts_of
from gateway.errors import InvalidRequest
from gateway.model import Decision

_CLAIMS: Final = ("approved", "approvalDecision")
_APPROVED: Final = frozenset(
    {
        "command",
        "rawCommand",
        "systemRunPlan",
        "cwd",
        "env",
        "timeoutMs",
        "needsScreenRecording",
        "agentId",
        "sessionKey",
        "suppressNotifyOnExit",
    }
)
"""The params that go with an approved command; an ``env`` is empty then."""
_ALLOWED: Final = (Decision.ALLOW_ONCE, Decision.ALLOW_ALWAYS)
_TEXTS: Final = {
    "MISSING_RUN_ID": "approval override requires params.runId",
    "UNKNOWN_APPROVAL_ID": "unknown or expired approval id",
    "APPROVAL_EXPIRED": "approval expired",
    "APPROVAL_NODE_BINDING_MISSING": "approval id missing node binding",
    "APPROVAL_NODE_MISMATCH": "approval id not valid for this node",
    "APPROVAL_DEVICE_MISMATCH": "approval id not valid for this device",
    "APPROVAL_CLIENT_MISMATCH": "approval id not valid for this client",
    "APPROVAL_REQUEST_MISMATCH": "approval id does not match request",
    "APPROVAL_REQUIRED": "approval required",
}


def gated(
    approvals: Approvals, caller: Caller, node_id: str, params: Mapping[str, Any], *, now_ms: int
) -> dict[str, Any]:
    """Return the params that a node is to get. Raises InvalidRequest with ``details.code``."""
    passed = {name: value for name, value in params.items() if name not in _CLAIMS}
    wanted = params.get("approvalDecision")
    if params.get("approved") is not True and wanted not in _ALLOWED:
        return passed
    run_id = params.get("runId")
    if not isinstance(run_id, str) or not run_id.strip():
        raise _refused("MISSING_RUN_ID")
    approval = approvals.get(run_id.strip())
    if approval is None:
        raise _refused("UNKNOWN_APPROVAL_ID", run_id)
    if now_ms > approval.expires_at_ms or not approvals.readable(approval):
        raise _refused("APPROVAL_EXPIRED", run_id)
    _check_binding(approval, caller, node_id, run_id)
    if not _means(approval, params):
        raise _refused("APPROVAL_REQUEST_MISMATCH", run_id)
    if approval.decision not in _ALLOWED or approval.used:
        raise _refused("APPROVAL_REQUIRED", run_id)
    always = approval.decision is Decision.ALLOW_ALWAYS
    approval.used = not always
    decision = wanted if always and wanted in _ALLOWED else Decision.ALLOW_ONCE
    return {
        **{name: value for name, value in passed.items() if name in _APPROVED},
        "runId": approval.id,
        "approved": True,
        "approvalDecision": Decision(decision).value,
    }


def _check_binding(approval: Approval, caller: Caller, node_id: str, run_id: str) -> None:
    """Raise unless an approval was asked by this caller, for this node."""
    question, asker = approval.question, approval.asker
    if question.node_id is None or question.host != "node":
        raise _refused("APPROVAL_NODE_BINDING_MISSING", run_id)
    if question.node_id != node_id:
        raise _refused("APPROVAL_NODE_MISMATCH", run_id)
    if asker.device_id is not None:
        if asker.device_id != caller.principal.device_id:
            raise _refused("APPROVAL_DEVICE_MISMATCH", run_id)
    elif asker.conn_id != caller.conn_id:
        raise _refused("APPROVAL_CLIENT_MISMATCH", run_id)


def _means(approval: Approval, params: Mapping[str, Any]) -> bool:
    """Whether what is to be run is what was asked."""
    question = approval.question
    argv = params.get("command")
    if not isinstance(argv, list) or not argv or not all(isinstance(word, str) for word in argv):
        return False
    said = [params.get(name) for name in ("cwd", "agentId", "sessionKey", "rawCommand")]
    if any(isinstance(text, str) and visible_text(text) != text for text in (*argv, *said)):
        return False  # what is shown of it is not what it is
    asked = (question.cwd, question.agent_id, question.session_key)
    if [text or None for text in said[:3]] != [text or None for text in asked]:
        return False
    if params.get("env"):
        return False  # nobody was shown it, and it may say what is run
    if question.argv:
        texts = (None, question.command, *texts_of(argv, certain=False))
        same = question.argv == tuple(argv) and said[3] in texts
    else:
        texts = (None, question.command)
        same = said[3] in texts and question.command in texts_of(argv)
    return same and _plan_says(params.get("systemRunPlan"), argv, said, texts)


def _plan_says(plan: Any, argv: list[str], said: list[Any], texts: Sequence[str | None]) -> bool:
    """Whether a plan that comes with a command says nothing else: a node may go by either."""
    if plan is None:
        return True
    if not isinstance(plan, Mapping) or plan.get("argv", argv) != argv:
        return False
    if plan.get("commandText") not in texts:
        return False
    names = ("cwd", "agentId", "sessionKey")
    return all(plan.get(name) in (None, text) for name, text in zip(names, said, strict=False))


def _refused(code: str, run_id: str | None = None) -> InvalidRequest:
    details = {"code": code} if run_id is None else {"code": code, "runId": run_id}
    return InvalidRequest(_TEXTS[code], details=details)
