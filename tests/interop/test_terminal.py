"""The screen that the tests of the terminal interfaces read."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from .terminal import Screen, Terminal


@pytest.mark.parametrize(
    ("written", "lines"),
    [
        ("one\r\ntwo", ["one", "two", ""]),
        ("1\r\n2\r\n3\r\n4", ["2", "3", "4"]),
        ("\x1b[1mbold\x1b[0m \x1b]8;;http://x\x07link\x1b]8;;\x1b\\", ["bold link", "", ""]),
        ("abcdef\x1b[3D\x1b[K", ["abc", "", ""]),
        ("abcdef\x1b[3G\x1b[1K", ["def", "", ""]),
        ("abc\x1b[2K\rx", ["x", "", ""]),
        ("a\r\nb\r\nc\x1b[2A\x1b[J", ["a", "", ""]),
        ("a\r\nb\x1b[2;1H\x1b[1J", ["", "", ""]),
        ("a\r\nb\x1b[2J\x1b[H\x1b[3Jc", ["c", "", ""]),
        ("\x1b[?2026h\x1b[>7u\x1b[c\x1b=x", ["x", "", ""]),
        ("x\x1b[Cy\x1b[Bz\x1b[Aw", ["x y w", "z", ""]),
        ("0123456789ab", ["0123456789", "ab", ""]),
        ("ab\bc", ["ac", "", ""]),
    ],
)
def test_screen_shows_what_a_terminal_would(written: str, lines: list[str]) -> None:
    """A screen shows the same characters in the same rows, however the output is cut."""
    whole, cut = Screen(10, 3), Screen(10, 3)

    whole.feed(written)
    for character in written:
        cut.feed(character)

    assert whole.lines == lines
    assert cut.lines == lines


def test_terminal_shows_a_program_and_takes_keys(tmp_path: Path) -> None:
    """A program on the terminal sees a terminal of the given size, and its answers are seen."""
    # No newline after the number: a terminal passes it on by itself, and an echo may come before it.
    code = (
        r"import os; print(f'{os.get_terminal_size().columns}\x1b[3;1H', end='', flush=True);"
        "print('got', input().upper())"
    )
    terminal = Terminal([sys.executable, "-c", code], os.environ, tmp_path)
    try:
        terminal.wait_for("120")
        terminal.type("words")
        terminal.wait_for("got WORDS")
        with pytest.raises(AssertionError, match="no 'more' when the program ended"):
            terminal.wait_for("more", 30)
        terminal.wait_for_end()
    finally:
        terminal.close()
