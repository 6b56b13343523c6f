"""Turns of a call that are over."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.turnfence import (
    MAX_NAMES,
    RETENTION_MS,
    TurnFence,
    TurnToken,
    turn_token,
)


@pytest.mark.parametrize(
    ("payload", "token"),
    [
        ({}, None),
        ({"generation": 3}, None),
        ({"callId": "c"}, None),
        ({"callId": "c", "generation": "3"}, None),
        ({"callId": "c", "generation": 3.9, "turnId": "t"}, TurnToken("c", number=3)),
        ({"callId": "c", "turn": 0}, TurnToken("c", number=0)),
        ({"callId": "c", "providerCallId": "p", "turnId": " t "}, TurnToken("p", name="t")),
        ({"callId": "c", "turnToken": "a", "turnId": "b"}, TurnToken("c", name="a")),
    ],
)
def test_tokens(payload: dict[str, object], token: TurnToken | None) -> None:
    """A token needs a call; a number goes before a name."""
    assert turn_token(payload) == token


def test_long_names_are_kept_small() -> None:
    """Calls and names of any length are held as digests."""
    token = turn_token({"callId": "c" * 5_000, "turnId": "t" * 5_000})

    assert token is not None
    assert token.name is not None
    assert len(token.call) < 100 > len(token.name)


def test_a_lower_number_is_late() -> None:
    """What is lower than the highest accepted number of its call is late, the same number is not."""
    fence = TurnFence()
    fence.accepted("s", TurnToken("c", number=2), 0)

    assert not fence.admits("s", TurnToken("c", number=1), 1)
    assert fence.admits("s", TurnToken("c", number=2), 1)
    assert fence.admits("s", TurnToken("c", number=3), 1)
    assert fence.admits("s", TurnToken("c", name="a"), 1)


def test_an_earlier_name_is_over() -> None:
    """Once another name was accepted the earlier ones of the call are late; one never accepted is new."""
    fence = TurnFence()
    for name in ("a", "a", "b"):
        assert fence.admits("s", TurnToken("c", name=name), 0)
        fence.accepted("s", TurnToken("c", name=name), 0)

    assert not fence.admits("s", TurnToken("c", name="a"), 1)
    assert fence.admits("s", TurnToken("c", name="b"), 1)
    assert fence.admits("s", TurnToken("c", name="z"), 1)
    assert fence.admits("s", TurnToken("c", number=1), 1)


def test_calls_and_sessions_know_nothing_of_each_other() -> None:
    """A token is compared within its own call and session; without one nothing is late."""
    fence = TurnFence()
    fence.accepted("s", TurnToken("c", number=9), 0)
    fence.accepted("s", None, 0)

    assert fence.admits("s", TurnToken("d", number=1), 0)
    assert fence.admits("t", TurnToken("c", number=1), 0)
    assert fence.admits("s", None, 0)
    assert len(fence) == 1


def test_a_call_is_forgotten_after_five_minutes() -> None:
    """Five minutes after the last acceptance a call begins anew, whichever way the clock went."""
    fence = TurnFence()
    fence.accepted("s", TurnToken("c", number=9), RETENTION_MS)

    assert not fence.admits("s", TurnToken("c", number=1), 2 * RETENTION_MS)
    assert fence.admits("s", TurnToken("c", number=1), 2 * RETENTION_MS + 1)
    assert fence.admits("s", TurnToken("c", number=1), -1)
    fence.accepted("s", TurnToken("c", number=1), 2 * RETENTION_MS + 1)
    assert fence.admits("s", TurnToken("c", number=2), 2 * RETENTION_MS + 1)
    assert fence.sweep(3 * RETENTION_MS + 1) == 0
    assert fence.sweep(3 * RETENTION_MS + 2) == 1
    assert len(fence) == 0


def test_the_oldest_call_goes_for_a_new_one() -> None:
    """At most so many calls are known; one that goes on is not the oldest."""
    fence = TurnFence(maximum=2)
    for call in ("a", "b", "a", "c"):
        fence.accepted("s", TurnToken(call, number=5), 0)

    assert len(fence) == 2
    assert fence.admits("s", TurnToken("b", number=1), 0)
    assert not fence.admits("s", TurnToken("a", number=1), 0)


def test_names_are_bounded() -> None:
    """Of a call the last names are kept; the current one is never taken for one that is over."""
    fence = TurnFence()
    for number in range(MAX_NAMES * 2):
        fence.accepted("s", TurnToken("c", name=f"t{number}"), 0)

    assert fence.admits("s", TurnToken("c", name="t0"), 0)
    assert not fence.admits("s", TurnToken("c", name=f"t{MAX_NAMES + 1}"), 0)
    assert fence.admits("s", TurnToken("c", name=f"t{MAX_NAMES * 2 - 1}"), 0)


@given(
    arrivals=st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 6)), max_size=40),
    gap_ms=st.integers(-5_000, 5_000),
)
@settings(deadline=None)
def test_the_generations_of_a_call_never_go_back(
    arrivals: list[tuple[str, int]], gap_ms: int
) -> None:
    """In whatever order they come, with whatever clock: what is admitted of a call only rises."""
    fence = TurnFence()
    admitted: dict[str, list[int]] = {"a": [], "b": []}
    for index, (call, number) in enumerate(arrivals):
        token = TurnToken(call, number=number)
        if fence.admits("s", token, index * gap_ms):
            fence.accepted("s", token, index * gap_ms)
            admitted[call].append(number)

    for call, numbers in admitted.items():
        assert numbers == sorted(numbers)
        assert max(numbers, default=None) == max(
            (number for each, number in arrivals if each == call), default=None
        )
