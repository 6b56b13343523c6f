"""Messages that are given to the run that goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import alsoProvides

from gateway.app.steering import STEER_PATIENCE_S
from gateway.app.stopping import stop_runs
from gateway.errors import BackendError, StoreError
from gateway.interfaces import ISteerableBackend
from gateway.model import Attachment, RunState
from gateway.testing import result_of
from tests.app.faults import Lines
from tests.app.harness import Client, Gate
from tests.app.test_queueing import chat_end, end_data
from tests.app.test_recovery import recovered, state_of

Gates = Callable[..., Gate]


class Offers:
    """What a backend is asked to take; ``answer`` decides at once, else the test does."""

    def __init__(self, gate: Gate, answer: Callable[[str], Any] | None = None) -> None:
        self.answer = answer
        self.texts: list[str] = []
        self.runs: list[str] = []
        self.files: list[Sequence[Attachment]] = []
        self.cancelled = 0
        self.pending: list[Deferred[bool]] = []
        backend: Any = gate.backend
        backend.steer = self.steer
        alsoProvides(backend, ISteerableBackend)

    def steer(self, run_id: str, text: str, attachments: Sequence[Attachment]) -> Any:
        self.runs.append(run_id)
        self.texts.append(text)
        self.files.append(attachments)
        if self.answer is not None:
            return self.answer(text)
        waiting: Deferred[bool] = Deferred(self._cancel)
        self.pending.append(waiting)
        return waiting

    def _cancel(self, _: Deferred[bool]) -> None:
        self.cancelled += 1


def steered(gate: Gate, *runs: str) -> Client:
    """Let r1 go and send messages that are to steer it."""
    client = gate.client()
    client.ok("sessions.messages.subscribe", {"key": "main"})
    client.send("one", run="r1")
    for run in runs:
        client.send(f"text of {run}", run=run, queueMode="steer")
    return client


def test_a_message_that_is_taken(gate: Gate) -> None:
    """A message that the agent takes is in the transcript, and its own run is over without an answer."""
    offers = Offers(gate)
    client = steered(gate, "r2")
    before = client.ends("r2")
    offers.pending[0].callback(True)

    assert (offers.runs, offers.texts) == (["r1"], ["text of r2"])
    assert before == ([], [])
    assert client.ends("r2") == (["final"], ["end"])
    assert end_data(client, "r2")["steeredInto"] == "r1"
    final = chat_end(client, "r2")
    assert ("message" in final, final["stopReason"]) == (False, "steered")
    assert state_of(gate, "r2") == (RunState.DONE, "steered")
    told = [e["message"]["__openclaw"]["runId"] for e in client.events("session.message")]
    assert told == ["r1", "r2"]
    gate.live("r1").sink.text("answer")
    gate.live("r1").end()
    assert gate.messages() == [("user", "one"), ("user", "text of r2"), ("assistant", "answer")]
    assert gate.backend.started == ["r1"]


def test_a_run_that_was_steered_asks_for_its_history(gate: Gate) -> None:
    """A message that a run was given while it went is no history to it."""
    Offers(gate, lambda _: True)
    steered(gate, "r2")

    assert result_of(gate.live("r1").sink.history(10)) == ()


def test_a_steering_message_with_files_and_source(gate: Gate) -> None:
    """Files reach the agent with the message, and so does the word that it is not the user's."""
    offers = Offers(gate, succeed)
    client = steered(gate)
    client.send(
        "look",
        run="r2",
        queueMode="steer",
        attachments=[{"content": "YQ=="}],
        systemInputProvenance={"kind": "inter_session"},
    )

    assert [file.data for file in offers.files[0]] == [b"a"]
    assert offers.texts[0].startswith("[This message was sent by another session")


def test_one_after_the_other(gate: Gate) -> None:
    """Messages are given to the agent in their order, each when the one before was taken."""
    offers = Offers(gate)
    client = steered(gate, "r2", "r3")
    client.send("later", run="r4")
    one = list(offers.texts)
    offers.pending[0].callback(True)
    two = list(offers.texts)
    offers.pending[1].callback(True)
    gate.live("r1").end()

    assert (one, two) == (["text of r2"], ["text of r2", "text of r3"])
    assert gate.backend.started == ["r1", "r4"]


@pytest.mark.parametrize(
    "answer",
    [
        lambda _: False,
        lambda _: None,
        lambda _: fail(BackendError("no")),
        lambda _: 1 / 0,
    ],
)
def test_a_message_that_is_not_taken(gate: Gate, answer: Callable[[str], Any]) -> None:
    """A message that the agent does not take is a turn of its own; those behind it keep their place."""
    offers = Offers(gate, answer)
    client = steered(gate, "r2")
    offers.answer = lambda text: text != "text of r2"
    client.send("three", run="r3", queueMode="steer")
    for run in ("r1", "r2", "r3"):
        gate.live(run).end()

    assert offers.texts == ["text of r2", "text of r2"]
    assert gate.backend.started == ["r1", "r2", "r3"]
    assert client.ends("r2") == (["final"], ["end"])


def test_a_message_that_is_taken_at_the_second_time(gate: Gate) -> None:
    """What was refused is offered again before the next message, so that the order holds."""
    offers = Offers(gate, lambda _: False)
    client = steered(gate, "r2")
    offers.answer = lambda _: True
    client.send("three", run="r3", queueMode="steer")

    assert offers.texts == ["text of r2", "text of r2", "three"]
    assert [client.ends(run)[0] for run in ("r2", "r3")] == [["final"], ["final"]]


