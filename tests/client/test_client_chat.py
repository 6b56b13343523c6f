"""Reading one run out of chat events."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.client.chat import (
    ChatReader,
    Outcome,
    RunEnded,
    RunEvent,
    TextDelta,
    TextReplaced,
    merge_text,
    message_text,
)


def message(text):
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def delta(text, **more):
    return {"state": "delta", "message": message(text), **more}


def test_the_cumulative_text_becomes_increments():
    """Each delta's whole text is turned into what is new."""
    reader = ChatReader()

    events = [*reader.event(delta("Hel")), *reader.event(delta("Hello", deltaText="lo"))]

    assert events == [TextDelta("Hel"), TextDelta("lo")]


def test_a_lost_delta_does_no_harm():
    """When a delta was dropped, the next one makes up for it."""
    reader = ChatReader()
    reader.event(delta("a ", deltaText="a "))

    assert reader.event(delta("a b c ", deltaText="c ")) == [TextDelta("b c ")]


def test_a_repeated_delta_is_nothing():
    """A delta that adds nothing is no event."""
    reader = ChatReader()
    reader.event(delta("a"))

    assert reader.event(delta("a")) == []


def test_a_rewritten_text_is_told_whole():
    """A text that is no continuation replaces what was there."""
    reader = ChatReader()
    reader.event(delta("Hello"))

    assert reader.event(delta("Bye", deltaText="Bye", replace=True)) == [TextReplaced("Bye")]


def test_a_delta_without_a_message_is_an_increment():
    """Without the whole text the increment is appended, or with replace taken as the text."""
    reader = ChatReader()

    events = [
        *reader.event({"state": "delta", "deltaText": "a"}),
        *reader.event({"state": "delta", "deltaText": "b"}),
        *reader.event({"state": "delta", "deltaText": "x", "replace": True}),
        *reader.event({"state": "delta"}),
    ]

    assert events == [TextDelta("a"), TextDelta("b"), TextReplaced("x")]


def test_the_end_brings_what_is_missing():
    """The final event completes the text, then ends the run."""
    reader = ChatReader()
    reader.event(delta("Hello"))
    final = {"state": "final", "message": message("Hello world"), "stopReason": "stop"}

    first, second = reader.event(final)

    assert first == TextDelta(" world")
    assert second == RunEnded(Outcome.FINAL, "Hello world", stop_reason="stop", payload=final)
    assert reader.ended


def test_an_end_without_a_message_keeps_the_text():
    """A final event without a message ends with the text so far."""
    reader = ChatReader()
    reader.event(delta("Hello"))

    (end,) = reader.event({"state": "final"})

    assert isinstance(end, RunEnded)
    assert (end.outcome, end.text) == (Outcome.FINAL, "Hello")


def test_an_abort_has_the_partial_text():
    """An aborted run ends with what it had said."""
    (first, end) = ChatReader().event(
        {"state": "aborted", "stopReason": "rpc", "message": message("par")}
    )

    assert first == TextDelta("par")
    assert isinstance(end, RunEnded)
    assert (end.outcome, end.text, end.stop_reason) == (Outcome.ABORTED, "par", "rpc")


@pytest.mark.parametrize(
    ("payload", "text"),
    [({"errorMessage": "401 bad key"}, "401 bad key"), ({}, "the run failed")],
)
def test_an_error_says_what(payload, text):
    """A failed run ends with its message, or with a general one."""
    (end,) = ChatReader().event({"state": "error", "errorKind": "timeout", **payload})

    assert isinstance(end, RunEnded)
    assert (end.outcome, end.error_message, end.error_kind) == (Outcome.ERROR, text, "timeout")


def test_there_is_one_end():
    """What comes after the end is ignored, a second end as well as an answer."""
    reader = ChatReader()
    reader.event({"state": "error", "errorMessage": "x"})

    assert reader.event({"state": "final", "message": message("y")}) == []
    assert reader.event(delta("z")) == []
    assert reader.answer({"ok": True}) == []


