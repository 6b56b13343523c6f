"""What of a conversation to put into a summary when it no longer fits a model's window: pure planning.

A conversation is a list of pieces (messages), oldest first, each with its size in tokens. A plan keeps the
user's last message, never parts a tool's result from its call, keeps the order, and is strictly smaller
than what it replaces; planning takes time linear in the number of pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

MIN_GAIN = 0.1
"""A plan that saves less than this share of the conversation is none."""
TOKENS_PER_UNIT = 0.25
"""Tokens of a byte of text before any were counted."""
SAFETY = 1.15
"""What an estimate is larger by than what was measured."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One message.

    :ivar tokens: its size.
    :ivar user: whether it begins a turn.
    :ivar calls: ids of the tool calls it makes.
    :ivar returns: ids of the tool calls it has the results of.
    :ivar results: tokens of its tool results, which may be cut.
    """

    tokens: int
    user: bool = False
    calls: frozenset[str] = frozenset()
    returns: frozenset[str] = frozenset()
    results: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request has to fit into, all in tokens."""

    window: int
    """What model and answer may take together."""
    reserve: int
    """Kept free for the answer."""
    overhead: int = 0
    """Instructions and tools, sent with every request."""
    summary: int = 500
    """The most that a summary takes."""
    result: int = 1_000
    """What is left of a tool's result that is cut."""
    target: float = 0.5
    """The share of the room that a shortened conversation fills, so that it can go on for a while."""

    @property
    def room(self) -> int:
        """What is left for the conversation; may be negative."""
        return self.window - self.reserve - self.overhead


@dataclass(frozen=True, slots=True)
class Plan:
    """What to keep as it is; all the other pieces go into the summary, which stands before the kept ones.

    :ivar kept: indexes of the kept pieces, rising.
    :ivar cut_results: whether long tool results in them are cut to ``Limits.result``.
    :ivar before: tokens of the conversation now.
    :ivar after: tokens of what it becomes, at most.
    """

    kept: tuple[int, ...]
    cut_results: bool
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Impossible:
    """Shortening does not help; ``message`` says what does, ``least`` is the smallest size in tokens."""

    message: str
    least: int


def fits(pieces: Sequence[Piece], limits: Limits) -> bool:
    """Say whether a conversation fits as it is."""
    return sum(piece.tokens for piece in pieces) <= limits.room


def plan(pieces: Sequence[Piece], limits: Limits) -> Plan | Impossible:
    """Return the gentlest plan that brings a conversation down to its room.

    First whole turns go, the oldest first; then tool results are cut; then the beginning of the turn
    that is going on goes too, all but the user's message.
    """
    before = sum(piece.tokens for piece in pieces)
    last_user = max((n for n, piece in enumerate(pieces) if piece.user), default=-1)
    if last_user < 0:
        return Impossible("the conversation has no message of a user to keep", before)
    whole = _boundaries(pieces)
    # A user's message that came along with a tool's result is kept together with the call.
    anchor = max(n for n in range(last_user + 1) if whole[n])
    most = min(limits.room, int(before * (1 - MIN_GAIN)), before - 1)
    aim = min(most, int(limits.room * limits.target))
    for cut_results in (False, True):
        sizes = [_size(piece, limits) if cut_results else piece.tokens for piece in pieces]
        for goal in (aim, most):
            found = _cut_turns(pieces, sizes, whole, anchor, limits.summary, goal)
            if found is not None:
                return Plan(tuple(range(found[0], len(pieces))), cut_results, before, found[1])
    sizes = [_size(piece, limits) for piece in pieces]
    head = range(anchor, last_user + 1)
    fixed = limits.summary + sum(sizes[n] for n in head)
    for goal in (aim, most):
        within = _cut_within(sizes, whole, last_user + 1, goal - fixed)
        if within is not None:
            kept = (*head, *range(within[0], len(pieces)))
            return Plan(kept, True, before, fixed + within[1])
    if fixed <= most:
        return Plan(tuple(head), True, before, fixed)
    return Impossible(_advice(fixed, limits), fixed)


def _size(piece: Piece, limits: Limits) -> int:
    kept = min(piece.results, limits.result * len(piece.returns))
    return piece.tokens - piece.results + kept


def _boundaries(pieces: Sequence[Piece]) -> list[bool]:
    """Return for each index, and the end, whether no pair of a call and its result stands across it."""
    answered = frozenset[str]().union(*(piece.returns for piece in pieces))
    open_calls: set[str] = set()
    whole = [True]
    for piece in pieces:
        open_calls -= piece.returns
        open_calls |= piece.calls & answered
        whole.append(not open_calls)
    return whole


def _cut_turns(
    pieces: Sequence[Piece],
    sizes: Sequence[int],
    whole: Sequence[bool],
    anchor: int,
    summary: int,
    goal: int,
) -> tuple[int, int] | None:
    """Return the first beginning of a turn from which on all meets the goal, and the size then."""
    left = sum(sizes)
    for index in range(anchor + 1):
        after = left + (summary if index else 0)
        if after <= goal and whole[index] and (pieces[index].user or index == anchor):
            return (index, after)
        left -= sizes[index]
    return None


def _cut_within(
    sizes: Sequence[int], whole: Sequence[bool], first: int, goal: int
) -> tuple[int, int] | None:
    """Return where the newest part of the turn begins that meets the goal, and its size."""
    left = sum(sizes[first:])
    for index in range(first, len(sizes)):
        if whole[index] and left <= goal:
            return (index, left)
        left -= sizes[index]
    return None


def _advice(least: int, limits: Limits) -> str:
    if limits.room <= limits.summary:
        return (
            f"the model's window of {limits.window} tokens has no room for a conversation: "
            f"{limits.overhead} go to instructions and tools, {limits.reserve} to the answer; "
            "use a model with a larger window"
        )
    return (
        f"the last message alone needs about {least} of the {limits.room} tokens that the model's "
        f"window of {limits.window} leaves for the conversation; send a shorter message, "
        "or use a model with a larger window"
    )


class Estimator:
    """Tokens of texts that no model has counted, learned from those that one did."""

    def __init__(self) -> None:
        self._ratio = TOKENS_PER_UNIT

    def tokens(self, units: int) -> int:
        """Return what a text of so many bytes of UTF-8 is taken for."""
        return ceil(units * self._ratio * SAFETY)

    def units(self, tokens: int) -> int:
        """Return how many bytes are taken for no more than so many tokens."""
        return max(0, int(tokens / (self._ratio * SAFETY)))

    def measured(self, units: int, tokens: int) -> None:
        """Learn that a request of so many bytes had so many tokens. Counts that can't be are left out."""
        if units > 0 and 0.02 <= tokens / units <= 3:
            self._ratio += (tokens / units - self._ratio) * (0.5 if tokens > 50 else 0.1)
