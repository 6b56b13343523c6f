"""What fuzzing has found stays found, and the fuzzer itself works."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz import targets
from tests.fuzz.arena import Broken
from tests.fuzz.engines import batch, failure, seeds, smaller
from tests.fuzz.source import Source
from tests.fuzz.targets import TARGETS
from tests.unmeasured import unmeasured


@pytest.mark.parametrize("target", TARGETS)
@unmeasured
def test_the_kept_inputs_break_nothing(target: str) -> None:
    """Every input of the corpus, once a finding or one that reaches far, is taken without harm."""
    kept = seeds(target)
    assert kept
    assert [why for data in kept if (why := failure(target, data))] == []


@pytest.mark.parametrize("target", TARGETS)
@unmeasured
def test_a_short_run_finds_nothing(target: str) -> None:
    """Some inputs that nobody has kept are taken without harm too."""
    lines: list[str] = []
    assert batch(target, 1, lines.append, count=30) == 30
    assert lines == []


@given(st.binary(max_size=64))
def test_any_bytes_give_choices(data: bytes) -> None:
    """A source gives choices within their bounds, and the first of each when it is used up."""
    source = Source(data)
    while not source.empty:
        assert source.below(3) < 3
        assert source.below(1000) < 1000
        assert len(source.take(5)) <= 5
        source.value()
    assert source.pick("abc") == "a"
    assert not source.chance(256)


def test_a_find_is_made_small() -> None:
    """What breaks something is shortened to what is needed for it."""

    def brittle(data: bytes) -> None:
        if b"x" in data and b"y" in data:
            raise Broken("both")

    targets.TARGETS["brittle"] = brittle
    try:
        assert smaller("brittle", b"aaaaxaaaaaaaaaayaa") == b"xy"
    finally:
        del targets.TARGETS["brittle"]
