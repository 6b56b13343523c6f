"""Transcripts as clients read them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.app.harness import Client, Gate


@pytest.fixture(params=[3, 4])
def client(request: pytest.FixtureRequest, gate: Gate) -> Client:
    """An admin's client of either version."""
    return gate.client(request.param)


def say(gate: Gate, client: Client, run: str, question: str, answer: str) -> None:
    """Have a turn in the main session."""
    client.send(question, run=run)
    gate.live(run).sink.text(answer)
    gate.live(run).end()


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
