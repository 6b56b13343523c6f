"""How a transcript looks on the wire."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.transcript import (
    CUT,
    MAX_CHARS_V3,
    MAX_CHARS_V4,
    MAX_MESSAGE_BYTES,
    MAX_TOTAL_BYTES,
    OMITTED,
    preview,
    text_of,
    user_content,
    wire_message,
    wire_messages,
)
from gateway.model import Attachment, Message
from tests.core.schemas import VERSIONS


def message(text: str = "hi", **extra: Any) -> Message:
    """Return a message of the assistant."""
    content = [{"type": "text", "text": text}]
    facts = {"message_id": "m1", "role": "assistant", "content": content, "timestamp_ms": 5}
    return Message(**{**facts, **extra})


def shown_text(shown: dict[str, Any]) -> str:
    """Return the text of a message on the wire."""
    return text_of(shown["content"])


def test_the_content_of_a_users_message() -> None:
    """The text is a block; of an attachment only what it was is kept."""
    files = [
        Attachment(mime_type="image/png", data=b"12345", file_name="a.png", kind="image"),
        Attachment(mime_type="text/plain", data=b""),
    ]
    assert user_content("hi", files) == [
        {"type": "text", "text": "hi"},
        {
            "type": "image",
            "mimeType": "image/png",
            "omitted": True,
            "bytes": 5,
            "fileName": "a.png",
        },
        {"type": "file", "mimeType": "text/plain", "omitted": True, "bytes": 0},
    ]
    assert user_content("") == []


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("plain", "plain"),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "a\nb"),
        ([{"type": "image"}, {"type": "text", "text": 5}, {"type": "text"}, "x", None], ""),
        ({"type": "text", "text": "a"}, ""),
        (None, ""),
        ([], ""),
    ],
)
def test_the_text_of_content(content: Any, text: str) -> None:
    """Text blocks are joined by lines; whatever else stands there has no text."""
    assert text_of(content) == text


@given(st.text(), st.integers(1, 50))
def test_a_preview_is_one_bounded_line(text: str, limit: int) -> None:
    """White space collapses, and what is too long ends with an ellipsis."""
    line = preview(text, limit)
    whole = " ".join(text.split())
    assert len(line) <= limit
    assert line == whole or (line.endswith("…") and whole.startswith(line[:-1]))
    assert (line == whole) is (len(whole) <= limit)


@pytest.mark.parametrize("protocol", VERSIONS)
def test_a_message_on_the_wire(protocol: int) -> None:
    """Both versions show role, content and time; version 4 its id and place."""
    held = message(seq=3, run_id="r", stop_reason="stop", meta={"model": "m", "role": "system"})
    shown = wire_message(held, protocol)

    place = shown.pop("__openclaw", None)
    assert shown == {
        "role": "assistant",
        "content": [{"type": "text", "text": "hi"}],
        "timestamp": 5,
        "model": "m",
        "stopReason": "stop",
    }
    assert place == ({"id": "m1", "seq": 3, "runId": "r"} if protocol == 4 else None)


def test_a_users_message_tells_its_idempotency_key() -> None:
    """Version 4's clients find their own message again by the key of its run."""
    mine = wire_message(message(role="user", run_id="r"), 4)["__openclaw"]
    assert mine["idempotencyKey"] == "r:user"
    bare = wire_message(message(role="user"), 4)
    assert bare["__openclaw"] == {"id": "m1", "seq": 0}
    assert "stopReason" not in bare


def test_the_limits_are_those_of_the_protocol() -> None:
    """Characters of a text by version, bytes of a message, bytes of a history."""
    assert (MAX_CHARS_V3, MAX_CHARS_V4) == (12_000, 8_000)
    assert (MAX_MESSAGE_BYTES, MAX_TOTAL_BYTES) == (131_072, 6_291_456)


@pytest.mark.parametrize(("protocol", "limit"), [(3, MAX_CHARS_V3), (4, MAX_CHARS_V4)])
@pytest.mark.parametrize("as_text", [True, False])
def test_long_texts_are_cut(protocol: int, limit: int, as_text: bool) -> None:
    """A text of a message is cut at the version's limit, be it the content or one of its blocks."""
    for length, cut in ((limit, False), (limit + 1, True)):
        text = "x" * length
        content = text if as_text else [{"type": "text", "text": text}, {"type": "image"}, "odd"]
        held = message(content=content)
        (shown,) = wire_messages([held], protocol)
        assert shown_text(shown) == ("x" * limit + CUT if cut else text)
        assert held.content == content


def test_the_limit_can_be_asked_for() -> None:
    """A client may ask for shorter or longer texts."""
    (short,) = wire_messages([message("x" * 50)], 4, max_chars=10)
    (long,) = wire_messages([message("x" * 200_000)], 4, max_chars=300_000)
    assert shown_text(short) == "x" * 10 + CUT
    assert len(shown_text(long)) == 200_000


def test_a_huge_message_is_replaced() -> None:
    """A message that is large though its texts are cut is left out, and says so."""
    blocks = [{"type": "text", "text": "x" * 5_000} for _ in range(40)]
    (shown,) = wire_messages([message(content=blocks)], 4)
    assert shown["content"] == [{"type": "text", "text": OMITTED}]
    assert shown["__openclaw"]["id"] == "m1"
    odd = message(content={"type": "text", "text": "x" * MAX_MESSAGE_BYTES})
    assert wire_messages([odd], 4)[0]["content"] == [{"type": "text", "text": OMITTED}]


def test_the_oldest_messages_go_first() -> None:
    """Beyond the total the oldest are dropped; the newest is always there; order is kept."""
    messages = [message("x" * 100, message_id=f"m{number}") for number in range(10)]
    size = len(json.dumps(wire_message(messages[0], 4), separators=(",", ":")))

    def ids(max_bytes: int) -> list[str]:
        shown = wire_messages(messages, 4, max_bytes=max_bytes)
        return [one["__openclaw"]["id"] for one in shown]

    assert ids(3 * size) == ["m7", "m8", "m9"]
    assert ids(3 * size - 1) == ["m8", "m9"]
    assert ids(1) == ["m9"]
    assert len(ids(10**9)) == 10
    assert wire_messages([], 4) == []
