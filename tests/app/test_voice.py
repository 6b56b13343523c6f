"""What devices hear becomes turns, each utterance once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from gateway.app.voice import MAX_CHARS, MAX_KEY_CHARS
from gateway.errors import StoreError
from gateway.testing import result_of
from tests.app.harness import Call, Client, Gate

Gates = Callable[..., Gate]


def speak(node: Client, text: Any = "hello", **payload: Any) -> Call:
    """Send a transcript."""
    body = {"event": "voice.transcript", "payload": {"text": text, **payload}}
    return node.call("node.event", body)


@pytest.mark.parametrize("protocol", [3, 4])
def test_a_transcript_starts_a_turn(gate: Gate, protocol: int) -> None:
    """A transcript starts a turn in the main session, and everybody who may sees it."""
    node, watcher = gate.node(protocol), gate.client(7 - protocol)

    assert speak(node, "  turn on the light ").payload == {"ok": True}

    (run_id,) = gate.backend.started
    assert run_id.startswith("voice-")
    request = gate.live(run_id).request
    assert (request.session_key, request.text) == ("agent:main:main", "turn on the light")
    assert request.thinking == "low"
    gate.live(run_id).sink.text("done")
    gate.live(run_id).end()
    assert gate.messages() == [("user", "turn on the light"), ("assistant", "done")]
    assert watcher.ends(run_id) == (["final"], ["end"])
    assert node.frames == []
    record = result_of(gate.store.get_run(run_id))
    assert (record.origin, record.actor) == ("voice", "n1")


def test_the_session_it_names(gates: Gates) -> None:
    """A transcript goes to the session it names, in the canonical spelling of its key."""
    gate = gates(others=["other"])
    node = gate.node()
    for key in ("Kitchen", "agent:other:MAIN", " ", None, 5):
        speak(node, sessionKey=key)
        gate.clock.advance(2)

    keys = [live.request.session_key for live in gate.backend.live.values()]
    assert keys == ["agent:main:kitchen", "agent:main:main"]
    assert gate.runs.busy("agent:other:main")
    assert len(gate.runs) == 5


@pytest.mark.parametrize(
    "payload",
    [
        {"text": ""},
        {"text": " \n "},
        {"text": None},
        {"text": 5},
        {"text": "x" * (MAX_CHARS + 1)},
        {"sessionKey": "agent:"},
        {"sessionKey": "agent:nobody:main"},
        {"sessionKey": "k" * (MAX_KEY_CHARS + 1)},
    ],
)
def test_what_is_ignored(gate: Gate, payload: dict[str, Any]) -> None:
    """Silence, endless text and sessions that can not be are ignored without an error."""
    assert speak(gate.node(), **({"text": "hello"} | payload)).payload == {"ok": True}
    assert gate.backend.started == []
    assert len(gate.services.voice) == 0


def test_the_longest_text(gate: Gate) -> None:
    """A text of the longest length is taken."""
    speak(gate.node(), "x" * MAX_CHARS)

    assert len(gate.backend.started) == 1


def test_resent_events_make_one_turn(gate: Gate) -> None:
    """A provider that sends every event up to five times, late and out of order, makes one turn each."""
    node = gate.node()
    for event in ("e1", "e2", "e1", "e3", "e2", "e1", "e3", "e3"):
        speak(node, f"text of {event}", eventId=event)
        gate.clock.advance(20)

    texts = [text for role, text in gate.messages() if role == "user"]
    assert texts == ["text of e1", "text of e2", "text of e3"]


def test_two_people_who_say_yes(gate: Gate) -> None:
    """The same word twice is two turns if it has two identities, or if time has passed."""
    node = gate.node()
    for event in ("e1", "e2"):
        speak(node, "yes", eventId=event)
    speak(node, "yes")
    speak(node, "yes")
    gate.clock.advance(1.6)
    speak(node, "yes")

    assert [text for _, text in gate.messages()] == ["yes"] * 4


def test_a_refused_transcript_may_come_again(gates: Gates) -> None:
    """A transcript whose turn could not start is not remembered: its repeat starts one."""
    gate = gates(limits={"lane_depth": 1})
    node = gate.node()
    for event in ("e1", "e2"):
        speak(node, eventId=event)
    refused = speak(node, eventId="e3").error
    first, *_ = gate.backend.started
    gate.live(first).end()
    taken = speak(node, eventId="e3").payload

    assert refused["message"] == "too many messages wait in this session"
    assert taken == {"ok": True}
    assert len(gate.runs) == 2


def test_transcripts_are_decided_in_their_order(gate: Gate) -> None:
    """A transcript is decided when those before it in its session are; other sessions do not wait."""
    node = gate.node()
    gate.store.hanging.add("accept_turn")
    first = speak(node, eventId="e1")
    repeat = speak(node, eventId="e1")
    elsewhere = speak(node, sessionKey="kitchen", eventId="e1")
    undecided = (len(first.frames), len(repeat.frames), len(gate.store.held))

    gate.store.release()

    assert undecided == (0, 0, 2)
    assert first.payload == repeat.payload == elsewhere.payload == {"ok": True}
    assert len(gate.backend.started) == 2
    assert gate.services.voice._deciding == {}


def test_a_repeat_of_one_that_the_store_refuses(
    gate: Gate, expected_failures: list[type[BaseException]]
) -> None:
    """Where the store refuses the first, the repeat that waited behind it starts the turn."""
    expected_failures.append(StoreError)
    node = gate.node()
    accepting: Deferred[Any] = Deferred()
    accept_turn, gate.store.accept_turn = gate.store.accept_turn, lambda *_: accepting
    first = speak(node, eventId="e1")
    second = speak(node, eventId="e1")
    gate.store.accept_turn = accept_turn

    accepting.errback(StoreError("disk full"))

    assert first.error["retryable"]
    assert second.payload == {"ok": True}
    assert len(gate.backend.started) == 1
    assert gate.services.voice._deciding == {}
