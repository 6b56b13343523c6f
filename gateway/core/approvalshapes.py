"""How approvals look on the wire: events, answers, and the snapshots of version 4."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

from gateway.core.approval import Approval, ApprovalState, Reason
from gateway.model import Decision

_STATUS: Final = {
    ApprovalState.EXPIRED: "expired",
    ApprovalState.WITHDRAWN: "cancelled",
    ApprovalState.NO_ROUTE: "denied",
}


def request_shape(approval: Approval, protocol: int) -> dict[str, Any]:
    """Return what is asked, as both events carry it; version 4 tells more."""
    question = approval.question
    shape: dict[str, Any] = {
        "command": question.command,
        "cwd": question.cwd,
        "nodeId": question.node_id,
        "host": question.host,
        "security": question.security,
        "ask": question.ask,
        "agentId": question.agent_id,
        "resolvedPath": question.resolved_path,
        "sessionKey": question.session_key,
    }
    if protocol >= 4:
        shape |= {
            "commandArgv": list(question.argv),
            "commandPreview": question.preview,
            "warningText": question.warning,
            "runId": question.run_id,
            "toolCallId": question.tool_call_id,
            "allowedDecisions": [decision.value for decision in question.decisions],
        }
    return shape


def pending_shape(approval: Approval, protocol: int) -> dict[str, Any]:
    """Return the payload of ``exec.approval.requested``, and a row of ``exec.approval.list``."""
    return {
        "id": approval.id,
        "request": request_shape(approval, protocol),
        "createdAtMs": approval.created_at_ms,
        "expiresAtMs": approval.expires_at_ms,
    }


def resolved_shape(approval: Approval, protocol: int) -> dict[str, Any]:
    """Return the payload of ``exec.approval.resolved``; without a decision it ended without one."""
    shape = {
        "id": approval.id,
        "decision": approval.decision,
        "resolvedBy": approval.resolved_by,
        "ts": approval.resolved_at_ms,
        "request": request_shape(approval, protocol),
    }
    if protocol >= 4:
        shape["reason"] = _reason(approval)
    return shape


def decision_shape(approval: Approval) -> dict[str, Any]:
    """Return the last answer to who asked."""
    return {
        "id": approval.id,
        "decision": approval.decision,
        "createdAtMs": approval.created_at_ms,
        "expiresAtMs": approval.expires_at_ms,
    }


def summary(approval: Approval) -> dict[str, Any]:
    """Return the answer of ``exec.approval.get``."""
    shown = presentation(approval)
    names = ("commandText", "commandPreview", "allowedDecisions", "host", "nodeId", "agentId")
    return {
        "id": approval.id,
        **{name: shown[name] for name in names},
        "expiresAtMs": approval.expires_at_ms,
    }


def presentation(approval: Approval) -> dict[str, Any]:
    """Return ``ExecApprovalPresentation``."""
    question = approval.question
    return {
        "kind": "exec",
        "commandText": question.command,
        "commandPreview": question.preview,
        "warningText": question.warning,
        "host": question.host,
        "nodeId": question.node_id or None,
        "agentId": question.agent_id or None,
        "allowedDecisions": [decision.value for decision in question.decisions],
    }


def snapshot(approval: Approval) -> dict[str, Any]:
    """Return ``ApprovalSnapshot``: what is known of it, pending or not."""
    question = approval.question
    shape: dict[str, Any] = {
        "id": approval.id,
        "urlPath": f"/approve/{quote(approval.id, safe='')}",
        "createdAtMs": approval.created_at_ms,
        "expiresAtMs": approval.expires_at_ms,
        "presentation": presentation(approval),
    }
    if approval.pending:
        shape["status"] = "pending"
        if question.session_key:
            shape["sourceSessionKey"] = question.session_key
        return shape
    source = {"agentId": question.agent_id, "sessionKey": question.session_key}
    shape |= {
        "resolvedAtMs": approval.resolved_at_ms,
        "reason": _reason(approval),
        "resolver": _resolver(approval),
        "source": {name: value for name, value in source.items() if value},
    }
    if approval.decision is None:
        shape["status"] = _STATUS[approval.state]
        if approval.state is ApprovalState.NO_ROUTE:
            shape["decision"] = Decision.DENY
    else:
        shape["decision"] = approval.decision
        shape["status"] = "denied" if approval.decision is Decision.DENY else "allowed"
    return shape


def session_shape(approval: Approval, session_key: str, now_ms: int) -> dict[str, Any]:
    """Return ``SessionApprovalEvent``."""
    return {
        "sessionKey": session_key,
        "phase": "pending" if approval.pending else "terminal",
        "approval": snapshot(approval),
        "updatedAtMs": now_ms,
    }


def stream_data(approval: Approval) -> dict[str, Any]:
    """Return the data of a run's event on stream ``approval``: that it waits, or waits no more."""
    question = approval.question
    data: dict[str, Any] = {
        "phase": "requested" if approval.pending else "resolved",
        "kind": "exec",
        "status": _stream_status(approval),
        "title": "Command approval requested" if approval.pending else "Command approval resolved",
        "approvalId": approval.id,
        "command": question.command,
    }
    if question.tool_call_id is not None:
        data["toolCallId"] = question.tool_call_id
    if approval.pending:
        data["expiresAtMs"] = approval.expires_at_ms
    else:
        data |= {"decision": approval.decision, "reason": _reason(approval)}
    return data


def _stream_status(approval: Approval) -> str:
    if approval.pending:
        return "pending"
    if approval.decision is None:
        return "unavailable"
    return "denied" if approval.decision is Decision.DENY else "approved"


def _reason(approval: Approval) -> Reason | None:
    return Reason.USER if approval.reason is Reason.POLICY else approval.reason


def _resolver(approval: Approval) -> dict[str, Any]:
    if approval.reason is not Reason.USER:
        name = "no-approval-route" if approval.reason is Reason.NO_ROUTE else approval.reason
        return {"kind": "system", "id": name}
    return {"kind": "device", "id": approval.resolver}
