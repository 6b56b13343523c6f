"""What an agent reports, as a run's sink gets it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.agents.acp_updates import THINKING_CHARS, TOOL_CALLS, VALUE_BYTES, TurnUpdates, bounded
from gateway.testing import FakeClock
from tests.agents.fakes import RecordingSink


class Turn:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.sink = RecordingSink()
        self.updates = TurnUpdates(self.sink, self.clock.seconds)

    def report(self, report: str, /, **update: Any) -> None:
        self.updates.update({"sessionUpdate": report} | update)

    def say(self, text: str) -> None:
        self.report("agent_message_chunk", content={"type": "text", "text": text})

    def think(self, text: str) -> None:
        self.report("agent_thought_chunk", content={"type": "text", "text": text})


@pytest.fixture
def turn() -> Turn:
    return Turn()


def test_message_chunks_are_text(turn: Turn) -> None:
    """Chunks are the increments of the answer, byte for byte."""
    for text in ("Hel", "lo ", "", " wörld\n"):
        turn.say(text)

    assert turn.sink.parts == ["Hel", "lo ", " wörld\n"]


def test_thoughts_are_cumulative_and_paced(turn: Turn) -> None:
    """Thoughts carry all so far and what is new, at most every 100 ms, and none is lost."""
    turn.think("a")
    turn.think("b")
    turn.think("c")
    turn.clock.advance(0.1)
    turn.think("d")
    turn.think("e")
    turn.say("done")

    assert turn.sink.events == [
        ("thinking", {"text": "a", "delta": "a"}),
        ("thinking", {"text": "abcd", "delta": "bcd"}),
        ("thinking", {"text": "abcde", "delta": "e"}),
    ]
    assert turn.sink.said == "done"


def test_a_long_thought_keeps_its_end(turn: Turn) -> None:
    """The cumulative text of a thought is bounded."""
    turn.think("x" * THINKING_CHARS)
    turn.clock.advance(1)
    turn.think("end")

    text = turn.sink.events[-1][1]["text"]
    assert len(text) == THINKING_CHARS
    assert text.endswith("xend")


def test_a_tool_call_starts_updates_and_ends(turn: Turn) -> None:
    """A tool call is told from its start to its result, under one id and name."""
    output = [{"type": "content", "content": {"type": "text", "text": "3 files"}}]
    turn.report(
        "tool_call",
        toolCallId="t1",
        title="ls -l",
        kind="execute",
        status="pending",
        rawInput={"command": "ls"},
    )
    turn.report("tool_call_update", toolCallId="t1", status="in_progress")
    turn.report("tool_call_update", toolCallId="t1", status="in_progress", content=output)
    turn.report(
        "tool_call_update", toolCallId="t1", status="completed", content=output, rawOutput=0
    )

    call = {"name": "execute", "toolCallId": "t1"}
    result = {"content": [{"type": "text", "text": "3 files"}]}
    assert turn.sink.events == [
        ("tool", {"phase": "start", **call, "args": {"command": "ls"}, "title": "ls -l"}),
        ("tool", {"phase": "update", **call, "partialResult": result}),
        ("tool", {"phase": "result", **call, "isError": False, "result": {**result, "details": 0}}),
    ]


def test_a_tool_call_may_be_told_at_its_end_only(turn: Turn) -> None:
    """A call that is reported when it has failed still has a start."""
    diff = {"type": "diff", "path": "/w/a.py", "oldText": "a", "newText": "b"}
    turn.report("tool_call_update", toolCallId="t1", status="failed", content=[diff])

    (_, start), (_, result) = turn.sink.events
    assert start == {"phase": "start", "name": "other", "toolCallId": "t1", "args": {}}
    assert result["isError"] is True
    assert result["result"] == {"content": [{"type": "text", "text": "changed /w/a.py"}]}


def test_words_around_a_tool_call_are_paragraphs(turn: Turn) -> None:
    """What is said after a tool call does not run into what was said before it."""
    turn.report("tool_call", toolCallId="t0", title="x")
    turn.say("I look.")
    turn.report("tool_call", toolCallId="t1", title="x")
    turn.say("Found")
    turn.say(" it.\n")
    turn.report("tool_call", toolCallId="t2", title="x")
    turn.say("Done.")

    assert turn.sink.said == "I look.\n\nFound it.\nDone."


def test_a_plan_is_told_whole(turn: Turn) -> None:
    """A plan gives its steps as text and as entries."""
    turn.report("plan", entries=[{"content": "look", "priority": "high", "status": "pending"}, 5])

    entry = {"content": "look", "priority": "high", "status": "pending"}
    assert turn.sink.events == [
        ("plan", {"phase": "update", "steps": ["look"], "entries": [entry]})
    ]


def test_tool_calls_are_bounded(turn: Turn) -> None:
    """An agent that starts tool calls for ever does not fill the memory."""
    for number in range(TOOL_CALLS + 50):
        turn.report("tool_call", toolCallId=str(number), title="x")

    assert len(turn.updates._tools) == TOOL_CALLS


def test_a_large_value_is_cut_and_says_so() -> None:
    """A result over the bound keeps a readable beginning and the size it had."""
    value = {"content": [{"type": "text", "text": "ä" * VALUE_BYTES}]}

    cut = bounded(value)

    assert cut["truncated"] is True
    assert cut["bytes"] == len(msgspec.json.encode(value))
    assert cut["preview"].startswith('{"content":[{"type":"text","text":"ää')
    assert len(msgspec.json.encode(cut)) < VALUE_BYTES
    assert bounded({"a": 1}) == {"a": 1}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)
KINDS = st.sampled_from(
    ["agent_message_chunk", "agent_thought_chunk", "tool_call", "tool_call_update", "plan", "other"]
)
FIELDS = st.sampled_from(
    ["content", "toolCallId", "status", "rawInput", "rawOutput", "entries", "kind", "title"]
)


@settings(max_examples=50)
@given(st.lists(st.tuples(KINDS, st.dictionaries(FIELDS, JSON | st.sampled_from(["t", "failed"])))))
def test_no_report_raises(reports: list[tuple[str, dict[str, Any]]]) -> None:
    """What has not the shape of the protocol is left out, never an error."""
    turn = Turn()

    for kind, fields in reports:
        turn.report(kind, **fields)

    msgspec.json.encode(turn.sink.events)