@pytest.mark.parametrize("state", ["status", "delta", None, 7, "later"])
def test_states_without_text_are_skipped(state):
    """States that bring no text, known or not, are no event."""
    reader = ChatReader()

    assert reader.event({"state": state, "phase": "starting_model"}) == []
    assert not reader.ended


@pytest.mark.parametrize("status", ["started", "in_flight", "accepted", "queued", None])
def test_a_started_run_goes_on(status):
    """An answer that names a run which is under way ends nothing."""
    reader = ChatReader()

    assert reader.answer({"runId": "r", "status": status}) == []
    assert not reader.ended


@pytest.mark.parametrize(
    ("payload", "outcome"),
    [
        ({"ok": True, "aborted": True, "runIds": ["x"]}, Outcome.FINAL),
        (None, Outcome.FINAL),
        ({"runId": "r", "status": "ok"}, Outcome.FINAL),
        ({"runId": "r", "status": "error", "summary": "no key"}, Outcome.ERROR),
        ({"runId": "r", "status": "timeout", "stopReason": "rpc"}, Outcome.ABORTED),
    ],
)
def test_an_answer_can_be_the_end(payload, outcome):
    """A command that starts no run, and a repeat of one that is over, end with the answer."""
    (end,) = ChatReader().answer(payload)

    assert isinstance(end, RunEnded)
    assert end.outcome is outcome
    assert end.error_message == ("no key" if outcome is Outcome.ERROR else None)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, None),
        ("text", None),
        ({}, None),
        ({"content": 5}, None),
        ({"content": "plain"}, "plain"),
        ({"content": []}, ""),
        ({"content": [{"type": "text", "text": "a"}, {"type": "thinking", "text": "b"}]}, "a"),
        ({"content": ["x", {"type": "text"}, {"type": "text", "text": "c"}]}, "c"),
    ],
)
def test_the_text_of_a_message(value, text):
    """Only text blocks are visible text, and what is no message has none."""
    assert message_text(value) == text


CHANGES = st.lists(
    st.one_of(
        st.builds(TextDelta, st.text(max_size=3)), st.builds(TextReplaced, st.text(max_size=3))
    ),
    max_size=8,
)


def _applied(text, events):
    for event in events:
        text = text + event.text if isinstance(event, TextDelta) else event.text
    return text


@given(CHANGES)
def test_merged_events_say_the_same(events):
    """Merging neighbours never changes the text that a reader ends up with."""
    merged: list[RunEvent] = []
    for event in events:
        joined = merge_text(merged[-1], event) if merged else None
        if joined is None:
            merged.append(event)
        else:
            merged[-1] = joined

    assert _applied("before", merged) == _applied("before", events)
    assert len(merged) <= 1


def test_an_end_is_never_merged():
    """The end of a run stays an event of its own."""
    end = RunEnded(Outcome.FINAL, "")

    assert merge_text(TextDelta("a"), end) is None
    assert merge_text(end, TextDelta("a")) is None
    assert merge_text(end, TextReplaced("a")) is None


def test_reading_from_the_start_again_tells_nothing_twice():
    """After starting over, what was told before is passed over until there is more."""
    reader = ChatReader()
    reader.append("abc")
    reader.start_over()

    events = [reader.append(text) for text in ("a", "b", "c", "d")]

    assert events == [[], [], [], [TextDelta("d")]]


def test_another_start_replaces_what_was_told():
    """After starting over, text that differs replaces what was told."""
    reader = ChatReader()
    reader.append("abc")
    reader.start_over()

    assert [reader.append("a"), reader.append("x")] == [[], [TextReplaced("ax")]]


def test_nothing_follows_the_end():
    """After its end a run takes in neither text nor another end."""
    reader = ChatReader()
    reader.end(Outcome.FINAL, {})

    assert reader.append("x") == []
    assert reader.end(Outcome.ERROR, {}) == []
    assert reader.text == ""
