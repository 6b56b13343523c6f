"""gateway.store.transcripts: previews."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.store.transcripts import preview, previews

from .harness import a_message


def text(value: Any) -> dict[str, Any]:
    """Return a text block."""
    return {"type": "text", "text": value}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([text("  a\t\n b  ")], "a b"),
        ([text("a"), {"type": "image", "text": "no"}, text("b")], "a b"),
        ([text("x" * 500)], "x" * 120),
        ([text(" " * 5000 + "late")], "late"),
        ([text("é " * 200)], ("é " * 60)[:120]),
        ([text(7), "text", None, text("ok")], "ok"),
        ([], ""),
        ("text", ""),
        (None, ""),
    ],
)
def test_preview(content: Any, expected: str) -> None:
    """A preview is the first 120 characters of the text blocks, each run of white space as one."""
    assert preview(content) == expected


def test_previews_of_messages() -> None:
    """The first is of the first user message with text, the last of the last message with text."""
    added = [
        a_message("greeting", "assistant"),
        a_message("", "user"),
        a_message("first", "user"),
        a_message("second", "user"),
        a_message("last", "assistant"),
        a_message(" ", "toolResult"),
    ]

    assert previews(added) == ("first", "last")
    assert previews([]) == (None, None)
