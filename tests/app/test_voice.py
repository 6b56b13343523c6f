"""What devices hear becomes turns, each utterance once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from gateway.app.nodeturns import MAX_CHARS, MAX_KEY_CHARS
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


def test_an_item_that_is_told_of_again_and_again(gate: Gate) -> None:
    """A provider that tells of one item under five event ids makes one turn, over a restart as well."""
    for number in range(3):
        speak(gate.node(device_id=f"n{number}"), "hello", eventId=f"e{number}", itemId="i1")
        gate.clock.advance(0.5)
    later = gate.restarted()
    for number in (3, 4):
        speak(later.node(), "hello", eventId=f"e{number}", itemId="i1")

    assert gate.messages() == [("user", "hello")]


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
    gate = gates(limits={"node_turns_waiting": 1})
    node = gate.node()
    for event in ("e1", "e2"):
        speak(node, eventId=event)
    refused = speak(node, eventId="e3").error
    first, *_ = gate.backend.started
    gate.live(first).end()
    taken = speak(node, eventId="e3").payload

    assert refused["message"] == "too many messages of this node wait in this session"
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


def answer(gate: Gate, text: str = "And now?") -> None:
    """Let the run that goes say something and end."""
    run = next(run for run in gate.runs.unended if run.run_id in gate.backend.live)
    gate.live(run.run_id).sink.text(text)
    gate.live(run.run_id).end()
    gate.clock.advance(0.2)


@pytest.mark.parametrize("protocol", [3, 4])
def test_yes_to_two_questions(gate: Gate, protocol: int) -> None:
    """The same word without an id is another turn once the agent has said something to the first."""
    node = gate.node(protocol)
    speak(node, "yes")
    speak(node, "yes")
    answer(gate)
    speak(node, "yes")
    speak(node, "yes")

    assert [text for role, text in gate.messages() if role == "user"] == ["yes", "yes"]


def test_a_resend_after_the_answer(gate: Gate) -> None:
    """What comes again with its id, or with its time, is no new turn, however fast the agent answered."""
    node = gate.node()
    for mark in ({"eventId": "e1"}, {"timestamp": 1234}):
        speak(node, "yes", **mark)
        answer(gate)
        speak(node, "yes", **mark)

    assert len(gate.backend.started) == 2


def test_a_run_that_said_nothing_is_no_question(gate: Gate) -> None:
    """A run that ends without a word leaves the comparison as it was."""
    node = gate.node()
    speak(node, "yes")
    answer(gate, "")
    speak(node, "yes")

    assert len(gate.backend.started) == 1


def test_what_is_still_heard_is_no_turn(gate: Gate) -> None:
    """An interim transcript starts nothing, and does not cost the final one its turn."""
    node = gate.node()
    speak(node, "turn on", itemId="i1", final=False)
    speak(node, "turn on the light", itemId="i1", final=True)

    assert [text for _, text in gate.messages()] == ["turn on the light"]


def test_a_generation_that_was_superseded(gate: Gate) -> None:
    """What comes late of an earlier turn of the call starts nothing; another call has its own turns."""
    node = gate.node()
    for call, generation, text in (
        ("c", 1, "one"),
        ("c", 3, "three"),
        ("c", 2, "two, late"),
        ("c", 3, "three again"),
        ("d", 1, "one elsewhere"),
    ):
        speak(node, text, callId=call, generation=generation, eventId=f"{call}{text}")

    assert [text for _, text in gate.messages()] == ["one", "three", "three again", "one elsewhere"]
    assert len(gate.services.voice) == 4 + 1 + 2


def test_a_refused_transcript_supersedes_nothing(gates: Gates) -> None:
    """A newer turn that could not start leaves the earlier one its place."""
    gate = gates(limits={"lane_depth": 1})
    node = gate.node()
    for generation in (1, 1):
        speak(node, f"t{len(gate.runs)}", callId="c", generation=generation)
    assert speak(node, "refused", callId="c", generation=2).error
    first, *_ = gate.backend.started
    gate.live(first).end()
    gate.clock.advance(0.2)

    speak(node, "late but valid", callId="c", generation=1)

    assert gate.messages()[-1] == ("user", "late but valid")


def test_a_session_that_takes_no_messages(gate: Gate) -> None:
    """Where messages are denied, spoken ones are too; once they are allowed again a resend is taken."""
    node, person = gate.node(), gate.client()
    person.ok("sessions.patch", {"key": "main", "sendPolicy": "deny"})
    assert speak(node, eventId="e1").payload == {"ok": True}
    silent = len(gate.backend.started)
    person.ok("sessions.patch", {"key": "main", "sendPolicy": None})
    speak(node, eventId="e1")

    assert (silent, len(gate.backend.started)) == (0, 1)


def test_where_it_comes_from(gate: Gate) -> None:
    """A transcript says that it was spoken; its agent gets the words as they are."""
    speak(gate.node(), "hello")

    (message,) = gate.client().ok("chat.history", {"sessionKey": "main"})["messages"]
    assert message["provenance"]["sourceChannel"] == "voice"
    (run_id,) = gate.backend.started
    assert gate.live(run_id).request.text == "hello"


def test_the_sweep_forgets_calls(gate: Gate) -> None:
    """After five minutes nothing of a call is left."""
    speak(gate.node(), callId="c", generation=1, eventId="e1")
    gate.clock.advance(301)

    assert gate.services.voice.sweep(gate.clock.seconds()) == 3
    assert len(gate.services.voice) == 0


@pytest.mark.parametrize("gap_s", [0, 200, 299])
def test_a_resend_after_a_crash(gate: Gate, gap_s: int) -> None:
    """What was taken is known for five minutes by its identity also where the gateway died meanwhile."""
    speak(gate.node(), "yes", eventId="e1")
    gate.clock.advance(gap_s)
    later = gate.restarted()
    node = later.node()
    for event in ("e1", "e1", "e2"):
        speak(node, "yes", eventId=event)

    assert [text for _, text in gate.messages()] == ["yes", "yes"]


def test_an_identity_that_is_used_again(gate: Gate) -> None:
    """After more than five minutes the same id is another utterance, with a restart in between or not."""
    speak(gate.node(), "one", eventId="1")
    gate.clock.advance(301)
    speak(gate.node(), "two", eventId="1")
    gate.clock.advance(301)
    later = gate.restarted()
    speak(later.node(), "three", eventId="1")
    later.clock.advance(301)
    speak(later.node(), "four", eventId="1")

    assert [text for _, text in gate.messages()] == ["one", "two", "three", "four"]
