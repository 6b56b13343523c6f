"""``sessions.*`` as clients of both versions use them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gateway.model import ModelInfo
from tests.app.harness import Client, Gate, assert_fits

MAIN = "agent:main:main"


@pytest.fixture(params=[3, 4])
def client(request: pytest.FixtureRequest, gate: Gate) -> Client:
    """An admin's client of either version."""
    return gate.client(request.param)


def said(
    gate: Gate, client: Client, key: str = "main", run: str = "r1", text: str = "hello"
) -> None:
    """Have a whole turn in a session."""
    client.send(text, key, run)
    live = gate.live(run)
    live.sink.text("an answer")
    live.end()


def test_a_session_is_listed_as_both_versions_read_it(gate: Gate, client: Client) -> None:
    """A row carries key, kind, session id and update; version 4 adds the page."""
    said(gate, client)
    answer = client.ok("sessions.list", {"includeDerivedTitles": True, "includeLastMessage": True})
    (row,) = answer["sessions"]
    assert (row["key"], row["kind"], row["derivedTitle"]) == (MAIN, "direct", "hello")
    assert row["lastMessagePreview"] == "an answer"
    assert answer["count"] == 1
    assert answer["ts"] == gate.clock.now_ms()
    assert ("totalCount" in answer) is (client.connection.caller.protocol == 4)


def test_a_page_says_whether_there_is_more(gate: Gate) -> None:
    """Version 4 pages through sessions, the last used first."""
    client = gate.client(4)
    for number in range(5):
        client.ok("sessions.create", {"key": f"s{number}"})
        gate.clock.advance(1)
    first = client.ok("sessions.list", {"limit": 2})
    assert [row["key"] for row in first["sessions"]] == ["agent:main:s4", "agent:main:s3"]
    assert (first["totalCount"], first["hasMore"], first["nextOffset"]) == (5, True, 2)
    last = client.ok("sessions.list", {"limit": 2, "offset": 4})
    assert (last["hasMore"], last["nextOffset"], last["count"]) == (False, None, 1)


def test_filters(gate: Gate) -> None:
    """Sessions are found by agent, label, text, parent and recent activity."""
    client = gate.client(4)
    client.ok("sessions.create", {"key": "old", "label": "Alpha"})
    gate.clock.advance(3600)
    client.ok("sessions.create", {"key": "new", "parentSessionKey": "old", "thinkingLevel": "high"})

    def keys(**params: Any) -> list[str]:
        return [row["key"] for row in client.ok("sessions.list", params)["sessions"]]

    assert keys(label="Alpha") == ["agent:main:old"]
    assert keys(search="alph") == ["agent:main:old"]
    assert keys(activeMinutes=5) == ["agent:main:new"]
    assert keys(spawnedBy="agent:main:old") == ["agent:main:new"]
    assert keys(agentId="nobody") == []


def test_a_created_session_is_described(gate: Gate) -> None:
    """sessions.create makes a session under a key of its own, and describe shows it."""
    client = gate.client(4)
    made = client.ok("sessions.create", {"label": "Work", "displayName": "Work"})
    assert_fits(4, "SessionsCreateResult", made)
    assert made["key"].startswith("agent:main:dashboard:")
    described = client.ok("sessions.describe", {"key": made["key"]})["session"]
    assert described["sessionId"] == made["sessionId"]
    assert described["label"] == "Work"
    assert client.ok("sessions.describe", {"key": "none"}) == {"session": None}


def test_a_label_belongs_to_one_session(gate: Gate, client: Client) -> None:
    """A label that another session has is refused; one's own may be set again."""
    client.ok("sessions.patch", {"key": "a", "label": "Mine"})
    client.ok("sessions.patch", {"key": "a", "label": "Mine"})
    error = client.refused("sessions.patch", {"key": "b", "label": "Mine"})
    assert error["message"] == "label already in use: Mine"
    client.ok("sessions.patch", {"key": "a", "label": None})
    assert client.ok("sessions.patch", {"key": "b", "label": "Mine"})["entry"]["label"] == "Mine"


def test_a_patch_sets_and_clears(gate: Gate, client: Client) -> None:
    """Settings are set by patch, cleared by null, and shown in history."""
    patched = client.ok(
        "sessions.patch", {"key": "main", "thinkingLevel": "HIGH", "verboseLevel": "on"}
    )
    assert patched["key"] == MAIN
    assert patched["entry"]["thinkingLevel"] == "high"
    assert patched["resolved"]["modelProvider"]
    history = client.ok("chat.history", {"sessionKey": "main"})
    assert (history["thinkingLevel"], history["verboseLevel"]) == ("high", "on")
    cleared = client.ok("sessions.patch", {"key": "main", "thinkingLevel": None})
    assert "thinkingLevel" not in cleared["entry"]
    assert cleared["entry"]["verboseLevel"] == "on"


