"""The methods of approvals, as both versions know them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.app.harness import Client, Gate, assert_fits

APPROVALS = ["operator.approvals"]
ASKED = {
    "id": "ap-1",
    "command": "echo hi",
    "cwd": "/tmp",
    "host": "gateway",
    "security": "allowlist",
    "ask": "always",
    "agentId": "main",
    "sessionKey": "agent:main:main",
    "timeoutMs": 5000,
}
NOT_FOUND = "unknown or expired approval id"
RESOLVED = {
    "code": "INVALID_REQUEST",
    "message": "approval already resolved",
    "details": {"reason": "APPROVAL_ALREADY_RESOLVED"},
}


@pytest.fixture
def asker(gate: Gate) -> Client:
    """Return a plain client of version 4 that asks."""
    return gate.client(client="cli")


@pytest.fixture
def ui(gate: Gate) -> Client:
    """Return a client of version 4 that shows questions."""
    return gate.client(client="openclaw-control-ui", display_name="Ann's browser")


def test_two_phases_of_version_3(gate: Gate) -> None:
    """As recorded: accepted, the events of one admin client that asks itself, and the decision."""
    client = gate.client(3, client="cli")
    call = client.call("exec.approval.request", {**ASKED, "twoPhase": True})
    now_ms = gate.clock.now_ms()
    times = {"createdAtMs": now_ms, "expiresAtMs": now_ms + 5000}
    request = {
        **{k: v for k, v in ASKED.items() if k not in ("id", "timeoutMs")},
        "nodeId": None,
        "resolvedPath": None,
    }
    assert call.payload == {"status": "accepted", "id": "ap-1", **times}
    assert client.events("exec.approval.requested") == [{"id": "ap-1", "request": request, **times}]
    assert client.refused("exec.approval.resolve", {"id": "ap-1", "decision": "maybe"}) == {
        "code": "INVALID_REQUEST",
        "message": "invalid decision",
    }

    gate.clock.advance(1)
    assert client.ok("exec.approval.resolve", {"id": "ap-1", "decision": "allow-once"}) == {
        "ok": True
    }

    assert [frame["ok"] for frame in call.frames] == [True, True]
    assert call.payload == {"id": "ap-1", "decision": "allow-once", **times}
    assert client.events("exec.approval.resolved") == [
        {
            "id": "ap-1",
            "decision": "allow-once",
            "resolvedBy": "cli",
            "ts": now_ms + 1000,
            "request": request,
        }
    ]
    error = client.refused("exec.approval.resolve", {"id": "ap-1", "decision": "allow-once"})
    assert error["message"] == "unknown approval id"


def test_nobody_can_answer_in_version_4(gate: Gate, asker: Client) -> None:
    """As recorded: with plain clients only, the one answer comes at once and is null."""
    other = gate.client(client="cli")
    call = asker.call("exec.approval.request", {**ASKED, "twoPhase": True})
    now_ms = gate.clock.now_ms()
    final = {
        "id": "ap-1",
        "decision": None,
        "createdAtMs": now_ms,
        "expiresAtMs": now_ms + 5000,
    }
    assert [frame["payload"] for frame in call.frames] == [final]
    assert asker.frames == other.frames == []
    assert other.ok("exec.approval.list", {}) == []
    assert other.ok("exec.approval.waitDecision", {"id": "ap-1"}) == {
        **final,
        "terminalReason": "no-route",
    }
    error = other.refused("exec.approval.get", {"id": "ap-1"})
    assert (error["message"], error["details"]["reason"]) == (NOT_FOUND, "APPROVAL_NOT_FOUND")
    shown = other.ok("approval.get", {"id": "ap-1"})
    assert_fits(4, "ApprovalGetResult", shown)
    assert shown["approval"]["reason"] == "no-route"
    params = {"id": "ap-1", "decision": "allow-once"}
    assert other.refused("exec.approval.resolve", params) == RESOLVED


def test_a_client_that_shows_questions(gate: Gate, asker: Client, ui: Client) -> None:
    """In version 4 whose client shows questions is told, and answers; who asks is not told."""
    call = asker.call(
        "exec.approval.request",
        {
            "command": "ls",
            "twoPhase": True,
            "commandArgv": ["ls"],
            "env": {"A": "secret"},
            "systemRunPlan": {"commandPreview": "list", "commandText": "ls"},
            "unavailableDecisions": ["allow-always"],
        },
    )
    now_ms = gate.clock.now_ms()
    accepted = call.payload
    approval_id = accepted["id"]
    assert accepted == {
        "status": "accepted",
        "id": approval_id,
        "createdAtMs": now_ms,
        "expiresAtMs": now_ms + 1_800_000,
        "deliveryRoute": "approval-client",
    }
    (event,) = ui.events("exec.approval.requested")
    assert "secret" not in str(event)
    assert ui.ok("exec.approval.list") == [event]
    assert ui.ok("exec.approval.get", {"id": approval_id[:6]}) == {
        "id": approval_id,
        "commandText": "ls",
        "commandPreview": "list",
        "allowedDecisions": ["allow-once", "deny"],
        "host": None,
        "nodeId": None,
        "agentId": None,
        "expiresAtMs": accepted["expiresAtMs"],
    }

    ui.ok("exec.approval.resolve", {"id": approval_id[:6], "decision": "deny"})

    assert call.payload["decision"] == "deny"
    assert ui.events("exec.approval.resolved")[0]["resolvedBy"] == "Ann's browser"
    assert asker.frames == []
    for decision, expected in (("deny", True), ("allow-once", False)):
        again = ui.call("exec.approval.resolve", {"id": approval_id, "decision": decision})
        assert again.frame["ok"] is expected
    assert again.error == RESOLVED


@pytest.mark.parametrize(("protocol", "seconds"), [(3, 120), (4, 1800)])
def test_the_default_time(gate: Gate, ui: Client, protocol: int, seconds: int) -> None:
    """Without a timeout a question waits as long as in its version."""
    call = gate.client(protocol).call("exec.approval.request", {"command": "ls"})
    gate.clock.advance(seconds - 1)
    assert not call.frames
    gate.clock.advance(1)
    assert call.payload["decision"] is None
    assert len(ui.events("exec.approval.resolved")) == 1
    assert gate.clock.getDelayedCalls() == []


def test_the_longest_time(gate: Gate, ui: Client, asker: Client) -> None:
    """A question waits for a day at most."""
    asker.call("exec.approval.request", {"command": "ls", "timeoutMs": 10**400})
    (row,) = ui.ok("exec.approval.list")
    assert row["expiresAtMs"] - row["createdAtMs"] == 86_400_000


@pytest.mark.parametrize("protocol", [3, 4])
def test_an_id_that_is_taken(gate: Gate, ui: Client, protocol: int) -> None:
    """An id that waits, or was decided a moment ago, can not be asked again."""
    client = gate.client(protocol)
    client.call("exec.approval.request", ASKED)
    taken = {"code": "INVALID_REQUEST", "message": "approval id already pending"}
    assert client.refused("exec.approval.request", ASKED) == taken
    ui.ok("exec.approval.resolve", {"id": "ap-1", "decision": "deny"})
    assert client.refused("exec.approval.request", ASKED) == taken
    gate.clock.advance(16)
    assert not client.call("exec.approval.request", ASKED).frames


@pytest.mark.parametrize(
    ("protocol", "params", "text"),
    [
        (3, {}, "must have required property 'command'"),
        (3, {"command": "ls", "runId": "r"}, "unexpected property 'runId'"),
        (3, {"command": "ls", "host": "node"}, "nodeId is required for host=node"),
        (4, {}, "command is required"),
        (4, {"command": "ls", "host": "node"}, "nodeId is required for host=node"),
        (
            4,
            {"command": "ls", "host": "node", "nodeId": "n"},
            "systemRunPlan is required for host=node",
        ),
        (4, {"command": "ls", "id": ".."}, "an approval id is"),
        (4, {"command": "ls", "id": "i" * 129}, "an approval id is"),
        (3, {"command": "ls", "id": "x; rm -rf ~"}, "an approval id is"),
        (4, {"command": "ls", "id": "x\x1b[31m"}, "an approval id is"),
        (4, {"command": "x" * 40_000}, "can not be shown"),
        (4, {"command": "ls", "approvalReviewerDeviceIds": ["d"] * 65}, "at most 64 reviewers"),
        (4, {"command": "ls", "approvalReviewerDeviceIds": ["d" * 9999]}, "at most 64 reviewers"),
    ],
)
def test_questions_that_are_refused(
    gate: Gate, protocol: int, params: dict[str, Any], text: str
) -> None:
    """What is missing or can not be shown is refused, and nothing waits."""
    error = gate.client(protocol).refused("exec.approval.request", params)
    assert error["code"] == "INVALID_REQUEST"
    assert text in error["message"]
    assert len(gate.services.approvals) == 0


@pytest.mark.parametrize(
    ("params", "command"),
    [
        ({"commandArgv": ["ls", "-l"]}, "ls -l"),
        ({"systemRunPlan": {"commandText": "ls -la"}}, "ls -la"),
        ({"systemRunPlan": {"commandText": 5}, "commandArgv": ["ls"]}, "ls"),
        (
            {"command": "ls", "host": "node", "nodeId": "n", "systemRunPlan": {}},
            "ls",
        ),
    ],
)
def test_where_the_command_stands(
    asker: Client, ui: Client, params: dict[str, Any], command: str
) -> None:
    """Version 4 tells the command in one of several fields."""
    asker.call("exec.approval.request", params)
    assert [row["request"]["command"] for row in ui.ok("exec.approval.list")] == [command]


def test_one_that_waits_later(gate: Gate, asker: Client, ui: Client) -> None:
    """Whoever may see a question can wait for its decision, and ask for it 15 seconds more."""
    asker.call("exec.approval.request", ASKED)
    waiting = ui.call("exec.approval.waitDecision", {"id": "ap-1"})
    assert not waiting.frames
    ui.ok("exec.approval.resolve", {"id": "ap-1", "decision": "allow-once"})
    assert waiting.payload["decision"] == "allow-once"
    gate.clock.advance(15)
    assert ui.ok("exec.approval.waitDecision", {"id": "ap-1"}) == waiting.payload
    gate.clock.advance(1)
    gone = {"code": "INVALID_REQUEST", "message": "approval expired or not found"}
    assert ui.refused("exec.approval.waitDecision", {"id": "ap-1"}) == gone
    assert ui.refused("exec.approval.waitDecision", {"id": "nope"}) == gone


def test_who_asked_is_gone(gate: Gate, asker: Client, ui: Client) -> None:
    """The loss of a connection ends its waiting, and leaves the question: its time ends that."""
    calls = [
        asker.call("exec.approval.request", {**ASKED, "twoPhase": True}),
        ui.call("exec.approval.waitDecision", {"id": "ap-1"}),
    ]
    for call in calls:
        call.cancel()
    (pending,) = gate.services.approvals._pending.values()
    assert pending.waiters == []
    asker.leave()
    ui.ok("exec.approval.resolve", {"id": "ap-1", "decision": "deny"})
    assert gate.clock.getDelayedCalls() == []


@pytest.mark.parametrize("protocol", [3, 4])
def test_ids_that_nobody_knows(gate: Gate, protocol: int) -> None:
    """An id that is unknown is refused in the words of the version."""
    client = gate.client(protocol)
    text = {3: "unknown approval id", 4: NOT_FOUND}[protocol]
    for method, params in (
        ("exec.approval.get", {}),
        ("exec.approval.resolve", {"decision": "deny"}),
        ("approval.get", {}),
        ("approval.resolve", {"decision": "deny", "kind": "exec"}),
    ):
        error = client.refused(method, {"id": "nope", **params})
        assert (error["code"], error["message"]) == ("INVALID_REQUEST", text)


def test_beginnings_of_ids(asker: Client, gate: Gate) -> None:
    """The beginning of an id is enough in version 4 where it fits one, and not in version 3."""
    ui, three = gate.client(client="openclaw-control-ui"), gate.client(3)
    for number in ("ap-1", "ap-2"):
        asker.call("exec.approval.request", {**ASKED, "id": number})
    error = ui.refused("exec.approval.get", {"id": "ap"})
    assert error["message"] == "ambiguous approval id prefix; use the full id"
    assert three.refused("exec.approval.get", {"id": "ap"})["message"] == "unknown approval id"
    assert three.ok("exec.approval.get", {"id": "ap-2"})["id"] == "ap-2"


def test_who_sees_what_a_device_asks(gate: Gate) -> None:
    """What a device asks is seen by itself, the reviewers it names, and admins."""
    ask = gate.client(device_id="d1", scopes=APPROVALS)
    who: dict[str, Any] = {"scopes": APPROVALS, "caps": ["approvals"]}
    own, named = gate.client(device_id="d1", **who), gate.client(device_id="d2", **who)
    stranger, admin = gate.client(device_id="d3", **who), gate.client()
    ask.call("exec.approval.request", {**ASKED, "approvalReviewerDeviceIds": ["d2"]})
    for client, sees in ((ask, True), (own, True), (named, True), (admin, True), (stranger, False)):
        assert bool(client.ok("exec.approval.list")) is sees
    assert [len(c.events("exec.approval.requested")) for c in (own, named, stranger)] == [1, 1, 0]
    error = stranger.refused("exec.approval.resolve", {"id": "ap-1", "decision": "deny"})
    assert error["message"] == NOT_FOUND
    error = stranger.refused("exec.approval.waitDecision", {"id": "ap-1"})
    assert error["message"] == "approval expired or not found"
    named.ok("exec.approval.resolve", {"id": "ap-1", "decision": "deny"})
    resolver = admin.ok("approval.get", {"id": "ap-1"})["approval"]["resolver"]
    assert resolver == {"kind": "device", "id": "d2"}
    assert stranger.ok("approval.history", {})["items"] == []


def test_any_kind(asker: Client, ui: Client) -> None:
    """The methods for approvals of any kind tell whether a decision counted, and what stands."""
    asker.call("exec.approval.request", ASKED)
    params = {"id": "ap-1", "kind": "exec", "decision": "allow-once"}
    assert ui.refused("approval.resolve", {**params, "kind": "plugin"})["message"] == NOT_FOUND
    error = ui.refused("approval.resolve", {**params, "decision": "allow-always"})
    assert error["details"]["reason"] == "APPROVAL_ALLOW_ALWAYS_UNAVAILABLE"
    error = ui.refused("approval.resolve", {**params, "grantExpiresInDays": 3})
    assert "standing grants" in error["message"]
    pending = ui.ok("approval.get", {"id": "ap-1"})
    assert_fits(4, "ApprovalGetResult", pending)
    first = ui.ok("approval.resolve", params)
    second = ui.ok("approval.resolve", {**params, "decision": "deny"})
    assert (first["applied"], second["applied"]) == (True, False)
    assert first["approval"] == second["approval"]
    assert_fits(4, "ApprovalGetResult", {"approval": first["approval"]})


def test_the_history(gate: Gate, asker: Client, ui: Client) -> None:
    """What has ended is listed page by page, the newest first."""
    for number in range(5):
        asker.call("exec.approval.request", {**ASKED, "id": f"ap-{number}"})
        ui.ok("exec.approval.resolve", {"id": f"ap-{number}", "decision": "deny"})
    page = ui.ok("approval.history", {"limit": 3})
    assert_fits(4, "ApprovalHistoryResult", page)
    assert [item["id"] for item in page["items"]] == ["ap-4", "ap-3", "ap-2"]
    rest = ui.ok("approval.history", {"limit": 3, "cursor": page["nextCursor"]})
    assert [item["id"] for item in rest["items"]] == ["ap-1", "ap-0"]
    assert "nextCursor" not in rest
    assert ui.ok("approval.history", {"kind": "plugin"}) == {"items": []}
    error = ui.refused("approval.history", {"cursor": "nope"})
    assert error["message"] == "unknown or expired cursor"


def test_too_many_questions_of_one(gates: Callable[..., Gate]) -> None:
    """One asker can not fill the gateway with questions."""
    gate = gates(limits={"approvals_per_asker": 2})
    gate.client(client="openclaw-control-ui")
    one, other = gate.client(device_id="d1"), gate.client(device_id="d2")
    for _ in range(2):
        one.call("exec.approval.request", {"command": "ls"})
    error = one.refused("exec.approval.request", {"command": "ls"})
    assert (error["code"], error["retryable"]) == ("UNAVAILABLE", True)
    assert not other.call("exec.approval.request", {"command": "ls"}).frames