def test_a_backend_that_cant_be_steered(gate: Gate) -> None:
    """Where the backend can't be told more, the message is a turn of its own."""
    client = steered(gate, "r2")
    gate.live("r1").end()

    assert gate.backend.started == ["r1", "r2"]
    assert client.ends("r2") == ([], [])


def test_nothing_to_steer(gate: Gate) -> None:
    """Where no run goes a message of mode steer is an ordinary one."""
    offers = Offers(gate)
    gate.client().send("one", queueMode="steer")

    assert (gate.backend.started, offers.texts) == (["r1"], [])


def test_a_run_that_does_not_go_yet(gate: Gate) -> None:
    """A run whose backend was not called yet is not steered."""
    offers = Offers(gate)
    client = gate.client()
    client.send("one", run="r1")
    client.send("two", run="r2")
    gate.store.hanging.add("start_run")
    gate.live("r1").end()
    client.send("three", run="r3", queueMode="steer")
    gate.store.held.pop()()
    gate.live("r2").end()

    assert offers.texts == []


def test_an_agent_that_does_not_answer(gate: Gate) -> None:
    """An agent that does not say whether it takes a message is asked no longer after some seconds."""
    offers = Offers(gate)
    steered(gate, "r2")

    with Lines() as lines:
        gate.clock.advance(STEER_PATIENCE_S)

    assert offers.cancelled == 1
    assert lines.texts == ["run r1: its agent does not say whether it takes a message"]
    gate.live("r1").end()
    assert gate.backend.started == ["r1", "r2"]


def test_a_run_that_ends_while_its_agent_is_asked(gate: Gate) -> None:
    """Where the run ends before its agent has answered, the message is the next turn."""
    offers = Offers(gate)
    client = steered(gate, "r2")
    gate.live("r1").end()
    gate.clock.advance(2 * STEER_PATIENCE_S)

    assert offers.cancelled == 1
    assert gate.backend.started == ["r1", "r2"]
    gate.live("r2").end()
    assert client.ends("r2") == (["final"], ["end"])


def test_an_abort_while_the_agent_is_asked(gate: Gate) -> None:
    """A message that is aborted meanwhile is taken back, and the next one is offered."""
    offers = Offers(gate)
    client = steered(gate, "r2", "r3")

    answer = client.ok("chat.abort", {"sessionKey": "main", "runId": "r2"})

    assert answer["runIds"] == ["r2"]
    assert offers.cancelled == 1
    assert offers.texts == ["text of r2", "text of r3"]
    assert client.ends("r2") == (["aborted"], ["end"])
    offers.pending[1].callback(True)
    assert client.ends("r3") == (["final"], ["end"])


def test_an_agent_that_ends_while_it_is_asked(gate: Gate) -> None:
    """An agent that ends its run instead of taking a message is not waited for any more."""
    offers = Offers(gate)
    waiting: list[Deferred[bool]] = []

    def end(_: str) -> Deferred[bool]:
        gate.live("r1").end()
        waiting.append(Deferred(offers._cancel))
        return waiting[0]

    offers.answer = end
    client = steered(gate, "r2")

    assert offers.cancelled == 1
    assert gate.backend.started == ["r1", "r2"]
    assert client.ends("r2") == ([], [])


def test_a_stop_while_the_agent_is_asked(gate: Gate) -> None:
    """A stop of the gateway leaves a message that was not taken yet to the next start."""
    offers = Offers(gate)
    steered(gate, "r2")
    result_of(Deferred.fromCoroutine(stop_runs(gate.runs, 1)))

    assert offers.cancelled == 1
    assert state_of(gate, "r2") == (RunState.ACCEPTED, None)


def test_a_crash_while_the_agent_is_asked(gate: Gate) -> None:
    """A message that was not known to be taken when the gateway died is run by the next one."""
    Offers(gate)
    steered(gate, "r2")

    again = gate.restarted()
    recovered(again)

    assert again.backend.started == ["r2"]
    assert state_of(again, "r1") == (RunState.FAILED, "interrupted")


def test_repeats_of_a_steering_message(gate: Gate) -> None:
    """A repeat offers nothing again, before and after the message was taken."""
    offers = Offers(gate)
    client = steered(gate, "r2")
    waiting = client.send("text of r2", run="r2", queueMode="steer").payload
    offers.pending[0].callback(True)
    taken = client.send("text of r2", run="r2", queueMode="steer").payload

    assert (waiting["status"], taken["status"]) == ("in_flight", "ok")
    assert len(offers.texts) == 1


def test_a_store_that_does_not_take_the_end_of_a_steering_message(
    gate: Gate, expected_failures: list[type[BaseException]]
) -> None:
    """A message that the agent has taken ends once, also if the store fails just then."""
    expected_failures.append(StoreError)
    offers = Offers(gate)
    client = steered(gate, "r2")
    gate.store.failing["finish_turn"] = StoreError("disk full")
    offers.pending[0].callback(True)
    del gate.store.failing["finish_turn"]
    gate.clock.advance(10)

    assert client.ends("r2") == (["final"], ["end"])
    assert state_of(gate, "r2") == (RunState.DONE, "steered")


def test_a_full_lane_takes_no_steering_message(gates: Gates) -> None:
    """A message that is to steer needs room in its lane like any other: it might have to wait."""
    gate = gates(limits={"lane_depth": 1})
    offers = Offers(gate)
    client = steered(gate, "r2")

    refused = client.send("three", run="r3", queueMode="steer").error

    assert refused["details"]["reason"] == "session-busy"
    assert offers.texts == ["text of r2"]
