"""``sessions.send``, ``sessions.steer`` and ``sessions.abort``."""

from __future__ import annotations

from typing import Any

import pytest

from tests.app.harness import READ, Gate

NONE = {"ok": True, "abortedRunId": None, "status": "no-active-run"}


def ended(run: str) -> dict[str, Any]:
    """Return the answer of an abort that ended a run."""
    return {"ok": True, "abortedRunId": run, "status": "aborted"}


def test_a_message_to_a_session_that_exists(gate: Gate) -> None:
    """A message to a session that exists starts a run, with what the sender asks for."""
    client = gate.client()
    client.ok("sessions.create", {"key": "work"})

    answer = client.ok(
        "sessions.send",
        {
            "key": "work",
            "message": "look",
            "thinking": "high",
            "timeoutMs": 2500,
            "attachments": [{"content": "YQ=="}],
            "idempotencyKey": "r1",
        },
    )

    assert answer == {"runId": "r1", "status": "started", "messageSeq": 1}
    request = gate.live().request
    assert (request.session_key, request.text) == ("agent:main:work", "look")
    assert (request.thinking, request.timeout_s) == ("high", 2.5)
    assert [file.data for file in request.attachments] == [b"a"]


@pytest.mark.parametrize("method", ["sessions.send", "sessions.steer"])
def test_a_session_that_is_not_there(gate: Gate, method: str) -> None:
    """A session is not made by a message to it, but for a main session."""
    client = gate.client()

    error = client.refused(method, {"key": "nowhere", "message": "hello"})
    main = client.ok(method, {"key": "main", "message": "hello"})

    assert (error["code"], error["message"]) == (
        "INVALID_REQUEST",
        "session not found: agent:main:nowhere",
    )
    assert main["status"] == "started"
    assert gate.backend.started == [main["runId"]]


def test_a_run_gets_an_id(gate: Gate) -> None:
    """Without a key of the client each message is a run of its own; with one a repeat is the same run."""
    client = gate.client()
    sent = [client.ok("sessions.send", {"key": "main", "message": "m"})["runId"] for _ in "ab"]
    keyed = {"key": "main", "message": "m", "idempotencyKey": "k"}

    assert len(set(sent)) == 2
    assert client.ok("sessions.send", keyed)["status"] == "started"
    assert client.ok("sessions.send", keyed)["status"] == "in_flight"


def test_commands_are_read(gate: Gate) -> None:
    """A stop command by sessions.send ends what goes in the session."""
    client = gate.client()
    client.send("hello")

    assert client.ok("sessions.send", {"key": "main", "message": "/stop"})["runIds"] == ["r1"]


def test_the_agent_of_a_key(gates: Any) -> None:
    """A key without an agent belongs to the agent that is named."""
    gate = gates(others=["other"])
    answer = gate.client().ok(
        "sessions.send", {"key": "main", "agentId": "other", "message": "hello"}
    )

    assert gate.runs.get(answer["runId"]).session_key == "agent:other:main"


def test_a_message_that_takes_the_place_of_a_run(gate: Gate) -> None:
    """sessions.steer aborts the run that goes, and its message is the next before those that wait."""
    client = gate.client()
    client.send("one", run="r1")
    client.send("two", run="r2")

    client.ok("sessions.steer", {"key": "main", "message": "now", "idempotencyKey": "r3"})
    gate.live("r3").end()

    assert gate.backend.started == ["r1", "r3", "r2"]
    assert client.ends("r1") == (["aborted"], ["end"])


def test_what_is_told_in_the_hello(gate: Gate) -> None:
    """sessions.steer can be called and is not advertised; the others are."""
    table = gate.wiring.edge.dispatcher.table
    advertised = set(table.advertised())

    assert {"sessions.send", "sessions.abort"} <= advertised
    assert "sessions.steer" not in advertised


@pytest.mark.parametrize("method", ["sessions.send", "sessions.steer", "sessions.abort"])
def test_who_may_only_read(gate: Gate, method: str) -> None:
    """Who may only read starts and ends no runs."""
    client = gate.client(scopes=READ)
    more = {} if method == "sessions.abort" else {"message": "hello"}

    assert client.refused(method, {"key": "main", **more})["details"]["code"] == "MISSING_SCOPE"


def test_an_abort_of_what_goes(gate: Gate) -> None:
    """sessions.abort ends the run that goes; what waits is next."""
    client = gate.client()
    assert client.ok("sessions.abort", {"key": "main"}) == NONE
    client.send("one", run="r1")
    client.send("two", run="r2")

    assert client.ok("sessions.abort", {"key": "main"}) == ended("r1")
    assert gate.backend.started == ["r1", "r2"]


def test_an_abort_of_all(gate: Gate) -> None:
    """With clearQueued what waits ends too, and the answer names the run that went."""
    client = gate.client()
    clear = {"key": "main", "clearQueued": True}
    assert client.ok("sessions.abort", clear) == NONE
    client.send("one", run="r1")
    client.send("two", run="r2")

    assert client.ok("sessions.abort", clear) == ended("r1")
    assert gate.backend.started == ["r1"]
    assert client.ends("r2") == (["aborted"], ["end"])
    assert client.ok("sessions.abort", clear) == NONE


def test_an_abort_by_id(gate: Gate) -> None:
    """A run is ended by its id, with a key only if it is that session's."""
    client = gate.client()
    client.send("one", run="r1")
    client.send("two", run="r2")

    assert client.ok("sessions.abort", {"runId": "nobody"}) == NONE
    wrong = client.refused("sessions.abort", {"runId": "r2", "key": "other"})
    assert wrong["message"] == "runId does not match key"
    assert client.ok("sessions.abort", {"runId": "r2", "key": "main"}) == ended("r2")
    client.send("three", run="r3")
    assert client.ok("sessions.abort", {"runId": "r1", "clearQueued": True}) == ended("r1")
    assert client.ends("r3") == (["aborted"], ["end"])
    assert client.ok("sessions.abort", {"runId": "r1"}) == NONE
    assert client.ok("sessions.abort", {"runId": "r1", "key": "main"}) == NONE


def test_an_abort_of_nothing_in_particular(gate: Gate) -> None:
    """An abort names a session or a run."""
    assert gate.client().refused("sessions.abort", {})["message"] == "key or runId required"


def test_an_abort_of_a_run_that_is_coming(gate: Gate) -> None:
    """A run that is still being asked for is ended as well."""
    client = gate.client()
    gate.store.hanging.add("get_session")
    client.send("one", run="r1")

    answer = client.ok("sessions.abort", {"key": "main"})
    gate.store.hanging.clear()
    gate.store.held.pop()()

    assert answer == ended("r1")
    assert gate.backend.started == []
    assert client.ends("r1") == (["aborted"], ["end"])


def test_an_abort_while_a_run_ends(gate: Gate) -> None:
    """A run whose end is being stored is not aborted again."""
    client = gate.client()
    client.send("one", run="r1")
    gate.store.hanging.add("finish_turn")
    gate.live().end()

    assert client.ok("sessions.abort", {"key": "main"}) == NONE
    gate.store.held.pop()()
