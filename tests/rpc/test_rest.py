"""History, listings, system and nodes, as clients of both versions use them."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from gateway.testing import result_of
from tests.app.harness import Client, Gate, assert_fits

MAIN = "agent:main:main"


@pytest.fixture(params=[3, 4])
def client(request: pytest.FixtureRequest, gate: Gate) -> Client:
    """An admin's client of either version."""
    return gate.client(request.param)


def protocol_of(client: Client) -> int:
    """Return the version of a client."""
    return client.connection.caller.protocol


def said(gate: Gate, client: Client, run: str = "r1", text: str = "hello") -> None:
    """Have a whole turn in the main session."""
    client.send(text, run=run)
    live = gate.live(run)
    live.sink.text(f"answer to {text}")
    live.end()


def test_history_of_a_session(gate: Gate, client: Client) -> None:
    """History has the messages in order; version 4 adds their place and what a page needs."""
    said(gate, client)
    history = client.ok("chat.history", {"sessionKey": "main"})
    assert [m["role"] for m in history["messages"]] == ["user", "assistant"]
    assert history["messages"][1]["content"] == [{"type": "text", "text": "answer to hello"}]
    assert history["sessionKey"] == "main"
    assert ("__openclaw" in history["messages"][0]) is (protocol_of(client) == 4)
    assert ("sessionInfo" in history) is (protocol_of(client) == 4)


def test_history_of_nothing(gate: Gate, client: Client) -> None:
    """A session that does not exist has no messages, and no id."""
    history = client.ok("chat.history", {"sessionKey": "none"})
    assert history["messages"] == []
    assert "sessionId" not in history


def test_history_is_paged(gate: Gate) -> None:
    """Version 4 pages backwards through a transcript."""
    client = gate.client(4)
    for number in range(3):
        said(gate, client, f"r{number}", f"text {number}")
    page = client.ok("chat.history", {"sessionKey": "main", "limit": 2, "offset": 2})
    texts = [m["content"][0]["text"] for m in page["messages"]]
    assert texts == ["text 1", "answer to text 1"]
    assert (page["totalMessages"], page["hasMore"], page["nextOffset"]) == (6, True, 4)


@pytest.mark.parametrize(
    "params",
    [
        {"offset": 1, "messageId": "x"},
        {"cursor": "c", "offset": 1},
        {"sessionId": "x"},
    ],
)
def test_history_combinations(gate: Gate, params: dict[str, Any]) -> None:
    """Ways to page that exclude each other are refused."""
    error = gate.client(4).refused("chat.history", {"sessionKey": "main", **params})
    assert error["code"] == "INVALID_REQUEST"


def test_startup_shows_what_goes(gate: Gate) -> None:
    """chat.startup brings history, models, commands, and the run that goes."""
    client = gate.client(4)
    client.send("hello")
    gate.live().sink.text("so far")
    startup = client.ok("chat.startup", {"sessionKey": "main"})
    assert startup["inFlightRun"]["runId"] == "r1"
    assert startup["inFlightRun"]["text"] == "so far"
    assert startup["metadata"]["commands"]
    gate.live().end()


def test_inject(gate: Gate, client: Client) -> None:
    """An injected note is shown as a final of its own and stands in the transcript."""
    said(gate, client)
    answer = client.ok("chat.inject", {"sessionKey": "main", "message": "note", "label": "me"})
    final = client.events("chat")[-1]
    assert final["runId"] == f"inject-{answer['messageId']}"
    assert final["seq"] == 0
    assert final["message"]["content"][0]["text"] == "[me]\n\nnote"
    assert gate.messages()[-1] == ("assistant", "[me]\n\nnote")
    error = client.refused("chat.inject", {"sessionKey": "none", "message": "x"})
    assert error["message"] == "session not found"


def test_listings(gate: Gate, client: Client) -> None:
    """Agents, models, commands and tools fit the schemas of the client's version."""
    protocol = protocol_of(client)
    agents = client.ok("agents.list", {})
    assert_fits(protocol, "AgentsListResult", agents)
    assert agents["defaultId"] == "main"
    assert ("model" in agents["agents"][0]) is (protocol == 4)
    assert_fits(protocol, "ModelsListResult", client.ok("models.list", {}))
    assert_fits(protocol, "CommandsListResult", client.ok("commands.list", {}))
    assert client.ok("commands.list", {"scope": "native"}) == {"commands": []}
    assert_fits(protocol, "ToolsCatalogResult", client.ok("tools.catalog", {}))
    assert "unknown agent id" in client.refused("tools.catalog", {"agentId": "x"})["message"]


def test_identity(gate: Gate, client: Client) -> None:
    """An agent's identity is found by its id or by a session it owns."""
    for params in ({}, {"agentId": "main"}, {"sessionKey": "agent:main:work"}):
        identity = client.ok("agent.identity.get", params)
        assert_fits(protocol_of(client), "AgentIdentityResult", identity)
        assert identity["agentId"] == "main"
    assert "unknown agent id" in client.refused("agent.identity.get", {"agentId": "x"})["message"]


def test_status_and_health(gate: Gate, client: Client) -> None:
    """Status sums up sessions by agent; health is the snapshot that is made every minute."""
    said(gate, client)
    status = client.ok("status")
    assert status["sessions"]["count"] == 1
    assert status["sessions"]["byAgent"][0]["count"] == 1
    assert client.ok("health") == {}
    result_of(Deferred.fromCoroutine(gate.services.health.refresh()))
    health = client.ok("health")
    assert health["ok"] is True
    assert health["sessions"]["count"] == 1


