"""gateway.app.bindings: a backend's own name of a conversation stays with the session."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from gateway.app.bindings import MAX_NAME_CHARS, agent_session_of
from gateway.errors import StoreError
from gateway.testing import result_of
from tests.app.faults import Lines
from tests.app.harness import Client, Gate

KEY = "agent:main:main"


@pytest.fixture
def client(gate: Gate) -> Client:
    """Return a client that has a run going."""
    client = gate.client()
    client.send("hello")
    return client


def bound(gate: Gate, kind: str | None = None) -> str | None:
    """Return what a backend of a kind (the agent's own) gets back for the session."""
    if kind is None:
        kind = gate.services.agents.default.kind
    return agent_session_of(result_of(gate.store.get_session(KEY)), kind)


def test_bound_to_the_session(gate: Gate, client: Client) -> None:
    """What a backend bound is given back to its kind alone, and not again once it says there is none."""
    before = result_of(gate.store.get_session(KEY))
    gate.live().sink.bind("thread:7")

    assert bound(gate) == "thread:7"
    assert bound(gate, "other") is bound(gate, "") is None
    assert before.updated_at_ms == result_of(gate.store.get_session(KEY)).updated_at_ms

    gate.live().sink.bind(None)
    assert bound(gate) is None
    assert agent_session_of(None, "scripted") is None


def test_the_same_name_is_not_written_again(gate: Gate, client: Client) -> None:
    """A backend may bind with every run: the session changes only if the name does."""
    gate.live().sink.bind("thread-7")
    version = result_of(gate.store.get_session(KEY)).version

    gate.live().sink.bind("thread-7")

    assert result_of(gate.store.get_session(KEY)).version == version


def test_it_outlives_runs_and_restarts(gates: Callable[..., Gate]) -> None:
    """The name is there for the runs that follow, also of the next process."""
    gate = gates()
    gate.client().send("hello")
    gate.live().sink.bind("thread-7")
    gate.live().end()
    gate.clock.advance(1)

    gate.live().sink.bind("after the end")

    assert bound(gate) == "thread-7"
    assert bound(gate.restarted()) == "thread-7"


@pytest.mark.parametrize("protocol", [3, 4])
def test_a_new_beginning_forgets_it(gate: Gate, client: Client, protocol: int) -> None:
    """A reset begins a new conversation, whether or not the session keeps its id."""
    gate.live().sink.bind("thread-7")

    gate.client(protocol).ok("sessions.reset", {"key": "main"})
    gate.live().sink.bind("thread-7")

    assert bound(gate) is None


def test_another_session_under_the_key_is_left_alone(gate: Gate, client: Client) -> None:
    """A name that reaches the store after the session began anew is dropped, as for one that is gone."""
    gate.store.hanging.add("update_session")
    sink = gate.live().sink
    sink.bind("thread-7")
    gate.store.hanging.clear()
    result_of(gate.store.delete_session(KEY, delete_transcript=True))

    gate.store.held.pop()()
    assert result_of(gate.store.get_session(KEY)) is None

    gate.client().ok("sessions.reset", {"key": "main"})
    gate.client().send("again", run="r2")
    sink.bind("thread-7")
    assert bound(gate) is None


def test_it_stays_inside(gate: Gate, client: Client) -> None:
    """No client is shown it: not in rows, entries, histories nor events."""
    gate.live().sink.bind("thread-secret")
    gate.live().sink.text("hi")
    gate.live().end()
    gate.clock.advance(1)

    answers: list[Any] = [
        client.ok("sessions.list", {}),
        client.ok("sessions.describe", {"key": "main"}),
        client.ok("sessions.patch", {"key": "main", "thinkingLevel": "high"}),
        client.ok("chat.history", {"sessionKey": "main"}),
        client.frames,
    ]
    assert "thread-secret" not in json.dumps(answers)


def test_what_can_not_be_kept(gate: Gate, client: Client) -> None:
    """A name that is too long is as none; a store that fails is told of in one line, and the run goes on."""
    gate.live().sink.bind("thread-7")
    gate.store.failing["update_session"] = StoreError("disk full")
    with Lines() as log:
        gate.live().sink.bind("thread-8")
        gate.store.failing.clear()
        gate.live().sink.bind("x" * (MAX_NAME_CHARS + 1))
    gate.live().end()
    gate.clock.advance(1)

    assert bound(gate) is None
    assert log.texts[:2] == [
        f"session {KEY}: the agent's conversation was not noted: disk full",
        f"session {KEY}: the agent's name of the conversation is too long",
    ]
    assert client.ends() == (["final"], ["end"])
