"""The words that wake devices."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.voicewake import DEFAULTS, MAX_TRIGGERS, decoded, encoded, normal


@pytest.mark.parametrize(
    ("given_words", "kept"),
    [
        ([], DEFAULTS),
        (["  ", ""], DEFAULTS),
        ([" Hey ", "x" * 70], ("Hey", "x" * 64)),
        (["a" * 63 + "\U0001f600"], ("a" * 63,)),
        (["\U0001f600" * 40], ("\U0001f600" * 32,)),
        (["\ud800"], DEFAULTS),
    ],
)
def test_normal_words(given_words: list[str], kept: tuple[str, ...]) -> None:
    """Words are trimmed and cut to 64 UTF-16 units, never within a character; none left are the defaults."""
    assert normal(given_words) == kept


@given(words=st.lists(st.text(st.characters(), max_size=80), max_size=40))
def test_whatever_comes_is_bounded_and_stays_as_it_is_kept(words: list[str]) -> None:
    """Any list becomes one to 32 words, which a store gives back, and which are normal already."""
    kept = normal(words)

    assert 1 <= len(kept) <= MAX_TRIGGERS
    assert decoded(encoded(kept, 5)) == kept == normal(kept)


@pytest.mark.parametrize("data", [None, b"", b"{", b"[]", b'{"triggers":"x"}', b"\xff"])
def test_a_setting_that_can_not_be_read(data: bytes | None) -> None:
    """Without a readable setting the defaults hold."""
    assert decoded(data) == DEFAULTS