def test_presence_and_system_events(gate: Gate, client: Client) -> None:
    """What is reported by system-event is in the list, and everybody hears of it."""
    assert client.ok("system-event", {"text": " I am here ", "host": "laptop", "tags": ["a"]}) == {
        "ok": True
    }
    entries = client.ok("system-presence")
    assert [entry["text"] for entry in entries][1:] == ["I am here"]
    for entry in entries:
        assert_fits(protocol_of(client), "PresenceEntry", entry)
    assert client.events("presence")
    assert client.refused("system-event", {"text": " "})["message"] == "text required"


def test_every_system_event_is_sent_at_once(gate: Gate) -> None:
    """Reports that follow each other are not thrown together."""
    client = gate.client(4)
    for number in range(5):
        client.ok("system-event", {"text": f"report {number}"})
    assert len(client.events("presence")) == 5


def test_heartbeats(gate: Gate, client: Client) -> None:
    """Heartbeats are switched, and none has happened yet."""
    assert client.ok("set-heartbeats", {"enabled": False}) == {"ok": True, "enabled": False}
    assert client.ok("last-heartbeat") is None
    error = client.refused("set-heartbeats", {"enabled": "yes"})
    assert "at /enabled" in error["message"]


def test_config_has_no_secret(gate: Gate, client: Client) -> None:
    """config.get shows where the configuration is and that it is valid."""
    config = client.ok("config.get", {})
    assert config["valid"] is True
    assert config["issues"] == []


def test_logs_are_asked_of_the_log(gate: Gate, client: Client) -> None:
    """logs.tail hands its params to the log, with the protocol's defaults."""
    assert client.ok("logs.tail", {"limit": 5}) == {}
    assert "at /limit" in client.refused("logs.tail", {"limit": 0})["message"]


@pytest.mark.parametrize("protocol", [3, 4])
def test_a_node_speaks(gate: Gate, protocol: int) -> None:
    """A transcript of a node of either version becomes one turn, however often it is sent."""
    node, person = gate.node(protocol), gate.client(protocol)
    payload = {"text": "hello from the device", "eventId": "e1"}
    for _ in range(3):
        sent = {"event": "voice.transcript", "payloadJSON": json.dumps(payload)}
        assert node.ok("node.event", sent) == {"ok": True}
    assert gate.messages() == [("user", "hello from the device")]
    (row,) = person.ok("node.list", {})["nodes"]
    assert (row["nodeId"], row["connected"], row["paired"]) == ("n1", True, True)
    (run,) = gate.backend.live
    gate.live(run).end()


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        ({"event": "other"}, "unsupported_event"),
        ({"event": "voice.transcript"}, "invalid_payload"),
        ({"event": "voice.transcript", "payloadJSON": "{"}, "invalid_payload"),
        ({"event": "voice.transcript", "payload": [1]}, "invalid_payload"),
    ],
)
def test_events_that_are_not_handled(gate: Gate, sent: dict[str, Any], reason: str) -> None:
    """A node is told, without an error, that its event means nothing here."""
    answer = gate.node(4).ok("node.event", sent)
    assert_fits(4, "NodeEventResult", answer)
    assert (answer["handled"], answer["reason"]) == (False, reason)


def test_attachments(gate: Gate, client: Client) -> None:
    """Files reach the agent decoded; the transcript keeps what they were, not what is in them."""
    content = b64encode(b"png bytes").decode()
    files = [
        {"type": "image", "mimeType": "image/png", "fileName": "a.png", "content": content},
        {"content": f"data:text/plain;base64,{content}"},
    ]
    client.send("look", attachments=files)
    received = gate.live().request.attachments
    assert [(a.mime_type, a.kind, a.data) for a in received] == [
        ("image/png", "image", b"png bytes"),
        ("text/plain", "file", b"png bytes"),
    ]
    gate.live().end()
    kept = client.ok("chat.history", {"sessionKey": "main"})["messages"][0]["content"]
    assert kept[1] == {
        "type": "image",
        "mimeType": "image/png",
        "omitted": True,
        "bytes": 9,
        "fileName": "a.png",
    }


@pytest.mark.parametrize("content", ["!!!", None, "A" * 8_000_000])
def test_bad_attachments(gate: Gate, client: Client, content: Any) -> None:
    """A file that is no base64, has no content or is too large is named and refused."""
    call = client.send("look", attachments=[{"type": "image", "content": content}])
    assert call.error["code"] == "INVALID_REQUEST"
    assert "attachment image" in call.error["message"]


def test_a_session_id_names_a_session(gate: Gate, client: Client) -> None:
    """An agent call with an unknown session id opens a session of this id, and comes back to it."""
    params = {"message": "hi", "sessionId": "errand-5", "idempotencyKey": "k1"}
    call = client.call("agent", params)
    gate.live("k1").end()
    row = client.ok("sessions.list", {})["sessions"][0]
    assert (row["key"], row["sessionId"]) == ("agent:main:explicit:errand-5", "errand-5")
    assert call.frames[-1]["payload"]["status"] == "ok"
    client.call("agent", {**params, "idempotencyKey": "k2"})
    gate.live("k2").end()
    assert len(gate.messages("agent:main:explicit:errand-5")) == 2


def test_the_end_does_not_overtake_the_answer(gate: Gate, client: Client) -> None:
    """The end of a run is announced at least 100 ms after the run was accepted."""
    gate.runs.end_delay_s = 0.1
    client.send("hello")
    gate.live().end()
    assert client.ends() == ([], [])
    gate.clock.advance(0.11)
    assert client.ends() == (["final"], ["end"])
