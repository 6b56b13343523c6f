"""Answers that are remembered."""

from __future__ import annotations

from gateway.app.nodeanswers import NodeAnswers, Remembered
from gateway.core.invocation import End, Outcome, answered, failed


def entry(outcome: Outcome, at: float = 0.0) -> Remembered:
    """Return an ended invocation."""
    return Remembered("f", "n", "cmd", outcome, at)


def ends(answers: NodeAnswers, *keys: str) -> list[End | None]:
    """Return how the invocations with some keys ended."""
    found = (answers.get(key) for key in keys)
    return [None if each is None else each.outcome.end for each in found]


def test_large_answers_go_first() -> None:
    """Of more than there is room for the oldest answers go, and that they were given stays known."""
    answers = NodeAnswers(maximum=10, max_bytes=10, ttl_s=60)
    for key in "abc":
        answers.put(key, entry(answered(b"12345", None)))
    answers.put("d", entry(failed("x", "y")))

    assert ends(answers, *"abcd") == [End.NOT_KEPT, End.OK, End.OK, End.NODE_ERROR]
    assert answers.bytes == 10


def test_one_that_is_larger_than_all_room() -> None:
    """An answer that is larger than all there is room for is not kept, and pushes out the others."""
    answers = NodeAnswers(maximum=10, max_bytes=10, ttl_s=60)
    answers.put("a", entry(answered(b"1", None)))
    answers.put("b", entry(answered(b"1" * 11, None)))

    assert ends(answers, *"ab") == [End.NOT_KEPT, End.NOT_KEPT]
    assert answers.bytes == 0


def test_the_oldest_are_forgotten() -> None:
    """Of too many the oldest are forgotten with their bytes, and all are after their time."""
    answers = NodeAnswers(maximum=2, max_bytes=100, ttl_s=60)
    for number, key in enumerate("abc"):
        answers.put(key, entry(answered(b"12345", None), float(number)))
    assert ends(answers, *"abc") == [None, End.OK, End.OK]
    assert (answers.bytes, len(answers._weighty)) == (10, 2)

    assert answers.sweep(61.0) == 1
    assert ends(answers, *"abc") == [None, None, End.OK]
    assert answers.sweep(62.0) == 1
    assert (answers.bytes, len(answers), len(answers._weighty)) == (0, 0, 0)


def test_a_key_that_comes_again() -> None:
    """A key that is put again has its newer answer alone."""
    answers = NodeAnswers(maximum=2, max_bytes=100, ttl_s=60)
    answers.put("a", entry(answered(b"12345", None)))
    answers.put("a", entry(answered(b"123", None)))

    assert (len(answers), answers.bytes) == (1, 3)
