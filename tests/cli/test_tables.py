"""Tables, times and sizes on a terminal."""

from __future__ import annotations

import pytest

from gateway.cli.tables import one_line, short_ids, size, span, table, who


def test_columns_are_aligned_and_empty_ones_left_out():
    """Every column is as wide as its widest cell; one without any content is not shown."""
    lines = table(("ID", "NOTE", "WHY"), [["a", "", "because"], ["bcd", "", ""]])

    assert lines.splitlines() == ["ID   WHY", "a    because", "bcd  -"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("a\nb\t\x1b[31mc", "a b [31mc"),
        ("\u202edrow  ", "drow"),
        ("a\u3164b", "a b"),
        (5, "5"),
    ],
)
def test_text_steers_no_terminal(text, shown):
    """Control characters, line ends and direction marks become single blanks."""
    assert one_line(text) == shown


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Ann", "Ann [3f2a9b1c]"),
        (None, "3f2a9b1c"),
        ("a [0000]" * 9, f"{'a (0000)' * 9:.39}… [3f2a9b1c]"),
    ],
)
def test_who(name, shown):
    """The id is what stands in brackets, whatever the name says."""
    assert who(name, "3f2a9b1c77") == shown


def test_long_text_is_cut():
    """A text that is too long ends in an ellipsis within its width."""
    assert one_line("abcdef", 6) == "abcdef"
    assert one_line("abcdefg", 6) == "abcde…"


@pytest.mark.parametrize(
    ("ids", "short"),
    [
        (["0123456789", "abcdefghij"], ["01234567", "abcdefgh"]),
        (["0123456789", "0123456780"], ["0123456789", "0123456780"]),
        (["01234567-8", "01234567-9x"], ["01234567-8", "01234567-9"]),
        (["r1", "r10"], ["r1", "r10"]),
        ([], []),
    ],
)
def test_ids_are_as_long_as_tells_them_apart(ids, short):
    """The beginnings of ids are of one length, at least 8, and different."""
    assert short_ids(ids) == short


@pytest.mark.parametrize(
    ("ms", "shown"),
    [
        (None, ""),
        (-5, "0ms"),
        (250, "250ms"),
        (2500, "2.5s"),
        (59_960, "1m00s"),
        (192_000, "3m12s"),
        (18_180_000, "5h03m"),
        (187_200_000, "2d04h"),
    ],
)
def test_spans(ms, shown):
    """Lengths of time have the precision that a person needs."""
    assert span(ms) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [(None, ""), (0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (16_777_216, "16.0 MiB")],
)
def test_sizes(count, shown):
    """Bytes are shown in the largest unit that fits."""
    assert size(count) == shown