@pytest.mark.parametrize(
    ("asked", "answers"),
    [
        ("p/small", ("small", 9)),
        ("small", ("small", 9)),
        ("p/none", ("big", 99)),
        (None, ("big", 99)),
    ],
)
def test_a_session_shows_the_model_that_answers_it(
    gate: Gate, client: Client, asked: str | None, answers: tuple[str, int]
) -> None:
    """After `/model` a session has the model that was asked for, if its agent offers it, and its window."""
    gate.backend.models = tuple(
        ModelInfo(id=name, name=name, provider="p", context_window=window)
        for name, window in (("big", 99), ("small", 9))
    )

    patched = client.ok("sessions.patch", {"key": "main", "model": asked})

    assert patched["resolved"] == {"modelProvider": "p", "model": answers[0]}
    (row,) = client.ok("sessions.list", {})["sessions"]
    assert (row["model"], row["contextTokens"]) == answers


def test_dangerous_settings_need_an_admin(gate: Gate) -> None:
    """In version 4 a writer may rename a session, but not say what it may execute."""
    writer = gate.client(4, scopes=("operator.write",))
    assert writer.ok("sessions.patch", {"key": "main", "label": "x"})["ok"]
    error = writer.refused("sessions.patch", {"key": "main", "execSecurity": "full"})
    assert error["details"]["missingScope"] == "operator.admin"


def test_resolve(gate: Gate, client: Client) -> None:
    """A session is found by exactly one of key, id and label."""
    client.ok("sessions.patch", {"key": "a", "label": "Mine"})
    row = client.ok("sessions.list", {})["sessions"][0]
    for params in ({"key": "a"}, {"sessionId": row["sessionId"]}, {"label": "Mine"}):
        answer = client.ok("sessions.resolve", params)
        assert_fits(client.connection.caller.protocol, "SessionsResolveResult", answer)
        assert answer["key"] == "agent:main:a"
    assert (
        client.refused("sessions.resolve", {"key": "none"})["message"] == "No session found: none"
    )
    missing = client.refused("sessions.resolve", {"label": "none"})
    assert missing["message"] == "No session found with label: none"
    several = client.refused("sessions.resolve", {"key": "a", "label": "Mine"})
    assert "not multiple" in several["message"]


def test_resolve_by_what_version_4_adds(gate: Gate) -> None:
    """Version 4 also resolves by reference and part of a key, and may be told that nothing was found."""
    client = gate.client(4)
    client.ok("sessions.patch", {"key": "unique-one", "label": "x"})
    reference = {"reference": {"key": "unique-one"}}
    assert client.ok("sessions.resolve", reference)["key"] == "agent:main:unique-one"
    assert client.ok("sessions.resolve", {"shortId": "unique"})["key"] == "agent:main:unique-one"
    client.ok("sessions.patch", {"key": "unique-two", "label": "y"})
    assert (
        "Multiple sessions" in client.refused("sessions.resolve", {"shortId": "unique"})["message"]
    )
    assert client.ok("sessions.resolve", {"key": "none", "allowMissing": True}) == {"ok": False}


def test_preview(gate: Gate, client: Client) -> None:
    """Previews show the last messages, shortened, and say which sessions are empty or missing."""
    said(gate, client, text="word " * 100)
    client.ok("sessions.patch", {"key": "empty", "label": "e"})
    answer = client.ok("sessions.preview", {"keys": ["main", "empty", "none"], "maxChars": 20})
    ok, empty, missing = answer["previews"]
    assert (ok["key"], ok["status"]) == ("main", "ok")
    assert [len(item["text"]) <= 20 for item in ok["items"]] == [True, True]
    assert (empty["status"], missing["status"]) == ("empty", "missing")


def test_reset_by_version(gate: Gate, client: Client) -> None:
    """A reset empties the transcript and keeps settings; only version 4 keeps the session id."""
    said(gate, client)
    client.ok("sessions.patch", {"key": "main", "label": "Kept"})
    before = client.ok("sessions.list", {})["sessions"][0]["sessionId"]
    answer = client.ok("sessions.reset", {"key": "main", "reason": "new"})
    assert answer["entry"]["label"] == "Kept"
    assert answer["entry"]["totalTokens"] == 0
    kept = answer["entry"]["sessionId"] == before
    assert kept is (client.connection.caller.protocol == 4)
    assert client.ok("chat.history", {"sessionKey": "main"})["messages"] == []


