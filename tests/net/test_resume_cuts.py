"""Nothing of a run is lost or doubled, wherever the connection of who reads it breaks."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.app.turn import Turn
from gateway.client.chat import Outcome
from gateway.model import Message, RunRequest
from gateway.testing import result_of
from tests.app.harness import ScriptedBackend
from tests.net.gate import Gate
from tests.net.resuming import Reader
from tests.unmeasured import unmeasured

FRAMES = 500
"""Frames about the run that a reader gets whose connection holds: the answer, which has the first event,
one for each word, and the end."""

WORDS = [f"word{number} " for number in range(FRAMES - 2)]


class Story:
    """A gateway with one run that goes on word by word."""

    def __init__(self) -> None:
        self.backend = ScriptedBackend()
        self.gate = Gate(backends={"main": self.backend})
        self.runs = self.gate.wiring.services.runs
        key = "agent:main:main"
        request = RunRequest(
            run_id="r1", session_key=key, session_id="", agent_id="main", text="hello"
        )
        message = Message(message_id="m", role="user", content=[], timestamp_ms=0, run_id="r1")
        result_of(
            self.runs.start(Turn(request, message, fingerprint="f", origin="chat", actor="a"))
        )
        self.gate.clock.advance(0)

    def say(self, word: str) -> None:
        """Let one more event be made, stored and sent."""
        self.backend.live["r1"].sink.text(word)
        self.gate.clock.advance(0.1)

    def end(self) -> None:
        self.backend.live["r1"].end()
        self.gate.clock.advance(0)

    def settle(self, *readers: Reader) -> None:
        """Give everybody the time to come back and to read on."""
        for _ in range(8):
            for reader in readers:
                reader.work()
            self.gate.clock.advance(0.01)

    def check(self, reader: Reader, text: str) -> None:
        """Check that a reader was told this text, byte for byte, and one end."""
        assert reader.told.text == text
        assert reader.told.end is not None
        assert reader.told.end.outcome is Outcome.FINAL
        assert reader.failures == []

    def close(self) -> None:
        assert len(self.gate.wiring.services.follows) == 0
        assert not self.runs.log.lost
        result_of(self.gate.wiring.store.stopService())


CASES = {"at once": (0, 25), "later": (7, 25), "at the end": (FRAMES, 1)}
"""When a reader comes back, counted in events of the run, and how far apart the frames are after which
connections are cut: who comes back at once gets every frame by itself, which takes the time."""


@pytest.mark.parametrize(("back_after", "apart"), CASES.values(), ids=CASES)
@unmeasured
def test_a_cut_at_every_frame_of_a_run(back_after: int, apart: int) -> None:
    """A run of 500 frames is told whole and once, wherever its readers' connections are cut in it."""
    story = Story()
    readers = {n: Reader(story.gate, [n]) for n in range(apart, FRAMES + 1, apart)}
    for step, word in enumerate(WORDS, 2):
        story.say(word)
        for n, reader in readers.items():
            if step - n == back_after:
                reader.work()
            elif reader.wire is not None:
                reader.read()
    story.end()
    story.settle(*readers.values())

    for n, reader in readers.items():
        story.check(reader, "".join(WORDS))
        assert reader.connections == 2, n
    story.close()


@unmeasured
def test_two_cuts() -> None:
    """A second cut, after any frame of the second connection, does no harm either."""
    story = Story()
    words = WORDS[:12]
    readers = [Reader(story.gate, [first, n]) for first in range(1, 14) for n in range(1, 8)]
    for word in words:
        story.say(word)
        for number, reader in enumerate(readers):
            if number % 3:
                reader.work()
            else:
                reader.read()
    story.end()
    story.settle(*readers)

    for reader in readers:
        story.check(reader, "".join(words))
    story.close()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.sampled_from(["a", "bb ", "é\n", "💧"])),
        st.tuples(st.just("rewrite"), st.sampled_from(["new ", "x"])),
        st.tuples(st.just("tool"), st.none()),
        st.tuples(st.just("join"), st.integers(1, 6)),
        st.tuples(st.just("cut"), st.integers(0, 5)),
        st.tuples(st.just("back"), st.none()),
        st.tuples(st.just("busy"), st.booleans()),
        st.tuples(st.just("wait"), st.sampled_from([0.0, 0.05, 1.0])),
    ),
    max_size=40,
)


class Chances(Story):
    """Readers, and whatever may happen to them, to the run and to the store."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: list[Reader] = []
        self.text = ""

    def do(self, what: str, how: Any) -> None:
        sink = self.backend.live["r1"].sink
        match what:
            case "say":
                self.text += how
                sink.text(how)
            case "rewrite":
                self.text = how
                sink.replace(how)
            case "tool":
                sink.emit("tool", {"phase": "start", "name": "ls", "toolCallId": "t"})
            case "join":
                self.readers.append(Reader(self.gate, [how] if how < 6 else []))
            case "cut":
                for reader in self.readers[how::2]:
                    reader.cut()
            case "back":
                for reader in self.readers:
                    reader.work()
            case "busy":
                for reader in self.readers[::2]:
                    reader.busy(how)
            case "wait":
                self.gate.clock.advance(how)
        for reader in self.readers:
            reader.read()


@unmeasured
@settings(max_examples=40, deadline=None)
@given(STEPS)
def test_whatever_happens(steps: list[tuple[str, Any]]) -> None:
    """Readers that come, are cut, are slow and come back read what was said, whatever the order."""
    story = Chances()
    for step in steps:
        story.do(*step)
    story.do("busy", False)
    story.end()
    story.settle(*story.readers)

    for reader in story.readers:
        story.check(reader, story.text)
    story.close()
