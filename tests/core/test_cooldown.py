"""How long a model or a key rests after a failure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core import cooldown
from gateway.core.cooldown import CooldownPolicy, Cooldowns, Failure


@pytest.mark.parametrize(
    ("failure", "retry_after_s", "same", "other_key", "other_model"),
    [
        (Failure.RATE_LIMIT, None, (2.0, False), None, None),
        (Failure.RATE_LIMIT, 30.0, (31.5, True), None, None),
        (Failure.RATE_LIMIT, 1e9, (3780.0, True), None, None),
        (Failure.OVERLOADED, None, (2.0, False), (2.0, False), None),
        (Failure.OVERLOADED, 10.0, (10.5, True), (10.5, True), None),
        (Failure.SERVER_ERROR, None, (2.0, False), (2.0, False), None),
        (Failure.TIMEOUT, None, (2.0, False), (2.0, False), None),
        (Failure.CONNECTION, None, (2.0, False), (2.0, False), None),
        (Failure.EMPTY_RESPONSE, None, (2.0, False), (2.0, False), None),
        (Failure.AUTH, None, (600.0, False), None, (600.0, False)),
        (Failure.BILLING, 5.0, (600.0, False), None, (600.0, False)),
        (Failure.MODEL_NOT_FOUND, None, (600.0, False), (600.0, False), None),
        (Failure.CONTEXT_OVERFLOW, None, None, None, None),
        (Failure.REJECTED, None, None, None, None),
        (Failure.REFUSAL, None, None, None, None),
        (Failure.CANCELLED, None, None, None, None),
        (Failure.UNKNOWN, None, None, None, None),
    ],
)
def test_what_rests_after_a_failure(
    failure: Failure,
    retry_after_s: float | None,
    same: tuple[float, bool] | None,
    other_key: tuple[float, bool] | None,
    other_model: tuple[float, bool] | None,
) -> None:
    """A limit is of a key and model, a refused key is the key's everywhere, an outage the model's."""
    rests = Cooldowns()
    rests.note("a", "k1", failure, now=0.0, retry_after_s=retry_after_s)

    ready = (float("-inf"), False)
    assert rests.until("a", "k1") == (same or ready)
    assert rests.until("a", "k2") == (other_key or ready)
    assert rests.until("b", "k1") == (other_model or ready)
    assert rests.until("b", "k2") == ready


def test_a_model_without_a_key_rests_alone() -> None:
    """Two servers that want no key share none: one that refuses says nothing of the other."""
    rests = Cooldowns()
    rests.note("a", "", Failure.AUTH, now=0.0)

    assert rests.until("a", "") == (600.0, False)
    assert rests.until("b", "") == (float("-inf"), False)


def test_a_row_of_failures_rests_longer() -> None:
    """The rest doubles up to its bound, and an answer ends the row."""
    rests = Cooldowns(CooldownPolicy(first_s=2, most_s=10))
    ends = []
    for _ in range(5):
        rests.note("a", "k", Failure.SERVER_ERROR, now=100.0)
        ends.append(rests.until("a", "k")[0] - 100.0)
    rests.answered("a", "k")

    assert ends == [2, 4, 8, 10, 10]
    assert rests.until("a", "k") == (float("-inf"), False)
    assert len(rests) == 0


def test_a_guess_does_not_shorten_what_was_asked_for() -> None:
    """A rest that the provider asked for stays when a later failure says nothing of one."""
    rests = Cooldowns()
    rests.note("a", "k", Failure.RATE_LIMIT, now=0.0, retry_after_s=30.0, jitter=0.0)
    rests.note("a", "k", Failure.RATE_LIMIT, now=1.0, jitter=0.0)

    assert rests.until("a", "k") == (30.0, True)


def test_why_a_model_rests() -> None:
    """A model rests if all its keys do; it is told until the first of them is ready."""
    rests = Cooldowns()
    rests.note("a", "k1", Failure.AUTH, now=0.0)
    assert rests.noted("a", ("k1", "k2"), 1.0) is None
    rests.note("a", "k2", Failure.RATE_LIMIT, now=0.0, retry_after_s=9.0, jitter=0.0)

    assert rests.noted("a", ("k1", "k2"), 1.0) == (Failure.RATE_LIMIT, 8.0)
    assert rests.noted("a", ("k1", "k2"), 9.0) is None
    assert rests.noted("a", (), 9.0) is None


def test_the_notes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the bound the note that expires first goes."""
    monkeypatch.setattr(cooldown, "MAX_NOTES", 2)
    rests = Cooldowns()
    for number in range(3):
        rests.note(str(number), "k", Failure.RATE_LIMIT, now=float(number))

    assert len(rests) == 2
    assert rests.until("0", "k") == (float("-inf"), False)


def test_every_failure_can_be_told() -> None:
    """Each kind has words for people and a reason that clients know."""
    known = set(
        "auth format rate_limit overloaded billing server_error timeout context_overflow "
        "model_not_found empty_response unclassified unknown".split()
    )
    for failure in Failure:
        assert failure.text
        assert failure.reason in known


@given(
    st.sampled_from(list(Failure)),
    st.floats(0, 1),
    st.floats(0, 1e6) | st.none(),
    st.integers(1, 40),
)
def test_a_rest_is_never_shorter_than_asked_and_always_ends(
    failure: Failure, jitter: float, asked: float | None, times: int
) -> None:
    """Whatever fails however often, the rest has a bound, and Retry-After is its floor."""
    policy = CooldownPolicy()
    rests = Cooldowns(policy)
    for _ in range(times):
        rests.note("a", "k", failure, now=0.0, retry_after_s=asked, jitter=jitter)

    until, firm = rests.until("a", "k")
    assert until <= policy.longest_s * 1.1
    if firm:
        assert asked
        assert until >= min(asked, policy.longest_s)
