"""What became of a run, by the answers of the protocol's own methods."""

from __future__ import annotations

import pytest

from gateway.client.chat import Outcome
from gateway.client.inquiry import answer_in, outcome_in


def said(role, text, **place):
    message = {"role": role, "content": [{"type": "text", "text": text}]}
    return {**message, "__openclaw": place} if place else message


@pytest.mark.parametrize(
    ("waited", "outcome"),
    [
        ({"status": "ok"}, Outcome.FINAL),
        ({"status": "error", "error": "x"}, Outcome.ERROR),
        ({"status": "timeout", "endedAt": 5}, Outcome.ABORTED),
        ({"status": "timeout"}, None),
        ({"status": "pending"}, None),
        ({}, None),
        (None, None),
    ],
)
def test_outcomes(waited, outcome):
    """The statuses ok and error are ends; a timeout is one only with the time of the end."""
    assert outcome_in(waited) is outcome


def test_messages_that_name_their_run():
    """Where messages name their runs, the last that was said in it counts."""
    messages = [
        said("user", "q", runId="r"),
        said("assistant", "first", runId="r"),
        said("assistant", "second", runId="r"),
        said("assistant", "other", runId="x"),
    ]

    assert answer_in({"messages": messages}, "r", "q") == "second"


@pytest.mark.parametrize("key", ["r", "r:user"])
def test_messages_with_the_key_of_the_question(key):
    """Where only the question has a key, the answer is what was said before the next question."""
    messages = [
        said("user", "q", idempotencyKey="x"),
        said("assistant", "not this"),
        said("user", "q", idempotencyKey=key),
        {"role": "assistant", "content": [{"type": "toolCall", "id": "1"}]},
        said("assistant", "this"),
        said("toolResult", "no"),
        said("user", "q"),
        said("assistant", "nor this"),
    ]

    assert answer_in({"messages": messages[:6]}, "r", None) == "this"
    assert answer_in({"messages": messages}, "r", None) == "this"


def test_messages_without_names():
    """Where nothing is named, the question is found by its text, the last one of it."""
    messages = [
        said("user", "q"),
        said("assistant", "old"),
        said("user", "q "),
        said("assistant", "new"),
    ]

    assert answer_in({"messages": messages}, "r", "q") == "new"
    assert answer_in({"messages": messages}, "r", "other") is None
    assert answer_in({"messages": messages}, "r", None) is None


@pytest.mark.parametrize(
    "history",
    [
        None,
        {},
        {"messages": {}},
        {"messages": [None, {}, {"role": "user"}]},
        {"messages": [said("user", "q")]},
    ],
)
def test_no_answer(history):
    """A history without the question, or without an answer, tells nothing."""
    assert answer_in(history, "r", "q") is None
