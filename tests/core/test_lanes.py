"""One run at a time in a session."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.lanes import LaneFull, Lanes


def test_the_first_run_goes_at_once_and_the_others_wait() -> None:
    """In a session one run goes; in another one, another."""
    lanes = Lanes(2)
    assert lanes.enter("a", "1")
    assert not lanes.enter("a", "2")
    assert lanes.enter("b", "3")
    assert (lanes.runs("a"), lanes.runs("b"), lanes.runs("c")) == (("1", "2"), ("3",), ())
    assert (lanes.busy("a"), lanes.busy("c"), len(lanes)) == (True, False, 2)


def test_a_lane_is_bounded() -> None:
    """As many runs wait as the depth says, behind the one that goes; a refused one is not in it."""
    lanes = Lanes(1)
    lanes.enter("a", "1")
    lanes.enter("a", "2")
    with pytest.raises(LaneFull):
        lanes.enter("a", "3")
    assert lanes.runs("a") == ("1", "2")
    none_waits = Lanes(0)
    none_waits.enter("a", "1")
    with pytest.raises(LaneFull):
        none_waits.enter("a", "2")


def test_who_leaves_lets_the_next_go() -> None:
    """Only when the run that goes leaves may another go."""
    lanes = Lanes(5)
    for run in "1234":
        lanes.enter("a", run)

    assert lanes.leave("a", "2") is None
    assert lanes.leave("a", "1") == "3"
    assert lanes.leave("a", "1") is None
    assert lanes.leave("a", "4") is None
    assert lanes.leave("a", "3") is None
    assert (len(lanes), lanes.busy("a")) == (0, False)
    assert lanes.leave("a", "3") is None


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9), st.booleans())))
def test_lanes_never_keep_a_session_without_a_run(steps: list[tuple[str, int, bool]]) -> None:
    """In any order of entering and leaving, order is kept and an empty lane is gone."""
    lanes = Lanes(3)
    model: dict[str, list[str]] = {"a": [], "b": []}
    for key, number, enters in steps:
        run, lane = f"{key}{number}", model[key]
        if not enters:
            went = lane[:1] == [run]
            if run in lane:
                lane.remove(run)
            assert lanes.leave(key, run) == (lane[0] if went and lane else None)
        elif run not in lane and len(lane) < 4:
            lane.append(run)
            assert lanes.enter(key, run) is (lane == [run])
        assert list(lanes.runs(key)) == lane
    assert len(lanes) == sum(map(bool, model.values()))
