"""Sessions: written without losing anything."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
import pytest
from twisted.internet.defer import Deferred

from gateway.errors import InvalidRequest, StoreError
from gateway.model import Session
from gateway.testing import result_of
from tests.app.harness import Gate

KEY = "agent:main:main"


def run(coroutine: Any) -> Any:
    """Return what a coroutine gave, which did not wait."""
    return result_of(Deferred.fromCoroutine(coroutine))


def setting(name: str, value: Any) -> Callable[[Session], Session]:
    """Return a change of one setting."""

    def change(session: Session) -> Session:
        return msgspec.structs.replace(session, settings={**session.settings, name: value})

    return change


# -- writing


def test_a_session_is_made_by_its_first_run(gate: Gate) -> None:
    """The first message of a session makes it, with the key's agent; later ones only touch it."""
    client = gate.client()
    client.send("hello", run="r1")
    first = run(gate.services.sessions.get(KEY))
    gate.clock.advance(1)
    client.send("hello", run="r2")
    second = run(gate.services.sessions.get(KEY))

    assert (first.agent_id, first.created_via) == ("main", "operator")
    assert first.lifecycle_revision
    assert second.session_id == first.session_id
    assert second.updated_at_ms == first.updated_at_ms + 1000


def test_no_patch_is_lost(gate: Gate) -> None:
    """Of patches of one session at the same time none loses what another wrote."""
    sessions = gate.services.sessions
    random = Random(7)
    gate.store.hanging.add("update_session")
    names = [f"setting{number}" for number in range(64)]
    patches = [Deferred.fromCoroutine(sessions.patch(KEY, setting(name, 1))) for name in names]
    gate.store.hanging.clear()
    held, gate.store.held = gate.store.held, []
    random.shuffle(held)
    for go in held:
        go()

    assert all(result_of(patch) for patch in patches)
    session = run(sessions.get(KEY))
    assert session.settings == dict.fromkeys(names, 1)
    assert session.version == 64


def test_a_patch_beside_a_run(gate: Gate) -> None:
    """A run that ends while a session is patched loses neither the patch nor its own tokens."""
    client = gate.client()
    client.send("hello")
    gate.store.hanging |= {"update_session", "finish_turn"}
    patch = client.call("sessions.patch", {"key": "main", "label": "mine"})
    gate.live().end()
    gate.store.release()

    assert patch.payload["entry"]["label"] == "mine"
    session = run(gate.services.sessions.get(KEY))
    assert (session.label, session.system_sent) == ("mine", True)


def test_labels_are_unique_however_they_are_set(gate: Gate) -> None:
    """Two sessions that ask for one label at the same time do not both get it."""
    sessions = gate.services.sessions
    gate.store.hanging |= {"find_sessions", "update_session"}
    first = Deferred.fromCoroutine(sessions.create("agent:main:a", label="mine"))
    second = Deferred.fromCoroutine(sessions.create("agent:main:b", label="mine"))
    patch = Deferred.fromCoroutine(
        sessions.patch(
            "agent:main:c", lambda s: msgspec.structs.replace(s, label="mine"), label="mine"
        )
    )
    while gate.store.held:
        gate.store.held.pop(0)()
    gate.store.release()

    assert result_of(first).label == "mine"
    for refused in (second, patch):
        with pytest.raises(InvalidRequest, match="label already in use: mine"):
            result_of(refused)
    again = run(sessions.create("agent:main:a", label="mine"))
    assert again.label == "mine"


def test_a_label_after_one_that_failed(
    gate: Gate, expected_failures: list[type[BaseException]]
) -> None:
    """A label that could not be checked keeps nobody else from setting theirs."""
    sessions = gate.services.sessions
    gate.store.failing["find_sessions"] = StoreError("disk full")
    with pytest.raises(StoreError):
        run(sessions.create("agent:main:a", label="mine"))
    gate.store.failing.clear()

    assert run(sessions.create("agent:main:b", label="mine")).label == "mine"


def test_making_a_session_that_exists(gate: Gate) -> None:
    """Making a session that exists changes what is given, and nothing else."""
    sessions = gate.services.sessions
    first = run(sessions.create(KEY, label="mine", settings={"a": 1}, parent_key="agent:main:p"))
    gate.clock.advance(1)
    again = run(sessions.create(KEY, settings={"b": 2}))

    assert again.session_id == first.session_id
    assert again.settings == {"a": 1, "b": 2}
    assert (again.label, again.parent_key) == ("mine", "agent:main:p")
    assert again.updated_at_ms == first.updated_at_ms + 1000


