"""What an agent reports, as a run's sink gets it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.agents import acp_updates
from gateway.agents.acp_updates import (
    THINKING_CHARS,
    SessionFacts,
    TurnUpdates,
    choices,
)
from gateway.testing import FakeClock
from tests.agents.fakes import RecordingSink


class Turn:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.sink = RecordingSink()
        self.errors: list[Exception] = []
        self.updates = TurnUpdates(self.sink, self.clock, self.errors.append)

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
    turn.clock.advance(1)

    assert turn.sink.events == [
        ("thinking", {"text": "a", "delta": "a"}),
        ("thinking", {"text": "abc", "delta": "bc"}),
        ("thinking", {"text": "abcde", "delta": "de"}),
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


def test_words_around_a_tool_call_are_paragraphs(turn: Turn) -> None:
    """What is said after a tool call does not run into what was said before it."""
    turn.report("tool_call", toolCallId="t0", title="x")
    turn.say("I look.")
    turn.report("tool_call", toolCallId="t1", title="x")
    turn.say("Found")
    turn.say(" it.\n")
    turn.report("tool_call", toolCallId="t2", title="x")
    turn.say("Done.")
    turn.updates.finish()

    assert turn.sink.said == "I look.\n\nFound it.\nDone."


def test_a_plan_is_told_whole(turn: Turn) -> None:
    """A plan gives its steps as text and as entries."""
    turn.report("plan", entries=[{"content": "look", "priority": "high", "status": "pending"}, 5])

    entry = {"content": "look", "priority": "high", "status": "pending"}
    assert turn.sink.events == [
        ("plan", {"phase": "update", "steps": ["look"], "entries": [entry]})
    ]


def test_usage_modes_and_what_is_only_remembered(turn: Turn) -> None:
    """Usage and a change of mode are told; commands, options, titles and the user's words are not."""
    turn.report("usage_update", used=10, size=100, cost={"amount": 0.5, "currency": "USD"})
    turn.report("usage_update", used="x")
    turn.report("current_mode_update", currentModeId="plan")
    for kind in ("available_commands_update", "config_option_update", "session_info_update"):
        turn.report(kind, availableCommands=[], configOptions=[], title="t")
    turn.report("user_message_chunk", content={"type": "text", "text": "mine"})

    cost = {"amount": 0.5, "currency": "USD"}
    assert turn.sink.events == [
        ("usage", {"contextTokens": 10, "contextWindow": 100, "cost": cost}),
        ("notice", {"kind": "mode", "text": "the agent is in mode plan"}),
    ]
    assert turn.updates.context_tokens == 10
    assert turn.sink.said == ""


def test_content_that_is_no_text_is_named(turn: Turn) -> None:
    """A picture, a link or a file in an answer is shown as what it is."""
    for content in (
        {"type": "resource_link", "name": "a", "uri": "file:///a"},
        {"type": "image", "mimeType": "image/png", "data": "x"},
        {"type": "resource", "resource": {"uri": "file:///b", "text": "inside"}},
        {"type": "resource", "resource": {"uri": "file:///b"}},
        {"type": "hologram"},
    ):
        turn.report("agent_message_chunk", content=content)
    turn.updates.finish()

    assert turn.sink.said == "[a](file:///a)[image: image/png]inside[file:///b]"


@pytest.mark.parametrize(
    ("stream", "data", "told"),
    [
        ("notice", {"text": "x"}, True),
        ("compaction", {"phase": "start"}, True),
        ("run_status", {"phase": "starting_model"}, True),
        ("lifecycle", {"phase": "model", "provider": "p"}, True),
        ("lifecycle", {"phase": "fallback_step"}, True),
        ("lifecycle", {"phase": "end"}, False),
        ("lifecycle", {"phase": ["end"]}, False),
        ("assistant", {"delta": "x"}, False),
        ("tool", {"phase": "start"}, False),
        (["notice"], {}, False),
        ("notice", [], False),
    ],
)
def test_the_words_of_our_own_agents(turn: Turn, stream: Any, data: Any, told: bool) -> None:
    """An agent of ours reports on a few streams, and says nothing that only the run itself says."""
    assert turn.updates.event(stream, data) is told
    assert turn.sink.events == ([(stream, data)] if told else [])


def test_what_an_agent_says_of_a_session() -> None:
    """Mode, models, options, commands and title are remembered, the latest of each."""
    facts = SessionFacts()
    option = {"id": "model", "category": "model", "options": [{"value": "a"}, {"value": "b"}]}
    grouped = {"id": "t", "category": "thought_level", "options": [{"options": [{"value": "low"}]}]}
    facts.opened(
        {
            "modes": {"currentModeId": "ask"},
            "models": {"currentModelId": "m", "availableModels": [{"modelId": "m"}, 5]},
            "configOptions": [option, 7],
        }
    )
    assert (facts.mode, facts.model, facts.models) == ("ask", "m", ("m",))
    facts.update({"sessionUpdate": "config_option_update", "configOptions": [option, grouped]})
    facts.update({"sessionUpdate": "current_mode_update", "currentModeId": "plan"})
    facts.update({"sessionUpdate": "session_info_update", "title": "T"})
    commands = [{"name": "init"}, 3]
    facts.update({"sessionUpdate": "available_commands_update", "availableCommands": commands})

    assert (facts.mode, facts.title, facts.commands) == ("plan", "T", ("init",))
    assert choices(facts.option("model") or {}) == ("a", "b")
    assert choices(facts.option("thought_level") or {}) == ("low",)
    assert facts.option("mode") is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)
KINDS_KNOWN = sorted(acp_updates.KINDS)
KINDS = st.sampled_from([*KINDS_KNOWN, "other"])
FIELDS = st.sampled_from(
    [
        *("content", "toolCallId", "status", "rawInput", "rawOutput", "entries", "kind", "title"),
        *("locations", "used", "size", "cost", "currentModeId", "configOptions"),
    ]
)


@settings(max_examples=50)
@given(st.lists(st.tuples(KINDS, st.dictionaries(FIELDS, JSON | st.sampled_from(["t", "failed"])))))
def test_no_report_raises(reports: list[tuple[str, dict[str, Any]]]) -> None:
    """What has not the shape of the protocol is left out, never an error."""
    turn, facts = Turn(), SessionFacts()

    for kind, fields in reports:
        turn.report(kind, **fields)
        facts.update({"sessionUpdate": kind} | fields)
        facts.opened(fields)
    turn.updates.finish()
    assert turn.errors == []

    msgspec.json.encode(turn.sink.events)
