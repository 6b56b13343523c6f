"""Rules of ``sessions.*`` that are easily lost."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.testing import result_of
from tests.app.harness import Client, Gate

MAIN = "agent:main:main"


@pytest.fixture(params=[3, 4])
def client(request: pytest.FixtureRequest, gate: Gate) -> Client:
    """An admin's client of either version."""
    return gate.client(request.param)


@pytest.mark.parametrize(
    ("model", "error"),
    [
        ("fake/echo-1", None),
        ("fake/another", None),
        ("echo-1", None),
        ("nope/none", 'Unknown provider "nope". Use /models to list providers.'),
    ],
)
def test_models_of_a_session(gate: Gate, model: str, error: str | None) -> None:
    """Version 4 refuses a model of a provider that no agent has; version 3 takes any."""
    params = {"key": "main", "model": model}

    assert gate.client(3).ok("sessions.patch", params)["ok"]
    frame = gate.client(4).call("sessions.patch", params).frame
    assert frame["ok"] is (error is None)
    if error is not None:
        assert frame["error"] == {"code": "INVALID_REQUEST", "message": error}


@pytest.mark.parametrize(
    ("expected", "matches"),
    [
        ("expectedSessionId", "sessionId"),
        ("expectedLifecycleRevision", "lifecycleRevision"),
        ("expectedSessionUpdatedAt", "updatedAt"),
    ],
)
def test_what_a_client_expects(gate: Gate, expected: str, matches: str) -> None:
    """A change that names the session it is meant for is refused where that is another by now."""
    client = gate.client()
    entry = client.ok("sessions.create", {"key": "a"})["entry"]
    right, wrong = entry[matches], 5 if matches == "updatedAt" else "another"
    changes: list[tuple[str, dict[str, Any]]] = [("sessions.delete", {})]
    if expected != "expectedSessionUpdatedAt":
        changes.insert(0, ("sessions.patch", {"label": "l"}))
    if expected == "expectedSessionId":
        changes.insert(0, ("sessions.reset", {}))
    for method, params in changes:
        for key in ("a", "missing"):
            error = client.refused(method, {"key": key, expected: wrong, **params})
            assert error["details"] == {"reason": "session-changed"}
    assert result_of(gate.store.get_session("agent:main:missing")) is None
    for method, params in changes:
        if expected == "expectedSessionUpdatedAt" or method != "sessions.reset":
            session = client.ok("sessions.describe", {"key": "a"})["session"]
            right = session["updatedAt"] if matches == "updatedAt" else right
        assert client.ok(method, {"key": "a", expected: right, **params})["ok"]


def test_deleting_what_is_archived(gate: Gate) -> None:
    """A deletion that is meant for archived sessions spares the others."""
    client = gate.client()
    client.ok("sessions.create", {"key": "a"})
    refused = client.refused("sessions.delete", {"key": "a", "archivedOnly": True})
    missing = client.refused("sessions.delete", {"key": "b", "archivedOnly": True})
    client.ok("sessions.patch", {"key": "a", "archived": True})

    assert refused["message"] == missing["message"] == "session is not archived"
    assert client.ok("sessions.delete", {"key": "a", "archivedOnly": True})["deleted"]


def test_a_refused_deletion_stops_nothing(gate: Gate, client: Client) -> None:
    """A run in a session that can't be deleted goes on."""
    client.send("hello")
    client.refused("sessions.delete", {"key": "main"})

    assert len(gate.runs) == 1
    assert client.ends() == ([], [])


def test_a_deletion_stops_the_run(gate: Gate, client: Client) -> None:
    """The run of a session that is deleted ends, and leaves nothing in the session's place."""
    client.send("hello", "a")
    assert client.ok("sessions.delete", {"key": "a"}) == {
        "ok": True,
        "key": "agent:main:a",
        "deleted": True,
        "archived": [],
    }
    assert client.ends() == (["aborted"], ["end"])
    assert gate.messages("agent:main:a") == []


def test_approvals_are_asked_for_or_not_named(gate: Gate) -> None:
    """IncludeApprovals is true or not there."""
    client = gate.client()

    assert client.ok("sessions.messages.subscribe", {"key": "main", "includeApprovals": True}) == {
        "subscribed": True,
        "key": MAIN,
        "approvalReplay": {
            "sessionKey": MAIN,
            "updatedAtMs": gate.clock.now_ms(),
            "approvals": [],
            "truncated": False,
        },
    }
    error = client.refused(
        "sessions.messages.subscribe", {"key": "main", "includeApprovals": False}
    )
    assert error["code"] == "INVALID_REQUEST"


def test_a_row_while_a_run_goes(gate: Gate, client: Client) -> None:
    """A row says whether a run goes in its session."""
    client.send("hello")
    during = client.ok("sessions.list", {})["sessions"][0]
    gate.live().end()
    after = client.ok("sessions.list", {})["sessions"][0]

    assert (during["hasActiveRun"], during["status"]) == (True, "running")
    assert (after["hasActiveRun"], after["status"]) == (False, "idle")


def test_recent_sessions(gate: Gate) -> None:
    """A filter by activity reaches back as far as anybody asks."""
    client = gate.client()
    client.ok("sessions.create", {"key": "a"})
    gate.clock.advance(3600)

    assert client.ok("sessions.list", {"activeMinutes": 59})["count"] == 0
    assert client.ok("sessions.list", {"activeMinutes": 61})["count"] == 1
    assert client.ok("sessions.list", {"activeMinutes": 10**30})["count"] == 1
    assert client.ok("sessions.list", {"limit": 10**30, "offset": 10**30})["totalCount"] == 1
