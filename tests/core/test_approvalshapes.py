"""The wire forms of approvals fit the schemas of version 4, however they end."""

from __future__ import annotations

import msgspec
import pytest

from gateway.core.approval import Approval, Asker, Question, Reason
from gateway.core.approvalshapes import (
    decision_shape,
    pending_shape,
    request_shape,
    resolved_shape,
    session_shape,
    snapshot,
    stream_data,
    summary,
)
from gateway.model import Decision
from tests.core.schemas import violations

ENDS = [
    None,
    *Decision,
    *(reason for reason in Reason if reason not in (Reason.USER, Reason.POLICY)),
]
RECORDED_REQUEST = {
    "command": "echo hi",
    "cwd": "/tmp",
    "nodeId": None,
    "host": "gateway",
    "security": "allowlist",
    "ask": "always",
    "agentId": "main",
    "resolvedPath": None,
    "sessionKey": "agent:main:main",
}


def ended(end: Decision | Reason | None, question: Question | None = None) -> Approval:
    """Return an approval that has ended, or is pending."""
    approval = Approval(
        id="a 1",
        question=question or Question(command="ls", session_key="agent:main:main", agent_id="main"),
        asker=Asker(actor="x"),
        created_at_ms=1000,
        expires_at_ms=2000,
        deadline=1.0,
    )
    if isinstance(end, Decision):
        approval.resolve(end, by="Ann", resolver="d1", now_ms=1500)
    elif end is not None:
        approval.end(end, 1500)
    return approval


@pytest.mark.parametrize("end", ENDS)
def test_snapshots_fit_the_schema(end: Decision | Reason | None) -> None:
    """A snapshot and the event of a session are valid in every state, also with the least known."""
    for question in (None, Question(command="ls")):
        approval = ended(end, question)
        shapes = {
            "ApprovalGetResult": {"approval": snapshot(approval)},
            "SessionApprovalEvent": session_shape(approval, "agent:main:main", 3000),
        }
        for name, shape in shapes.items():
            assert violations(name, 4, msgspec.to_builtins(shape)) == []


@pytest.mark.parametrize("decision", [Decision.ALLOW_ONCE, Decision.DENY])
def test_what_the_policy_decided(decision: Decision) -> None:
    """The protocol has no word for the policy as a reason: it is seen by who has resolved it."""
    approval = ended(None)
    assert approval.rule(decision, 1500)
    assert not approval.rule(Decision.DENY, 1600)
    shape = msgspec.to_builtins(snapshot(approval))

    assert violations("ApprovalGetResult", 4, {"approval": shape}) == []
    assert (shape["decision"], shape["reason"]) == (decision.value, "user")
    assert shape["resolver"] == {"kind": "system", "id": "policy"}
    assert stream_data(approval)["reason"] == "user"
    assert resolved_shape(approval, 4)["reason"] == "user"
    assert resolved_shape(approval, 3)["resolvedBy"] == "exec policy"


def test_the_recorded_snapshot() -> None:
    """A question that nobody could answer looks as a real gateway shows it."""
    question = Question(
        command="echo hi",
        host="gateway",
        agent_id="main",
        session_key="agent:main:main",
        decisions=(Decision.ALLOW_ONCE, Decision.DENY),
    )
    assert msgspec.to_builtins(snapshot(ended(Reason.NO_ROUTE, question))) == {
        "id": "a 1",
        "status": "denied",
        "presentation": {
            "kind": "exec",
            "commandText": "echo hi",
            "commandPreview": None,
            "warningText": None,
            "host": "gateway",
            "nodeId": None,
            "agentId": "main",
            "allowedDecisions": ["allow-once", "deny"],
        },
        "urlPath": "/approve/a%201",
        "createdAtMs": 1000,
        "expiresAtMs": 2000,
        "resolvedAtMs": 1500,
        "reason": "no-route",
        "decision": "deny",
        "source": {"agentId": "main", "sessionKey": "agent:main:main"},
        "resolver": {"kind": "system", "id": "no-approval-route"},
    }


def test_events() -> None:
    """The events carry what is asked: in version 3 the recorded keys, in version 4 more."""
    question = Question(
        command="echo hi",
        argv=("echo", "hi"),
        cwd="/tmp",
        host="gateway",
        security="allowlist",
        ask="always",
        agent_id="main",
        session_key="agent:main:main",
        run_id="r1",
    )
    approval = ended(None, question)
    assert pending_shape(approval, 3) == {
        "id": "a 1",
        "request": RECORDED_REQUEST,
        "createdAtMs": 1000,
        "expiresAtMs": 2000,
    }
    more = request_shape(approval, 4)
    assert more.items() >= RECORDED_REQUEST.items()
    assert (more["commandArgv"], more["runId"]) == (["echo", "hi"], "r1")
    assert more["allowedDecisions"] == ["allow-once", "allow-always", "deny"]

    decided = ended(Decision.ALLOW_ONCE, question)
    assert resolved_shape(decided, 3) == {
        "id": "a 1",
        "decision": "allow-once",
        "resolvedBy": "Ann",
        "ts": 1500,
        "request": RECORDED_REQUEST,
    }
    assert resolved_shape(ended(Reason.TIMEOUT), 4)["reason"] == "timeout"
    assert resolved_shape(ended(Reason.TIMEOUT), 4)["decision"] is None


def test_answers() -> None:
    """Who asked gets the decision, or null; a summary has what a person needs to decide."""
    assert decision_shape(ended(Reason.TIMEOUT)) == {
        "id": "a 1",
        "decision": None,
        "createdAtMs": 1000,
        "expiresAtMs": 2000,
    }
    assert summary(ended(None)) == {
        "id": "a 1",
        "commandText": "ls",
        "commandPreview": None,
        "allowedDecisions": ["allow-once", "allow-always", "deny"],
        "host": None,
        "nodeId": None,
        "agentId": "main",
        "expiresAtMs": 2000,
    }


def test_the_event_of_a_run() -> None:
    """On its stream a run says that it waits, for which tool call, and how that ended."""
    question = Question(command="ls", tool_call_id="t1")
    waiting = stream_data(ended(None, question))
    assert (waiting["phase"], waiting["status"]) == ("requested", "pending")
    assert (waiting["approvalId"], waiting["toolCallId"]) == ("a 1", "t1")
    statuses = {end: stream_data(ended(end))["status"] for end in ENDS[1:] if end is not None}
    assert statuses == {
        Decision.ALLOW_ONCE: "approved",
        Decision.ALLOW_ALWAYS: "approved",
        Decision.DENY: "denied",
        Reason.TIMEOUT: "unavailable",
        Reason.NO_ROUTE: "unavailable",
        Reason.RUN_ABORTED: "unavailable",
        Reason.GATEWAY_RESTART: "unavailable",
    }
    assert "toolCallId" not in stream_data(ended(None))