# -- reset


def fill(gate: Gate) -> Session:
    """Return a session with everything that a reset has to think of."""
    client = gate.client()
    client.ok(
        "sessions.create",
        {"key": "main", "label": "mine", "thinkingLevel": "high", "parentSessionKey": "p"},
    )
    client.send("hello")
    gate.live().sink.text("answer")
    gate.live().end()
    gate.clock.advance(5)
    session: Session = run(gate.services.sessions.get(KEY))
    return session


@pytest.mark.parametrize("keep_id", [True, False])
def test_reset(gate: Gate, keep_id: bool) -> None:
    """A reset begins a transcript anew and keeps the settings; version 4 keeps the session's id too."""
    before = fill(gate)

    after = run(gate.services.sessions.reset(KEY, keep_id=keep_id))

    assert (after.session_id == before.session_id) is keep_id
    assert (after.created_at_ms == before.created_at_ms) is keep_id
    assert after.lifecycle_revision != before.lifecycle_revision
    assert after.settings == before.settings == {"thinkingLevel": "high"}
    assert (after.label, after.parent_key) == (before.label, before.parent_key)
    assert (after.total_tokens, after.system_sent, after.first_message_preview) == (0, False, None)
    assert gate.messages() == []
    old = result_of(gate.store.list_messages(before.session_id, limit=10))
    assert len(old) == (0 if keep_id else 2)


@pytest.mark.parametrize("keep_id", [True, False])
def test_reset_of_a_session_that_is_not_there(gate: Gate, keep_id: bool) -> None:
    """Resetting an unknown session makes it."""
    session = run(gate.services.sessions.reset(KEY, keep_id=keep_id))

    assert session == run(gate.services.sessions.get(KEY))


@pytest.mark.parametrize("keep_id", [True, False])
def test_a_patch_beside_a_reset(gate: Gate, keep_id: bool) -> None:
    """What is patched before or after a reset is not lost by it: nothing comes between its steps."""
    fill(gate)
    sessions = gate.services.sessions
    gate.store.hanging |= {"update_session", "delete_session", "get_session"}
    before = Deferred.fromCoroutine(sessions.patch(KEY, setting("before", 1)))
    reset = Deferred.fromCoroutine(sessions.reset(KEY, keep_id=keep_id))
    after = Deferred.fromCoroutine(sessions.patch(KEY, setting("after", 1)))
    gate.store.release()

    one, two, three = (result_of(done) for done in (before, reset, after))
    assert one.settings == {"thinkingLevel": "high", "before": 1}
    assert two.settings == {"thinkingLevel": "high", "before": 1}
    assert three.settings == {"thinkingLevel": "high", "before": 1, "after": 1}
    assert three.session_id == two.session_id


def test_a_reset_that_fails(gate: Gate) -> None:
    """A reset that the store refuses is told as what it is."""
    fill(gate)
    gate.store.failing["update_session"] = StoreError("disk full")

    with pytest.raises(StoreError, match="disk full"):
        run(gate.services.sessions.reset(KEY, keep_id=True))


def test_a_reset_stops_the_run_first(gate: Gate) -> None:
    """The run that a reset stops ends in the session it began in, and the next begins in the new one."""
    client = gate.client(3)
    client.send("hello")
    gate.live().sink.text("partial")
    before = run(gate.services.sessions.get(KEY))

    client.ok("sessions.reset", {"key": "main"})
    client.send("again", run="r2")

    assert client.ends() == (["aborted"], ["end"])
    old = result_of(gate.store.list_messages(before.session_id, limit=10))
    assert [message.role for message in old] == ["user", "assistant"]
    assert gate.messages() == [("user", "again")]


# -- deleting


def test_delete(gate: Gate) -> None:
    """A session is deleted once; the main session of an agent can not be."""
    sessions = gate.services.sessions
    run(sessions.create("agent:main:a"))

    assert run(sessions.delete("agent:main:a", delete_transcript=True))
    assert not run(sessions.delete("agent:main:a", delete_transcript=True))
    with pytest.raises(InvalidRequest, match=r"Cannot delete the main session \(agent:main:main\)"):
        run(sessions.delete(KEY, delete_transcript=True))
