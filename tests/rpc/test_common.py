"""Session keys, texts and attachments as clients give them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.app.harness import Client, Gate

Gates = Callable[..., Gate]
MAIN = "agent:main:main"


@pytest.fixture(params=[3, 4])
def client(request: pytest.FixtureRequest, gate: Gate) -> Client:
    """An admin's client of either version."""
    return gate.client(request.param)


def protocol_of(client: Client) -> int:
    """Return the version of a client."""
    return client.connection.protocol


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("plain", "plain"),
        ("tab\tnew\nline\r", "tab\tnew\nline\r"),
        ("bell\x07 and \x1b[0m\x7f\x9b", "bell and [0m"),
        ("cafe\u0301", "café"),
        ("emoji 👩‍👩‍👧", "emoji 👩‍👩‍👧"),
    ],
)
def test_text_is_kept_clean(gate: Gate, client: Client, sent: str, kept: str) -> None:
    """Messages are kept composed and without control characters, but tab and line ends."""
    client.send(sent)

    assert gate.live().request.text == kept
    assert gate.messages() == [("user", kept)]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "message or attachment required"),
        (" \n ", "message or attachment required"),
        ("\x07", "message or attachment required"),
        ("a\x00b", "message must not contain null bytes"),
    ],
)
def test_no_message(gate: Gate, client: Client, text: str, error: str) -> None:
    """Nothing to say, and a null byte, are refused."""
    assert client.send(text).error == {"code": "INVALID_REQUEST", "message": error}


def test_an_attachment_alone(gate: Gate, client: Client) -> None:
    """An attachment needs no text."""
    client.send("", attachments=[{"type": "file", "content": "aGk="}])

    assert gate.live().request.text == ""
    assert gate.live().request.attachments[0].data == b"hi"


def test_too_many_attachments(gate: Gate, client: Client) -> None:
    """A message has at most 32 attachments."""
    files = [{"content": "aGk="}] * 33

    assert client.send("look", attachments=files).error["message"] == "at most 32 attachments"
    assert client.send("look", attachments=files[:32]).payload["status"] == "started"


@pytest.mark.parametrize("item", [5, None, [], "x", {}])
def test_attachments_that_are_none(gate: Gate, client: Client, item: Any) -> None:
    """What is no attachment is refused, by version 4 already for its type."""
    message = client.send("look", attachments=[item]).error["message"]

    if protocol_of(client) == 4 and item != {}:
        assert message == "invalid chat.send params: at /attachments/0: must be object"
    else:
        assert message == "Error: attachment attachment-1: content must be base64 string"


def test_attachments_at_the_limit(gates: Gates) -> None:
    """An attachment may be as large as the limit says, decoded, and not a byte more."""
    gate = gates(limits={"attachment_bytes": 4})
    client = gate.client()
    names = [
        client.send("a", attachments=[{"fileName": "a", "content": c}]).frame
        for c in ("AAAAAA==", "AAAAAAA=", "A" * 16)
    ]

    assert [frame["ok"] for frame in names] == [True, False, False]
    for frame in names[1:]:
        assert frame["error"]["message"] == "Error: attachment a: exceeds size limit (4 bytes)"


# -- session keys


def test_spellings_of_a_key(gate: Gate, client: Client) -> None:
    """However a session is spelled, its events carry the canonical key."""
    for number, key in enumerate(("main", "MAIN", " agent:main:main ", "Agent:Main:MAIN")):
        client.send("hello", key, f"r{number}")

    assert {live.request.session_key for live in gate.backend.live.values()} == {MAIN}
    assert {event["sessionKey"] for event in client.events("agent")} == {MAIN}
    assert len(gate.runs) == 4


@pytest.mark.parametrize("key", ["agent:", "agent::x", "agent:main", ":x", "agent: :x"])
def test_malformed_keys(gate: Gate, client: Client, key: str) -> None:
    """A malformed key is refused by both versions."""
    assert client.send("hello", key).error == {
        "code": "INVALID_REQUEST",
        "message": f'malformed session key "{key}"',
    }


def test_a_blank_key(gate: Gate, client: Client) -> None:
    """A key of blanks is refused."""
    assert client.send("hello", "  ").error["message"] == "session key must not be blank"


def test_unknown_agents(gate: Gate, client: Client) -> None:
    """A key of an agent that is not configured is refused by both versions."""
    assert client.send("hello", "agent:nope:main").error == {
        "code": "INVALID_REQUEST",
        "message": 'Agent "nope" no longer exists in configuration',
    }


def test_the_agent_of_a_key(gates: Gates) -> None:
    """An agent id names the agent of a key that has none; a key that names one keeps it."""
    gate = gates(others=["other"])
    client = gate.client(4)
    keys = [("work", "Other"), ("agent:main:x", "other"), ("main", "other"), ("global", "other")]
    for number, (key, agent_id) in enumerate(keys):
        client.send("hello", key, f"r{number}", agentId=agent_id)

    keys_used = [run.session_key for drive in gate.runs._drives.values() for run in [drive.run]]
    assert keys_used == ["agent:other:work", "agent:main:x", "agent:other:main", "global"]
    for agent_id in (" ", "a:b", "nobody", "agent"):
        error = client.send("hello", "work", "r9", agentId=agent_id).error
        assert error["code"] == "INVALID_REQUEST"
