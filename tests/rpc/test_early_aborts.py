"""Aborts that come while the request for the run is still looked at."""

from __future__ import annotations

import pytest

from tests.app.harness import Client, Gate

AGENT = {"sessionKey": "main", "message": "hello", "idempotencyKey": "r1"}


@pytest.fixture
def client(gate: Gate) -> Client:
    return gate.client()


@pytest.fixture
def slow(gate: Gate) -> Gate:
    """A gateway whose store takes its time to look up a session."""
    gate.store.hanging.add("get_session")
    return gate


def carry_on(gate: Gate) -> None:
    gate.store.hanging.clear()
    gate.store.release()
    gate.turn()


@pytest.mark.parametrize("method", ["chat.send", "agent"])
@pytest.mark.parametrize("named", [{"runId": "r1"}, {}], ids=["the run", "all of the session"])
def test_an_abort_that_overtakes_its_message(
    slow: Gate, client: Client, method: str, named: dict[str, str]
) -> None:
    """An abort that comes before its run was accepted is kept: the run ends as it begins."""
    sent = client.call(method, AGENT)
    aborted = client.ok("chat.abort", {"sessionKey": "main", **named})
    carry_on(slow)

    assert aborted == {"ok": True, "aborted": True, "runIds": ["r1"]}
    assert sent.frames[0]["ok"]
    assert client.ends() == (["aborted"], ["end"])
    assert not slow.backend.started
    assert not slow.runs.coming


def test_a_stop_word_that_overtakes_a_message(slow: Gate, client: Client) -> None:
    """The stop command ends what was said before it, and nothing that is said after it."""
    client.send("hello")
    stopped = client.send("/stop", run="s1")
    client.send("again", run="r2")
    carry_on(slow)

    assert stopped.payload["runIds"] == ["r1"]
    assert client.ends() == (["aborted"], ["end"])
    assert slow.backend.started == ["r2"]
    slow.live("r2").end()


def test_an_abort_of_another_session(slow: Gate, client: Client) -> None:
    """A run on its way to one session is not ended in the name of another."""
    client.send("hello")
    refused = client.refused("chat.abort", {"sessionKey": "other", "runId": "r1"})
    all_there = client.ok("chat.abort", {"sessionKey": "other"})
    carry_on(slow)

    assert refused["message"] == "runId does not match sessionKey"
    assert all_there["runIds"] == []
    assert slow.backend.started == ["r1"]
    slow.live().end()


def test_a_repeat_is_the_same_run(slow: Gate, client: Client) -> None:
    """Two requests of one key are one run, which one abort ends; nothing of them stays."""
    first, second = client.send("hello"), client.send("hello")
    client.ok("chat.abort", {"sessionKey": "main", "runId": "r1"})
    client.ok("chat.abort", {"sessionKey": "main", "runId": "r1"})
    carry_on(slow)

    assert {first.payload["runId"], second.payload["runId"]} == {"r1"}
    assert client.ends() == (["aborted"], ["end"])
    assert not slow.runs.coming


def test_an_abort_of_nothing(gate: Gate) -> None:
    """A run that nobody knows of and nobody asks for can not be ended."""
    assert not gate.runs.abort("nobody", "rpc")
    assert not gate.runs.coming


def test_a_refused_request_is_not_coming(gate: Gate, client: Client) -> None:
    """A request that is refused leaves nothing for an abort to find."""
    client.ok("sessions.patch", {"key": "main", "sendPolicy": "deny"})
    client.refused("chat.send", AGENT)

    assert client.ok("chat.abort", {"sessionKey": "main", "runId": "r1"})["aborted"] is False
    assert not gate.runs.coming
