"""Who is told of a question."""

from __future__ import annotations

from gateway.app.notices import Notices
from gateway.core.approval import Approval, Asker, Question
from tests.app.harness import Gate


def approval() -> Approval:
    """Return a question of a run."""
    return Approval(
        id="a1",
        question=Question(command="ls"),
        asker=Asker(actor="run:r1"),
        created_at_ms=0,
        expires_at_ms=1,
        deadline=1.0,
    )


def test_whom_a_question_reaches(gate: Gate) -> None:
    """Only operators with the scope are reached, and in version 4 only clients that show questions."""
    notices = Notices(gate.clock, gate.services.hub)
    deaf = [
        gate.node(),
        gate.client(3, scopes=["operator.write"]),
        gate.client(4, scopes=["operator.write"], caps=["approvals"]),
        gate.client(4),
    ]
    assert not notices.reaches_anybody(approval())
    told = [
        gate.client(3, scopes=["operator.approvals"]),
        gate.client(4, scopes=["operator.approvals"], caps=["approvals"]),
    ]
    assert notices.reaches_anybody(approval())
    notices.requested(approval())
    for client in deaf:
        assert client.events("exec.approval.requested") == []
    three, four = (client.events("exec.approval.requested") for client in told)
    assert "runId" in four[0]["request"]
    assert "runId" not in three[0]["request"]
