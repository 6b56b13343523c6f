"""What a backend says becomes paced, ordered events."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from zope.interface.verify import verifyObject

from gateway.core.run import EncodeFailed
from gateway.interfaces import IRunSink
from gateway.testing import result_of
from tests.app.harness import Client, Gate

INTERVAL_S = 0.1


def deltas(client: Client) -> list[str]:
    """Return the increments of the chat deltas so far."""
    return [event["deltaText"] for event in client.events("chat") if event["state"] == "delta"]


@pytest.fixture
def client(gate: Gate) -> Client:
    """Return a client that has a run going."""
    client = gate.client()
    client.send("hello")
    return client


def test_it_provides_its_interface(gate: Gate, client: Client) -> None:
    """A sink is what backends are promised."""
    verifyObject(IRunSink, gate.live().sink)


def test_pacing(gate: Gate, client: Client) -> None:
    """The first text goes out at once, what comes within the interval together at its end."""
    sink = gate.live().sink

    sink.text("a")
    at_once = deltas(client)
    sink.text("b")
    gate.clock.advance(INTERVAL_S / 2)
    sink.text("c")
    within = deltas(client)
    gate.clock.advance(INTERVAL_S / 2)
    after = deltas(client)

    assert (at_once, within, after) == (["a"], ["a"], ["a", "bc"])


def test_the_rate(gate: Gate, client: Client) -> None:
    """However fast a backend talks, deltas are 75 to 150 ms apart, and nothing of the text is missing."""
    sink = gate.live().sink
    for number in range(200):
        sink.text(f"{number} ")
        gate.clock.advance(0.007)
    gate.live().end()

    times = [
        event["message"]["timestamp"]
        for event in client.events("chat")
        if event["state"] == "delta"
    ]
    gaps = [later - earlier for earlier, later in pairwise(times[:-1])]
    assert all(75 <= gap <= 150 for gap in gaps)
    assert "".join(deltas(client)) == "".join(f"{number} " for number in range(200))


def test_silence_arms_nothing(gate: Gate, client: Client) -> None:
    """After an interval without text nothing is pending, and the next text goes out at once."""
    sink = gate.live().sink
    sink.text("a")
    gate.clock.advance(1)
    pending = len(gate.clock.getDelayedCalls())

    sink.text("b")

    assert pending == 1  # the timeout of the run
    assert deltas(client) == ["a", "b"]


def test_the_last_text_comes_before_the_end(gate: Gate, client: Client) -> None:
    """What is still collected when the run ends is sent as a delta before the final."""
    sink = gate.live().sink
    sink.text("a")
    sink.text("b")

    gate.live().end()

    assert deltas(client) == ["a", "b"]
    assert [event["state"] for event in client.events("chat")] == ["delta", "delta", "final"]


def test_increments_and_whole_texts_agree(gate: Gate, client: Client) -> None:
    """Every delta carries the whole text so far; a rewrite says so, and its increment is the text."""
    sink = gate.live().sink
    for step in ("Hel", "lo", None, "Good", "bye"):
        if step is None:
            sink.replace("")
        else:
            sink.text(step)
        gate.clock.advance(0.2)

    shown, texts = "", []
    for event in client.events("chat"):
        shown = event["deltaText"] if event.get("replace") else shown + event["deltaText"]
        texts.append(shown)
        assert event["message"]["content"][0]["text"] == shown
    assert texts == ["Hel", "Hello", "", "Good", "Goodbye"]
    agent = [e["data"] for e in client.events("agent") if e["stream"] == "assistant"]
    assert [data["text"] for data in agent] == texts
    assert [data.get("replace", False) for data in agent] == [False, False, True, False, False]


def test_no_text(gate: Gate, client: Client) -> None:
    """An empty piece of text is no event."""
    gate.live().sink.text("")

    assert deltas(client) == []


def test_text_and_tools_keep_their_order(gates: Any) -> None:
    """A tool event goes out at once, after the text before it; the text after it waits an interval."""
    gate: Gate = gates()
    client = gate.client(caps=["tool-events"])
    client.send("hello")
    sink = gate.live().sink

    sink.text("a")
    sink.text("b")
    gate.clock.advance(0.05)
    sink.emit("tool", {"phase": "start", "name": "ls"})
    sink.text("c")
    gate.clock.advance(0.07)
    early = deltas(client)
    gate.clock.advance(0.03)

    streams = [(e["stream"], e["data"].get("delta")) for e in client.events("agent")]
    assert streams[1:] == [
        ("assistant", "a"),
        ("assistant", "b"),
        ("tool", None),
        ("assistant", "c"),
    ]
    assert early == ["a", "b"]


def test_data_that_have_no_json_form(gate: Gate, client: Client) -> None:
    """What can't be encoded is refused to the backend, takes no number and does not end the run."""
    sink = gate.live().sink
    with pytest.raises(EncodeFailed):
        sink.emit("tool", {"result": object()})
    for stream in ("assistant", "lifecycle"):
        with pytest.raises(ValueError, match="only the run itself"):
            sink.emit(stream, {"phase": "end"})
    sink.text("a")
    gate.live().end()

    assert [event["seq"] for event in client.events("agent")] == [1, 2, 3]
    assert client.ends() == (["final"], ["end"])


def test_history_is_what_was_said_before(gate: Gate) -> None:
    """A backend sees the turns before its own: not its own message, nor those that wait behind it."""
    client = gate.client()
    for run in ("r1", "r2", "r3"):
        client.send(f"question {run}", run=run)
    first = result_of(gate.live("r1").sink.history(10))
    gate.live("r1").sink.text("answer r1")
    gate.live("r1").end()

    history = result_of(gate.live("r2").sink.history(10))
    one = result_of(gate.live("r2").sink.history(1))
    none = result_of(gate.live("r2").sink.history(0))

    assert first == none == ()
    assert [(m.role, m.run_id) for m in history] == [("user", "r1"), ("assistant", "r1")]
    assert one == history[1:]
