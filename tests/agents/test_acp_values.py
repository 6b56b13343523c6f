"""Values of agents, read by shape and cut to size."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.agents.acp_values import (
    DEPTH_MAX,
    DIFF_INPUT_CHARS,
    DIFF_LINES,
    VALUE_BYTES,
    bounded,
    count_of,
    diff_text,
    items,
    mapping,
    tail_text,
    text_of,
)


def test_a_large_value_is_cut_and_says_so() -> None:
    """A result over the bound keeps a readable beginning and the size it had."""
    value = {"content": [{"type": "text", "text": "ä" * VALUE_BYTES}]}

    cut = bounded(value)

    assert cut["truncated"] is True
    assert cut["bytes"] == len(msgspec.json.encode(value))
    assert cut["kept"] == len(cut["preview"].encode())
    assert cut["preview"].startswith('{"content":[{"type":"text","text":"ää')
    assert len(msgspec.json.encode(cut)) < VALUE_BYTES
    assert bounded({"a": 1}) == {"a": 1}


@pytest.mark.parametrize(
    ("value", "count"),
    [(0, 0), (7, 7), (-1, None), (True, None), (1.5, None), ("1", None), (1 << 60, None)],
)
def test_counts(value: Any, count: int | None) -> None:
    """A count is a whole number that is not negative, and not a truth value."""
    assert count_of(value) == count


def test_shapes() -> None:
    """What is not of the shape is empty."""
    assert (mapping([]), items({}), text_of(""), text_of(3)) == ({}, [], None, None)
    assert (mapping({"a": 1}), items([1]), text_of("a")) == ({"a": 1}, [1], "a")


def test_a_diff_is_the_lines_that_changed() -> None:
    """A diff leaves out what is the same at both ends; a new file is all new."""
    assert diff_text("a", "1\n2\n3\n", "1\nx\n3\n") == "changed a\n@@ -2,1 +2,1 @@\n-2\n+x"
    assert diff_text("a", "1\n", "1\n1\n") == "changed a\n@@ -2,0 +2,1 @@\n+1"
    assert diff_text("a", None, "1\n2") == "made a\n@@ -1,0 +1,2 @@\n+1\n+2"


def test_a_long_diff_is_cut() -> None:
    """A diff of many lines loses its middle, and of very long files it says their sizes only."""
    new = "\n".join(map(str, range(DIFF_LINES + 50)))

    lines = diff_text("a", None, new).splitlines()

    assert "[50 lines left out]" in lines
    assert len(lines) == DIFF_LINES + 3
    assert "not compared" in diff_text("a", "x", "y" * DIFF_INPUT_CHARS)


def test_the_end_of_a_text() -> None:
    """A long text keeps its end and says how much is missing."""
    assert tail_text("abc", 3) == "abc"
    assert tail_text("abcdef", 2) == "[4 characters left out]\nef"


@pytest.mark.parametrize("depth", [DEPTH_MAX + 1, 500, 5000])
def test_a_value_that_is_nested_too_deep_is_cut(depth: int) -> None:
    """What an agent nests deeper than anybody needs does not make those fail who encode it again."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]

    cut = bounded({"args": value})

    assert cut["truncated"] is True
    assert bounded([{"a": [[]] * 100}] * 100) == [{"a": [[]] * 100}] * 100
