"""When those who follow a session are told of the message that a run answers: once, as it starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed

from gateway.app.question import Question
from gateway.core.run import Run
from gateway.errors import StoreError
from gateway.model import Message, RunRequest, RunState
from gateway.testing import result_of
from tests.app.faults import Lines
from tests.app.harness import Client, Gate

Gates = Callable[..., Gate]


def follower(gate: Gate, protocol: int = 4) -> Client:
    """Return a client that follows all sessions."""
    client = gate.client(protocol)
    client.ok("sessions.subscribe")
    return client


def recovered(gate: Gate) -> int:
    """Do what the start of the gateway does."""
    count: int = result_of(Deferred.fromCoroutine(gate.runs.recover()))
    return count


def told(client: Client) -> list[str]:
    """Return the texts of the users' messages that a client was told of."""
    return [
        event["message"]["content"][0]["text"]
        for event in client.events("session.message")
        if event["message"]["role"] == "user"
    ]


def seen(client: Client, run: str) -> list[str]:
    """Return what a client saw of the user's side of a run, in order."""
    names = []
    for frame in client.frames:
        name, payload = frame["event"], frame["payload"]
        if name == "session.message" and payload["message"]["role"] == "user":
            if payload["message"]["__openclaw"]["runId"] == run:
                names.append("message")
        elif payload.get("runId") != run:
            continue
        elif name == "agent":
            names.append(payload["data"].get("phase", "text"))
        elif name == "chat":
            names.append(payload["state"])
        elif name == "sessions.changed":
            names.append(payload.get("reason") or payload["phase"])
    return names


@pytest.mark.parametrize("protocol", [3, 4])
def test_a_message_that_goes_at_once(gate: Gate, protocol: int) -> None:
    """The message of a run in a free session is told when it is accepted, before all else of the run."""
    client = follower(gate, protocol)
    client.send("hello")
    gate.live().sink.text("answer")
    gate.live().end()

    assert seen(client, "r1")[:3] == ["message", "send", "start"]
    assert told(client) == ["hello"]


@pytest.mark.parametrize("protocol", [3, 4])
def test_a_message_that_waits(gate: Gate, protocol: int) -> None:
    """The message of a run that waits is told when it starts, right before its first event; it is in the transcript."""  # noqa: E501
    client = follower(gate, protocol)
    client.send("first", run="r1")
    client.send("second", run="r2")
    assert seen(client, "r2") == ["send"]
    assert told(client) == ["first"]
    assert gate.messages() == [("user", "first"), ("user", "second")]

    gate.live("r1").end()
    gate.live("r2").sink.text("answer")
    gate.live("r2").end()

    assert seen(client, "r2")[:3] == ["send", "message", "start"]
    assert told(client) == ["first", "second"]
    assert [e["messageSeq"] for e in client.events("session.message")] == [1, 2, 3]


def test_a_message_that_is_aborted_while_it_waits(gate: Gate) -> None:
    """The message of a run that never starts is told with its end, when that is stored."""
    client = follower(gate)
    client.send("first", run="r1")
    client.send("second", run="r2")
    gate.store.hanging.add("finish_turn")
    client.ok("chat.abort", {"sessionKey": "main", "runId": "r2"})
    assert told(client) == ["first"]

    gate.store.release()

    assert seen(client, "r2") == ["send", "message", "end", "aborted", "end"]
    assert told(client) == ["first", "second"]


# -- after a restart


def crowd(gate: Gate) -> None:
    """Let one run go and two wait behind it."""
    for number in (1, 2, 3):
        gate.client().send(f"message {number}", run=f"r{number}")


def test_messages_that_waited_before_a_restart(gate: Gate) -> None:
    """After a crash the messages that waited are told once each, as their runs start; none is told again."""
    crowd(gate)
    again = gate.restarted()
    client = follower(again)

    assert recovered(again) == 3
    assert told(client) == ["message 2"]
    assert seen(client, "r2") == ["message", "start"]
    again.live("r2").end()
    again.live("r3").end()

    assert told(client) == ["message 2", "message 3"]
    assert seen(client, "r3")[:2] == ["message", "start"]


def test_a_run_that_is_run_again(gates: Gates) -> None:
    """The message of a run that had started before the crash is not told again."""
    how = {"on_restart": "rerun"}
    gate = gates(**how)
    gate.client().send("hello")
    again = gate.restarted(**how)
    client = follower(again)

    recovered(again)

    assert again.backend.started == ["r1"]
    assert told(client) == []


def test_one_that_waited_before_a_restart_and_never_starts(gate: Gate) -> None:
    """The message of a run that is aborted after the restart, before its turn, is told with its end."""
    crowd(gate)
    again = gate.restarted()
    client = follower(again)
    recovered(again)

    client.ok("chat.abort", {"sessionKey": "main", "runId": "r3"})

    assert seen(client, "r3")[:2] == ["message", "end"]
    assert told(client) == ["message 2", "message 3"]


def test_an_abort_while_the_message_is_read(gate: Gate) -> None:
    """A run that is aborted while its message is read after a restart stays aborted, and is told once."""
    crowd(gate)
    again = gate.restarted()
    client = follower(again)
    again.store.hanging.add("list_messages")
    recovered(again)
    assert again.backend.started == []

    client.ok("chat.abort", {"sessionKey": "main", "runId": "r2"})
    assert told(client) == []
    again.store.release()

    assert result_of(again.store.get_run("r2")).state is RunState.ABORTED
    assert again.backend.started == ["r3"]
    assert told(client) == ["message 2", "message 3"]


def test_a_message_that_can_not_be_read(gate: Gate) -> None:
    """A run whose message can't be read after a restart goes all the same; it is told with the end."""
    crowd(gate)
    again = gate.restarted()
    client = follower(again)
    again.store.failing["list_messages"] = StoreError("no")
    with Lines() as lines:
        recovered(again)
    assert again.backend.started == ["r2"]
    assert "the message of run r2 was not read: no" in lines.texts
    assert told(client) == []

    del again.store.failing["list_messages"]
    again.live("r2").end()

    assert told(client) == ["message 2", "message 3"]


# -- by itself


class Told:
    """What is announced; a transcript with nothing in it."""

    def __init__(self, error: Exception | None = None) -> None:
        self.messages: list[Message] = []
        self._error = error

    async def question_of(self, session_id: str, run_id: str) -> None:
        await succeed(None)

    def announce_messages(self, key: str, agent_id: str, messages: tuple[Message, ...]) -> None:
        if self._error is not None:
            raise self._error
        self.messages += messages


def make_question(sessions: Any, *, stored: bool) -> Question:
    """Return the question of a run."""
    request = RunRequest(
        run_id="r1", session_key="agent:main:main", session_id="s", agent_id="main", text="hello"
    )
    run = Run(request, epoch="e", origin="chat", actor="", fingerprint="", accepted_at_ms=0)
    return Question(sessions, run, stored=stored)


def test_a_run_without_a_message() -> None:
    """Where the transcript has no message of the run nothing is told."""
    sessions = Told()
    question = make_question(sessions, stored=True)

    result_of(question.look_up())
    question.tell()

    assert sessions.messages == []


def test_an_announcement_that_fails(expected_failures: list[type[BaseException]]) -> None:
    """What goes wrong when a message is told is logged, and does not reach the run."""
    expected_failures.append(ZeroDivisionError)
    question = make_question(Told(ZeroDivisionError()), stored=False)
    question.put(Message(message_id="m", role="user", content=[], timestamp_ms=0))

    with Lines() as lines:
        question.tell()

    assert [event["log_failure"].type for event in lines.events] == [ZeroDivisionError]