def test_reset_makes_a_session_that_is_not_there(gate: Gate, client: Client) -> None:
    """Resetting an unknown key makes the session."""
    answer = client.ok("sessions.reset", {"key": "fresh"})
    assert answer["key"] == "agent:main:fresh"
    assert answer["entry"]["sessionId"]


def test_reset_stops_what_goes(gate: Gate, client: Client) -> None:
    """A run that goes is ended by the reset of its session."""
    client.send("hello")
    client.ok("sessions.reset", {"key": "main"})
    assert client.ends() == (["aborted"], ["end"])


def test_delete(gate: Gate, client: Client) -> None:
    """A session is deleted with its transcript; the main one is refused; a missing one was not there."""
    said(gate, client, key="work")
    assert client.ok("sessions.delete", {"key": "work"})["deleted"] is True
    assert client.ok("sessions.delete", {"key": "work"})["deleted"] is False
    assert client.ok("chat.history", {"sessionKey": "work"})["messages"] == []
    error = client.refused("sessions.delete", {"key": "main"})
    assert error["message"] == f"Cannot delete the main session ({MAIN})."


def test_expected_session_id(gate: Gate) -> None:
    """A reset or deletion that expects another session id changes nothing."""
    client = gate.client(4)
    said(gate, client, key="work")
    for method in ("sessions.reset", "sessions.delete"):
        error = client.refused(method, {"key": "work", "expectedSessionId": "other"})
        assert error["code"] == "INVALID_REQUEST"
    assert len(client.ok("chat.history", {"sessionKey": "work"})["messages"]) == 2


def test_webchat_may_not_manage(gate: Gate) -> None:
    """A chat page may talk, but neither patch nor delete sessions."""
    page = gate.client(3, client="webchat-ui", mode="webchat")
    for method in ("sessions.patch", "sessions.delete"):
        assert "webchat clients cannot" in page.refused(method, {"key": "a"})["message"]


def test_subscribers_hear_of_changes(gate: Gate) -> None:
    """Who subscribed gets sessions.changed and session.message; others do not."""
    follower, watcher, other = gate.client(4), gate.client(4), gate.client(4)
    assert follower.ok("sessions.subscribe") == {"subscribed": True}
    assert watcher.ok("sessions.messages.subscribe", {"key": "main"}) == {
        "subscribed": True,
        "key": MAIN,
    }
    said(gate, other)
    gate.turn()
    assert [m["message"]["role"] for m in follower.events("session.message")] == [
        "user",
        "assistant",
    ]
    assert [m["messageSeq"] for m in watcher.events("session.message")] == [1, 2]
    assert follower.events("sessions.changed")
    assert not watcher.events("sessions.changed")
    assert not other.events("session.message")
    watcher.ok("sessions.messages.unsubscribe", {"key": "main"})
    said(gate, other, run="r2")
    assert len(watcher.events("session.message")) == 2


def test_subscribe_may_list_too(gate: Gate) -> None:
    """With list params the subscription brings the list."""
    client = gate.client(4)
    said(gate, client)
    answer = client.ok("sessions.subscribe", {"limit": 5})
    assert answer["subscribed"] is True
    assert answer["list"]["count"] == 1


def test_a_connection_watches_boundedly(gate: Gate) -> None:
    """The 501st watched session is refused."""
    client = gate.client(4)
    for number in range(500):
        client.ok("sessions.messages.subscribe", {"key": f"s{number}"})
    assert "at most" in client.refused("sessions.messages.subscribe", {"key": "s500"})["message"]


@pytest.mark.parametrize("key", ["agent:", "agent:main:"])
def test_malformed_keys_are_refused(gate: Gate, client: Client, key: str) -> None:
    """A malformed key is refused wherever a session is named."""
    for method in ("sessions.patch", "sessions.reset", "sessions.delete"):
        assert "malformed session key" in client.refused(method, {"key": key})["message"]


def test_concurrent_patches_lose_nothing(gates: Callable[..., Gate]) -> None:
    """Patches of different fields that overlap all stand."""
    gate = gates()
    client = gate.client(4)
    fields = {"thinkingLevel": "low", "verboseLevel": "on", "reasoningLevel": "off"}
    for name, value in fields.items():
        client.call("sessions.patch", {"key": "main", name: value})
    row = client.ok("sessions.describe", {"key": "main"})["session"]
    assert {name: row[name] for name in fields} == fields
