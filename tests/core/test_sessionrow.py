"""A session as a row of a list and as the entry of an answer."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.core.sessionrow import DEFAULT_CONTEXT_TOKENS, session_entry, session_kind, session_row
from gateway.model import ModelInfo, Session
from tests.core.schemas import load

MODEL = ModelInfo(id="echo-1", name="Echo", provider="fake", context_window=64_000)
KEY = "agent:main:main"


def session(**extra: Any) -> Session:
    """Return a session."""
    facts = {"key": KEY, "session_id": "s", "agent_id": "main"}
    return Session(**{**facts, "created_at_ms": 1, "updated_at_ms": 2, **extra})


def row(held: Session, **how: Any) -> dict[str, Any]:
    """Return the row of a session."""
    return session_row(held, **{"model": MODEL, "main_key": KEY, "busy": False, **how})


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("global", "global"),
        ("unknown", "unknown"),
        (KEY, "direct"),
        ("agent:main:telegram:direct:5", "direct"),
        ("agent:main:telegram:group:5", "group"),
        ("agent:main:discord:channel:5:thread:1", "group"),
        ("agent:main:direct:group", "group"),
        ("agent:main:group", "direct"),
        ("", "direct"),
    ],
)
def test_the_kind_of_a_session_follows_from_its_key(key: str, kind: str) -> None:
    """Groups and channels are groups, two sentinels are themselves, the rest is direct."""
    assert session_kind(key) == kind
    shown = row(session(key=key))
    assert (shown["kind"], shown["chatType"]) == (kind, "group" if kind == "group" else "direct")


def test_a_bare_row() -> None:
    """A row has what both versions read, and no key without a value."""
    shown = row(session())
    assert (shown["key"], shown["isMain"], shown["sessionId"], shown["agentId"]) == (
        KEY,
        True,
        "s",
        "main",
    )
    assert (shown["hasActiveRun"], shown["status"]) == (False, "idle")
    assert (shown["modelProvider"], shown["model"], shown["contextTokens"]) == (
        "fake",
        "echo-1",
        64_000,
    )
    assert None not in shown.values()
    for absent in ("label", "displayName", "lastChannel", "parentSessionKey", "derivedTitle"):
        assert absent not in shown


def test_a_full_row() -> None:
    """What a session has is shown; titles and previews where they are asked for."""
    held = session(
        key="agent:main:x",
        label="L",
        last_channel="telegram",
        parent_key=KEY,
        first_message_preview="first",
        last_message_preview="last",
        total_tokens=7,
        settings={"verboseLevel": "on"},
    )
    shown = row(held, busy=True, titles=True, last_message=True)
    assert (
        shown.items()
        >= {
            "label": "L",
            "displayName": "L",
            "lastChannel": "telegram",
            "parentSessionKey": KEY,
            "derivedTitle": "first",
            "lastMessagePreview": "last",
            "totalTokens": 7,
            "verboseLevel": "on",
            "hasActiveRun": True,
            "status": "running",
            "isMain": False,
        }.items()
    )
    plain = row(held)
    assert "derivedTitle" not in plain
    assert "lastMessagePreview" not in plain
    empty = row(session(), titles=True, last_message=True)
    assert "derivedTitle" not in empty
    assert "lastMessagePreview" not in empty


def test_a_model_that_does_not_tell_its_window() -> None:
    """There is always a size of the context."""
    model = ModelInfo(id="m", name="m", provider="p")
    assert row(session(), model=model)["contextTokens"] == DEFAULT_CONTEXT_TOKENS


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        (None, {}),
        ("fake/echo-1", {"providerOverride": "fake", "modelOverride": "echo-1"}),
        ("a/b/c", {"providerOverride": "a", "modelOverride": "b/c"}),
        ("alone", {"modelOverride": "alone"}),
    ],
)
def test_a_model_that_was_asked_for_stands_beside_the_one_that_answers(
    asked: str | None, shown: dict[str, str]
) -> None:
    """A setting never hides what is: the model in a row is the one that answers."""
    settings = {} if asked is None else {"model": asked}
    for told in (row(session(settings=settings)), session_entry(session(settings=settings))):
        overrides = {name: value for name, value in told.items() if name.endswith("Override")}
        assert overrides == shown
    assert row(session(settings=settings))["model"] == "echo-1"


def test_settings_do_not_hide_what_a_session_is() -> None:
    """A setting with the name of a fact does not replace it."""
    hostile = session(settings={"key": "x", "sessionId": "x", "systemSent": True})
    assert row(hostile)["key"] == KEY
    assert session_entry(hostile)["sessionId"] == "s"
    assert session_entry(hostile)["systemSent"] is False


def test_an_entry_has_the_recorded_names() -> None:
    """What an entry tells has the names that the recorded gateways use."""
    held = session(label="L", parent_key=KEY, settings={"verboseLevel": "on", "model": "fake/e"})
    answers = [
        case["response"]["payload"]["entry"]
        for case in load("rpc.json")["v4"]
        if case["method"] in ("sessions.patch", "sessions.reset", "sessions.create")
        and case["response"]["ok"]
    ]
    recorded = set().union(*answers)
    assert set(session_entry(held)) <= recorded
    assert session_entry(held)["label"] == "L"
    assert "label" not in session_entry(session())
    assert "parentSessionKey" not in session_entry(session())
