"""Rules of single methods that are easily lost."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.model import ModelInfo
from gateway.testing import result_of
from tests.app.harness import READ, WRITE, Client, Gate, assert_fits

MAIN = "agent:main:main"


@pytest.fixture(params=[3, 4])
def client(request: pytest.FixtureRequest, gate: Gate) -> Client:
    """An admin's client of either version."""
    return gate.client(request.param)


def say(gate: Gate, client: Client, run: str, question: str, answer: str) -> None:
    """Have a turn in the main session."""
    client.send(question, run=run)
    gate.live(run).sink.text(answer)
    gate.live(run).end()


# -- histories


def test_long_texts_are_cut(gate: Gate, client: Client) -> None:
    """A text is cut at the length of the version; a message is never larger than 128 KiB."""
    limit = 12_000 if client.connection.protocol == 3 else 8_000
    say(gate, client, "r1", "short", "x" * (limit + 1))

    user, assistant = client.ok("chat.history", {"sessionKey": "main"})["messages"]

    assert user["content"][0]["text"] == "short"
    assert assistant["content"][0]["text"].startswith("x" * limit)
    assert "x" * (limit + 1) not in assistant["content"][0]["text"]


def test_how_much_of_a_history(gate: Gate) -> None:
    """Version 4 says how many characters and bytes it wants; the newest messages come."""
    client = gate.client()
    for number in range(4):
        say(gate, client, f"r{number}", f"question {number}", "y" * 3000)
    ask: dict[str, Any] = {"sessionKey": "main"}

    few = client.ok("chat.history", {**ask, "maxBytes": 4000})
    short = client.ok("chat.history", {**ask, "maxChars": 10})
    last = client.ok("chat.history", {**ask, "limit": 1})
    far = client.ok("chat.history", {**ask, "offset": 10**30})

    assert [m["content"][0]["text"][:10] for m in few["messages"]] == ["question 3", "y" * 10]
    assert (few["hasMore"], few["nextOffset"], few["totalMessages"]) == (True, 2, 8)
    assert all(len(m["content"][0]["text"]) < 30 for m in short["messages"])
    assert len(last["messages"]) == 1
    assert (far["messages"], far["hasMore"]) == ([], False)


def test_settings_ride_on_a_history(gate: Gate, client: Client) -> None:
    """A history says how its session thinks and how much it tells."""
    ask = {"sessionKey": "main"}
    before = client.ok("chat.history", ask)
    client.ok("sessions.patch", {"key": "main", "thinkingLevel": "high", "verboseLevel": "on"})
    after = client.ok("chat.history", ask)

    assert (before["thinkingLevel"], "verboseLevel" in before) == ("off", False)
    assert (after["thinkingLevel"], after["verboseLevel"]) == ("high", "on")


def test_a_history_of_nobody(gate: Gate) -> None:
    """Version 4 refuses the history of an agent that is not configured."""
    error = gate.client().refused("chat.history", {"sessionKey": "agent:nope:main"})

    assert error["message"] == 'Agent "nope" no longer exists in configuration'
    assert gate.client(3).ok("chat.history", {"sessionKey": "agent:nope:main"})["messages"] == []


# -- sessions


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


# -- listings and the system


def test_models_that_do_not_tell_their_context(gate: Gate, client: Client) -> None:
    """A model that does not tell its context window is listed without one."""
    gate.backend.models = (ModelInfo(id="m", name="M", provider="p"),)

    (model,) = client.ok("models.list", {})["models"]
    assert model == {"id": "m", "name": "M", "provider": "p"} | (
        {"available": True} if client.connection.protocol == 4 else {}
    )
    assert client.ok("status")["sessions"]["defaults"]["contextTokens"] > 0


def test_names_of_agents(gate: Gate) -> None:
    """Version 4 is told whether a name was given to an agent or is its id."""
    client = gate.client()
    assert client.ok("agent.identity.get", {})["nameSource"] == "default"
    object.__setattr__(gate.services.agents.default, "name", "Ann")

    identity = client.ok("agent.identity.get", {"sessionKey": " "})
    assert_fits(4, "AgentIdentityResult", identity)
    assert (identity["name"], identity["avatar"], identity["nameSource"]) == ("Ann", "A", "config")


def test_status_by_version_and_scope(gate: Gate) -> None:
    """Version 4 is told more of the process, its number only to admins."""
    gate.client().send("hello")
    clients = (gate.client(3), gate.client(4, scopes=READ), gate.client(4))
    three, reader, admin = (client.ok("status") for client in clients)

    assert not {"runtimeVersion", "tasks", "connections", "pid"} & set(three)
    assert reader["tasks"] == {"total": 1, "active": 1}
    assert "pid" not in reader
    assert admin["pid"] == 1


def test_what_is_reported_of_somebody(gate: Gate, client: Client) -> None:
    """A report is shown with what it says, nothing empty, and nothing long."""
    client.ok(
        "system-event",
        {
            "text": " working   hard ",
            "deviceId": "D1",
            "host": "h" * 1000,
            "ip": "",
            "roles": [],
            "tags": ["t" * 1000] * 100,
            "lastInputSeconds": 0,
            "whatever": {"a": 1},
        },
    )

    (entry,) = client.ok("system-presence")[1:]
    assert entry["text"] == "working hard"
    assert (entry["deviceId"], entry["lastInputSeconds"]) == ("D1", 0)
    assert not {"ip", "roles", "whatever"} & set(entry)
    assert len(entry["host"]) == 256
    assert (len(entry["tags"]), len(entry["tags"][0])) == (64, 256)
    client.ok("system-event", {"text": "gone", "deviceId": "d1"})
    assert [entry["text"] for entry in client.ok("system-presence")[1:]] == ["gone"]


def test_a_number_that_would_poison_the_list(gate: Gate, client: Client) -> None:
    """What can't be shown to everybody is refused, and the list stays as it was."""
    error = client.refused("system-event", {"text": "x", "lastInputSeconds": 2**64})

    assert "at /lastInputSeconds" in error["message"]
    assert len(client.ok("system-presence")) == 1


def test_who_may_switch_and_report(gate: Gate) -> None:
    """Reports and switches are for admins."""
    client = gate.client(scopes=WRITE)

    for method, params in (("system-event", {"text": "x"}), ("set-heartbeats", {"enabled": True})):
        assert client.refused(method, params)["code"] == "FORBIDDEN"


def test_the_configuration(gate: Gate, client: Client) -> None:
    """The configuration is shown as it was read, with the warnings of reading it."""
    view = gate.services.operations.config
    object.__setattr__(view, "warnings", ("auth.token: a bare string",))

    config = client.ok("config.get", {})

    assert config["path"] == "/nonexistent/gateway.toml"
    assert config["warnings"] == [{"path": "", "message": "auth.token: a bare string"}]
    assert config["parsed"] == config["config"] == config["resolved"] == {}


def test_nested_payloads_of_nodes(gate: Gate) -> None:
    """A payload of a node that is nested beyond reason is no payload."""
    node = gate.node()
    params = {"event": "voice.transcript", "payloadJSON": "[" * 5000}

    assert node.ok("node.event", params)["reason"] == "invalid_payload"
