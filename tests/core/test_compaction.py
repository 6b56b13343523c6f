"""What of a conversation goes into a summary."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.compaction import (
    MIN_GAIN,
    Estimator,
    Impossible,
    Limits,
    Piece,
    Plan,
    fits,
    plan,
)

ROOM = Limits(window=1_000, reserve=100, summary=50, result=20)


def user(tokens: int) -> Piece:
    return Piece(tokens, user=True)


def answer(tokens: int) -> Piece:
    return Piece(tokens)


def call(tokens: int, *ids: str) -> Piece:
    return Piece(tokens, calls=frozenset(ids))


def result(tokens: int, *ids: str, said: bool = False) -> Piece:
    return Piece(tokens + 5, user=said, returns=frozenset(ids), results=tokens)


@pytest.mark.parametrize(
    ("pieces", "kept", "cut", "after"),
    [
        # Whole turns go, as many as half of the room wants.
        ([user(200), answer(200), user(200), answer(200), user(100)], (4,), False, 150),
        ([user(300), answer(300), user(100), answer(100), user(100)], (2, 3, 4), False, 350),
        # More than half of the room is better than cutting.
        ([user(300), answer(300), user(600), answer(100)], (2, 3), False, 750),
        # A long result is cut before anything of the turn is lost, without a summary.
        ([user(100), call(50, "a"), result(1000, "a")], (0, 1, 2), True, 175),
        # Two turns with results.
        (
            [user(10), call(10, "a"), result(900, "a"), user(10), call(10, "b"), result(900, "b")],
            (0, 1, 2, 3, 4, 5),
            True,
            90,
        ),
        # The turn that goes on is too long by itself: its beginning goes, the question stays.
        (
            [user(100), call(400, "a"), result(1, "a"), call(400, "b"), result(1, "b")],
            (0, 3, 4),
            True,
            556,
        ),
        # Even its last step is too long.
        ([user(100), call(900, "a"), result(1, "a")], (0,), True, 150),
        # What a user said along with a result is kept with the call.
        ([user(500), answer(400), call(10, "a"), result(1, "a", said=True)], (2, 3), False, 66),
        # A call that nobody ever answered holds nothing together.
        ([user(500), call(400, "lost"), user(100)], (2,), False, 150),
    ],
)
def test_what_is_kept(pieces: list[Piece], kept: tuple[int, ...], cut: bool, after: int) -> None:
    """The gentlest measure that suffices is taken."""
    made = plan(pieces, ROOM)

    assert isinstance(made, Plan)
    assert (made.kept, made.cut_results, made.after) == (kept, cut, after)
    assert made.before == sum(piece.tokens for piece in pieces)


@pytest.mark.parametrize(
    ("pieces", "limits", "text"),
    [
        ([user(950)], ROOM, "send a shorter message"),
        (
            [user(10), answer(10), user(900)],
            ROOM,
            "the last message alone needs about 950 of the 900",
        ),
        ([user(10)], Limits(window=500, reserve=100, overhead=399), "no room for a conversation"),
        ([answer(5_000)], ROOM, "no message of a user"),
        ([], ROOM, "no message of a user"),
        ([user(100)], ROOM, "the last message alone"),
    ],
)
def test_what_can_not_be_shortened(pieces: list[Piece], limits: Limits, text: str) -> None:
    """Where shortening does not help, a person is told what does."""
    made = plan(pieces, limits)

    assert isinstance(made, Impossible)
    assert text in made.message


def test_whether_it_fits() -> None:
    """The room is the window without the answer, the instructions and the tools."""
    assert fits([user(900)], ROOM)
    assert not fits([user(901)], ROOM)
    assert not fits([user(900)], Limits(window=1_000, reserve=100, overhead=1))


def test_an_estimate_follows_what_was_measured() -> None:
    """Bytes count a quarter of a token with something added, until a model counts otherwise."""
    estimator = Estimator()
    first = estimator.tokens(1_000)
    for _ in range(20):
        estimator.measured(1_000, 500)
    estimator.measured(0, 10)
    estimator.measured(10, 10_000)

    assert first == 288
    assert 570 <= estimator.tokens(1_000) <= 580


@given(st.integers(0, 10_000), st.integers(1, 3_000))
def test_what_is_cut_to_a_size_has_it(tokens: int, measured: int) -> None:
    """So many bytes as fit into a number of tokens are never taken for more."""
    estimator = Estimator()
    estimator.measured(1_000, measured)

    assert estimator.tokens(estimator.units(tokens)) <= tokens


def test_a_small_count_weighs_little() -> None:
    """A greeting says less about the ratio than a page does."""
    small, large = Estimator(), Estimator()
    small.measured(20, 40)
    large.measured(200, 400)

    assert small.tokens(100) < large.tokens(100)


@st.composite
def conversations(draw: st.DrawFn) -> list[Piece]:
    size = st.integers(0, 400)
    pieces: list[Piece] = []
    for turn in range(draw(st.integers(0, 5))):
        pieces.append(user(draw(size)))
        for step in range(draw(st.integers(0, 3))):
            ids = [f"{turn}-{step}-{n}" for n in range(draw(st.integers(1, 3)))]
            pieces.append(call(draw(size), *ids))
            if draw(st.booleans()):
                pieces.extend(result(draw(size), id_, said=draw(st.booleans())) for id_ in ids)
        if draw(st.booleans()):
            pieces.append(answer(draw(size)))
    return pieces


@given(
    conversations(),
    st.builds(
        Limits,
        window=st.integers(0, 2_000),
        reserve=st.integers(0, 200),
        overhead=st.integers(0, 200),
        summary=st.integers(1, 100),
        result=st.integers(0, 100),
        target=st.floats(0.1, 1.0),
    ),
)
def test_a_plan_keeps_what_it_must_and_is_smaller(pieces: list[Piece], limits: Limits) -> None:
    """Pairs stay whole, the order and the last question stay, and the size falls under the room."""
    made = plan(pieces, limits)

    if isinstance(made, Impossible):
        assert made.message
        return
    kept = [pieces[n] for n in made.kept]
    gone = [piece for n, piece in enumerate(pieces) if n not in made.kept]
    last = max(n for n, piece in enumerate(pieces) if piece.user)
    assert last in made.kept
    assert list(made.kept) == sorted(set(made.kept))
    assert made.after <= limits.room
    assert made.after <= made.before * (1 - MIN_GAIN)
    real = sum(
        piece.tokens - piece.results + min(piece.results, limits.result * len(piece.returns))
        if made.cut_results
        else piece.tokens
        for piece in kept
    )
    assert real + (limits.summary if gone else 0) == made.after
    calls, returns = _ids(kept)
    lost_calls, lost_returns = _ids(gone)
    assert not calls & lost_returns
    assert not returns & lost_calls


def _ids(pieces: list[Piece]) -> tuple[set[str], set[str]]:
    calls = {id_ for piece in pieces for id_ in piece.calls}
    returns = {id_ for piece in pieces for id_ in piece.returns}
    return calls, returns


@given(conversations(), st.integers(200, 2_000))
def test_shortening_again_and_again_ends(pieces: list[Piece], window: int) -> None:
    """Each plan is smaller by a share, so that a conversation is at its end after a few."""
    limits = Limits(window=window, reserve=50, summary=20, result=10)
    steps = 0
    while isinstance(made := plan(pieces, limits), Plan):
        kept = [pieces[n] for n in made.kept]
        gone = len(kept) < len(pieces)
        pieces = [*([answer(limits.summary)] if gone else []), *kept]
        if made.cut_results:
            pieces = [
                Piece(
                    piece.tokens - piece.results + min(piece.results, 10 * len(piece.returns)),
                    piece.user,
                    piece.calls,
                    piece.returns,
                    min(piece.results, 10 * len(piece.returns)),
                )
                for piece in pieces
            ]
        steps += 1
        assert steps < 100
