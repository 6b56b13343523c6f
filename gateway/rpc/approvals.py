"""Exec approvals: what agents and clients ask operators, and their answers."""

from __future__ import annotations

import re
from typing import Any, Final, NoReturn

from msgspec import UNSET, UnsetType

from gateway.app.context import Context
from gateway.app.notices import viewer_of
from gateway.core.approval import (
    ALL_DECISIONS,
    MAX_ID_CHARS,
    ONCE_OR_NOT,
    SCOPE,
    Approval,
    Asker,
    Question,
    Verdict,
)
from gateway.core.approvalshapes import decision_shape, pending_shape, snapshot, summary
from gateway.core.params import NoParams, given
from gateway.errors import InvalidRequest
from gateway.model import Decision
from gateway.rpc.approval_params import (
    ApprovalGetParams,
    ApprovalHistoryParams,
    ApprovalResolveParams,
    ExecApprovalIdParams,
    ExecApprovalRequestParams,
    ExecApprovalResolveParams,
)
from gateway.rpc.table import MethodTable, TwoPhase

methods = MethodTable()

DEFAULT_TIMEOUT_S: Final = {3: 120.0, 4: 1800.0}
MAX_TIMEOUT_MS: Final = 86_400_000
DEFAULT_PAGE: Final = 50
MAX_REVIEWERS: Final = 64

_NAMEABLE: Final = re.compile(r"[A-Za-z0-9._:@+-]*")
"""Ids are shown to people, who type and paste them: nothing in one may mean something to a shell."""

_NOT_FOUND: Final = {
    "reason": "APPROVAL_NOT_FOUND",
    "remediation": "Ask for the action again: questions end with their time and with the gateway.",
}


@methods.method("exec.approval.request", scope=SCOPE, waits=True)
async def exec_approval_request(
    context: Context, params: ExecApprovalRequestParams
) -> dict[str, Any] | TwoPhase:
    """Ask operators to approve a command; answered when decided or expired (twoPhase: twice)."""
    caller, approvals = context.caller, context.services.approvals
    timeout_s = DEFAULT_TIMEOUT_S[caller.protocol]
    if params.timeout_ms is not UNSET:
        timeout_s = min(params.timeout_ms, MAX_TIMEOUT_MS) / 1000
    question, asker, chosen = (
        _question(context, params),
        _asker(context, params),
        _chosen_id(params),
    )
    ruling = await context.services.policies.of_client(
        question.agent_id, params.judged_command, question.security, question.ask
    )
    approval = approvals.open(
        question, asker, timeout_s=timeout_s, approval_id=chosen, ruling=ruling
    )

    async def final() -> dict[str, Any]:
        return decision_shape(await approvals.wait(approval))

    if not approval.pending or not given(params.two_phase, False):
        return await final()
    accepted = {
        "status": "accepted",
        "id": approval.id,
        "createdAtMs": approval.created_at_ms,
        "expiresAtMs": approval.expires_at_ms,
    }
    if caller.protocol >= 4:
        accepted["deliveryRoute"] = "approval-client"
    return TwoPhase(accepted, final())


@methods.method("exec.approval.waitDecision", scope=SCOPE, waits=True)
async def exec_approval_wait_decision(
    context: Context, params: ExecApprovalIdParams
) -> dict[str, Any]:
    """Wait for the decision of an approval; one that has ended can be asked for 15 seconds more."""
    approvals = context.services.approvals
    approval = approvals.find(params.id, viewer_of(context.caller))
    if approval is None or not approvals.readable(approval):
        raise InvalidRequest("approval expired or not found")
    await approvals.wait(approval)
    shape = decision_shape(approval)
    if approval.decision is None and context.caller.protocol >= 4:
        shape["terminalReason"] = approval.reason
    return shape


@methods.method("exec.approval.resolve", scope=SCOPE)
async def exec_approval_resolve(
    context: Context, params: ExecApprovalResolveParams
) -> dict[str, Any]:
    """Decide a pending approval: allow-once, allow-always or deny."""
    try:
        decision = Decision(params.decision)
    except ValueError:
        raise InvalidRequest("invalid decision") from None
    _no_grant(params.grant_expires_in_days)
    approval = context.services.approvals.find(params.id, viewer_of(context.caller))
    if approval is None:
        _unknown(context)
    kept = await _decide(context, approval, decision)
    if context.caller.protocol < 4 or kept is None:
        return {"ok": True}
    return {"ok": True, "policyEntryId": kept}


@methods.method("exec.approval.get", scope=SCOPE)
def exec_approval_get(context: Context, params: ExecApprovalIdParams) -> dict[str, Any]:
    """Show one pending exec approval; who looks gives it the time to be answered."""
    approval = context.services.approvals.find(params.id, viewer_of(context.caller))
    if approval is None or not approval.pending:
        _unknown(context)
    context.services.approvals.seen(approval)
    return summary(approval)


@methods.method("exec.approval.list", scope=SCOPE)
def exec_approval_list(context: Context, params: NoParams) -> list[dict[str, Any]]:
    """List the pending exec approvals that the caller may answer, the oldest first."""
    caller = context.caller
    pending = context.services.approvals.visible(viewer_of(caller))
    return [pending_shape(approval, caller.protocol) for approval in pending]


@methods.method("approval.get", scope=SCOPE)
def approval_get(context: Context, params: ApprovalGetParams) -> dict[str, Any]:
    """Show an approval of any kind, also one that has ended."""
    approval = context.services.approvals.find(params.id, viewer_of(context.caller))
    if approval is None:
        _unknown(context)
    return {"approval": snapshot(approval)}


