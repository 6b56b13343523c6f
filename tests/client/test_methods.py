"""Typed calls: what they ask, and what they make of the answers of both protocol versions."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred

from gateway.client.errors import UnexpectedAnswer
from gateway.client.methods import ChatMessage, Methods
from gateway.model import Position
from gateway.testing import result_of


class Client(Methods):
    """Answers every call with a payload, and remembers what was asked."""

    def __init__(self, payload):
        self.payload = payload
        self.asked = None

    async def call(self, method, params=None, *, timeout=None, resend=False):
        self.asked = method, params, timeout, resend
        return self.payload


def ask(payload, name, *arguments, **more):
    client = Client(payload)
    answer = result_of(Deferred.fromCoroutine(getattr(client, name)(*arguments, **more)))
    return answer, client.asked


POSITION = Position(epoch="e", seq=3)
RUN = {"runId": "r", "state": "done", "lastSeq": 9, "epoch": "e", "error": None, "new": 1}
CONNECTION = {"connId": "c", "peer": "127.0.0.1", "cause": "drain", "code": 1012, "new": {}}
MESSAGE = {"role": "user", "content": "hi", "timestamp": 1, "__openclaw": {"id": "m"}}


@pytest.mark.parametrize(
    ("call", "asked", "payload", "seen"),
    [
        (("health",), ("health", {}), {"ok": True, "ts": 5, "x": 1}, {"ok": True, "ts": 5}),
        (("status",), ("status", {}), {"runtimeVersion": "1", "pid": 7}, {"pid": 7}),
        (("status",), ("status", {}), {"sessions": {"count": 2}}, {"runtime_version": None}),
        (
            ("sessions_list", {"limit": 2, "search": "a"}),
            ("sessions.list", {"limit": 2, "search": "a"}),
            {"sessions": [{"key": "k", "updatedAt": 1}], "count": 1, "hasMore": False},
            {"count": 1, "has_more": False, "next_offset": None},
        ),
        (
            ("chat_history", {"limit": 1}),
            ("chat.history", {"sessionKey": "main", "limit": 1}),
            {"sessionKey": "main", "messages": [MESSAGE], "thinkingLevel": "off"},
            {"session_key": "main", "session_id": None},
        ),
        (
            ("runs_read", {"run_id": "r", "after": POSITION, "limit": 5}),
            ("runs.read", {"runId": "r", "after": {"epoch": "e", "seq": 3}, "limit": 5}),
            {
                "status": "gap",
                "epoch": "e",
                "events": [{"seq": 1, "stream": "tool", "data": {"a": 1}, "ts": 2}],
                "next": {"epoch": "e", "seq": 3},
                "snapshot": {"text": "t", "state": "done"},
            },
            {"status": "gap", "next": POSITION},
        ),
        (
            ("runs_read", {"run_id": "r"}),
            ("runs.read", {"runId": "r"}),
            {"status": "unknown", "events": []},
            {"status": "unknown", "next": None, "epoch": None},
        ),
        (
            ("runs_describe", {"run_id": "r"}),
            ("runs.describe", {"runId": "r"}),
            {"run": RUN},
            {"state": "done", "last_seq": 9},
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_looking(call, asked, payload, seen):
    """A call that looks asks for what was given, may be repeated, and reads what it knows."""
    name, given = (*call, {})[:2]

    answer, (method, params, timeout, resend) = ask(payload, name, **given)

    assert (method, params) == asked
    assert (timeout, resend) == (None, True)
    assert {key: getattr(answer, key) for key in seen} == seen


def test_lists():
    """Lists of runs and of connections come as lists of structs."""
    runs, asked_runs = ask({"runs": [RUN]}, "runs_list", "main", state="done", limit=3)
    now, _ = ask({"connections": [CONNECTION]}, "connections_list")
    closed, asked_closed = ask({"connections": [CONNECTION]}, "connections_closed", limit=3)

    assert [run.run_id for run in runs] == ["r"]
    assert asked_runs[1] == {"sessionKey": "main", "state": "done", "limit": 3}
    assert now == closed
    assert (closed[0].cause, closed[0].code) == ("drain", 1012)
    assert asked_closed[:2] == ("connections.closed", {"limit": 3})


def test_aborting_is_not_repeated():
    """Aborting is sent once: sent again it might end what began since."""
    answer, asked = ask({"ok": True, "aborted": True, "runIds": ["r"]}, "chat_abort", run_id="r")

    assert (answer.aborted, answer.run_ids) == (True, ["r"])
    assert asked == ("chat.abort", {"sessionKey": "main", "runId": "r"}, None, False)


def test_approvals():
    """What waits is a list of structs, with what each version tells; an answer is sent once."""
    asked = {"command": "ls", "cwd": None, "agentId": "main", "nodeId": None}
    row = {"id": "a", "request": asked, "createdAtMs": 1, "expiresAtMs": 2}
    rows, listed = ask([row], "exec_approval_list")
    nothing, answered = ask({"ok": True}, "exec_approval_resolve", "a", "deny")

    assert (rows[0].id, rows[0].request.agent_id, rows[0].request.run_id) == ("a", "main", None)
    assert listed == ("exec.approval.list", {}, None, True)
    assert nothing is None
    assert answered == ("exec.approval.resolve", {"id": "a", "decision": "deny"}, None, False)


def test_waiting_has_its_time():
    """The answer to a wait may take a little longer than the wait."""
    answer, asked = ask({"runId": "r", "status": "timeout"}, "agent_wait", "r", timeout_s=60)

    assert (answer.status, answer.ended_at) == ("timeout", None)
    assert asked == ("agent.wait", {"runId": "r", "timeoutMs": 60_000}, 75.0, True)


def test_the_text_of_a_message():
    """A message has its text in one piece or in blocks."""
    block = {"type": "text", "text": "a"}

    assert ChatMessage(role="user", content="a").text == "a"
    assert ChatMessage(role="x", content=[block, {"type": "image"}, block]).text == "aa"


def test_an_answer_of_another_shape():
    """An answer that lacks what a struct needs is an error that holds it."""
    with pytest.raises(UnexpectedAnswer, match=r"runs\.describe: the gateway's answer") as raised:
        ask({"run": {}}, "runs_describe", "r")

    assert raised.value.method == "runs.describe"
    assert raised.value.payload == {"run": {}}