@methods.method("approval.resolve", scope=SCOPE)
async def approval_resolve(context: Context, params: ApprovalResolveParams) -> dict[str, Any]:
    """Decide an approval of any kind; says whether this was the decision that counts."""
    _no_grant(params.grant_expires_in_days)
    approval = context.services.approvals.find(params.id, viewer_of(context.caller))
    if approval is None or params.kind != "exec":
        _unknown(context)
    if not approval.pending:
        return {"applied": False, "approval": snapshot(approval)}
    await _decide(context, approval, params.decision)
    return {"applied": True, "approval": snapshot(approval)}


@methods.method("approval.history", scope=SCOPE)
def approval_history(context: Context, params: ApprovalHistoryParams) -> dict[str, Any]:
    """List the approvals that have ended, the newest first, page by page."""
    ended = context.services.approvals.ended(viewer_of(context.caller))
    if given(params.kind, "exec") != "exec":
        ended = []
    if params.cursor is not UNSET:
        ids = [approval.id for approval in ended]
        if params.cursor not in ids:
            raise InvalidRequest("unknown or expired cursor")
        ended = ended[ids.index(params.cursor) + 1 :]
    limit = given(params.limit, DEFAULT_PAGE)
    page: dict[str, Any] = {"items": [snapshot(approval) for approval in ended[:limit]]}
    if len(ended) > limit:
        page["nextCursor"] = ended[limit - 1].id
    return page


def _question(context: Context, params: ExecApprovalRequestParams) -> Question:
    """Return what is asked. Raises InvalidRequest for what is missing."""
    command, plan = params.shown_command, given(params.system_run_plan, None)
    if command is None:
        raise InvalidRequest("command is required")
    if given(params.host, None) == "node":
        if not given(params.node_id, None):
            raise InvalidRequest("nodeId is required for host=node")
        if context.caller.protocol >= 4 and plan is None:
            raise InvalidRequest("systemRunPlan is required for host=node")
    preview = (plan or {}).get("commandPreview")
    ask, key = given(params.ask, None), given(params.session_key, None)
    # A version 4 asker that wants to be asked every time has no use for an answer that lasts.
    always = context.caller.protocol < 4 or (
        ask != "always" and params.unavailable_decisions is UNSET
    )
    return Question(
        command=command,
        argv=params.argv,
        preview=preview if isinstance(preview, str) else None,
        warning=given(params.warning_text, None),
        cwd=given(params.cwd, None),
        host=given(params.host, None),
        security=given(params.security, None),
        ask=ask,
        agent_id=given(params.agent_id, None),
        session_key=key,
        watched_key=None if key is None else context.services.agents.keys.canonical(key),
        node_id=given(params.node_id, None),
        resolved_path=given(params.resolved_path, None),
        run_id=given(params.run_id, None),
        tool_call_id=given(params.tool_call_id, None),
        decisions=ALL_DECISIONS if always else ONCE_OR_NOT,
    )


def _asker(context: Context, params: ExecApprovalRequestParams) -> Asker:
    reviewers = given(params.approval_reviewer_device_ids, [])
    if len(reviewers) > MAX_REVIEWERS or sum(map(len, reviewers)) > MAX_REVIEWERS * MAX_ID_CHARS:
        raise InvalidRequest(f"at most {MAX_REVIEWERS} reviewers")
    caller = context.caller
    return Asker(
        actor=caller.principal.actor,
        conn_id=caller.conn_id,
        device_id=caller.principal.device_id,
        principal=caller.principal,
        protocol=caller.protocol,
        reviewers=frozenset(reviewers),
    )


def _chosen_id(params: ExecApprovalRequestParams) -> str | None:
    """Return the id that the asker wants. Raises InvalidRequest for one that nobody could name."""
    chosen = given(params.id, "").strip()
    if chosen in (".", "..") or len(chosen) > MAX_ID_CHARS or not _NAMEABLE.fullmatch(chosen):
        raise InvalidRequest(
            f"an approval id is at most {MAX_ID_CHARS} letters, digits and ._:@+-, not . or .."
        )
    return chosen or None


async def _decide(context: Context, approval: Approval, decision: Decision) -> str | None:
    """Decide, and return the entry of the policy that comes of it, if one does.

    Raises InvalidRequest where it was decided otherwise, or can not be decided so.
    """
    verdict = context.services.approvals.resolve(approval, decision, context.caller)
    if verdict is Verdict.NOT_ALLOWED:
        raise InvalidRequest(
            "allow-always is unavailable: this has to be asked every time",
            details={"reason": "APPROVAL_ALLOW_ALWAYS_UNAVAILABLE"},
        )
    if verdict is Verdict.APPLIED:
        if decision is not Decision.ALLOW_ALWAYS:
            return None
        return await context.services.policies.keep(approval, approval.resolved_by or "")
    if context.caller.protocol < 4:
        _unknown(context)
    if verdict is Verdict.CONFLICT:
        raise InvalidRequest(
            "approval already resolved", details={"reason": "APPROVAL_ALREADY_RESOLVED"}
        )
    return None


def _no_grant(days: int | UnsetType) -> None:
    if days is not UNSET:
        raise InvalidRequest("grantExpiresInDays is for standing grants, which there are none of")


def _unknown(context: Context) -> NoReturn:
    if context.caller.protocol < 4:
        raise InvalidRequest("unknown approval id")
    raise InvalidRequest("unknown or expired approval id", details=_NOT_FOUND)
