"""Which model is asked next after a failure."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.cooldown import Cooldowns, Failure
from gateway.core.failover import (
    MESSAGE_CHARS,
    Attempt,
    Candidate,
    Decision,
    Exhausted,
    NextAttempt,
    Policy,
    Shorten,
    next_attempt,
    ordered,
)

A = Candidate("a", ("k1", "k2"), 1_000)
B = Candidate("b", ("k3",), 8_000)
C = Candidate("c", ("k1",))
CHAIN = (A, B, C)
SINGLE = (Candidate("a", ("k1",)),)


def after(
    *failures: tuple[str, str, Failure],
    chain: tuple[Candidate, ...] = CHAIN,
    policy: Policy = Policy(),  # noqa: B008
    now: float = 0.0,
    waited_s: float = 0.0,
    can_shorten: bool = False,
    retry_after_s: float | None = None,
) -> Decision:
    """Return what comes after these failures, all at time 0."""
    rests = Cooldowns(policy.cooldown)
    history = []
    for candidate, key, failure in failures:
        rests.note(candidate, key, failure, now=0.0, retry_after_s=retry_after_s)
        history.append(Attempt(candidate, key, failure, "said so"))
    return next_attempt(
        policy, chain, history, rests, now=now, waited_s=waited_s, can_shorten=can_shorten
    )


def spot(decision: Decision) -> tuple[str, str, float] | str:
    """Return where and when it goes on, or the failure."""
    match decision:
        case NextAttempt(candidate, key, delay):
            return (candidate, key, delay)
        case Shorten():
            return "shorten"
        case Exhausted(failure):
            return failure.value


@pytest.mark.parametrize(
    ("failure", "then"),
    [
        (Failure.RATE_LIMIT, ("a", "k2", 0.0)),
        (Failure.AUTH, ("a", "k2", 0.0)),
        (Failure.BILLING, ("a", "k2", 0.0)),
        (Failure.OVERLOADED, ("b", "k3", 0.0)),
        (Failure.SERVER_ERROR, ("b", "k3", 0.0)),
        (Failure.TIMEOUT, ("b", "k3", 0.0)),
        (Failure.CONNECTION, ("b", "k3", 0.0)),
        (Failure.EMPTY_RESPONSE, ("b", "k3", 0.0)),
        (Failure.MODEL_NOT_FOUND, ("b", "k3", 0.0)),
        (Failure.REJECTED, ("b", "k3", 0.0)),
        (Failure.UNKNOWN, ("b", "k3", 0.0)),
        (Failure.CONTEXT_OVERFLOW, ("b", "k3", 0.0)),
        (Failure.REFUSAL, "refusal"),
        (Failure.CANCELLED, "cancelled"),
    ],
)
def test_what_follows_the_first_failure(failure: Failure, then: object) -> None:
    """What is the key's goes to the next key, what is the model's to the next model, a refusal to nobody."""
    assert spot(after(("a", "k1", failure))) == then


@pytest.mark.parametrize(
    ("failure", "then"),
    [
        (Failure.RATE_LIMIT, ("a", "k1", 2.0)),
        (Failure.OVERLOADED, ("a", "k1", 2.0)),
        (Failure.SERVER_ERROR, ("a", "k1", 2.0)),
        (Failure.TIMEOUT, ("a", "k1", 2.0)),
        (Failure.CONNECTION, ("a", "k1", 2.0)),
        (Failure.EMPTY_RESPONSE, ("a", "k1", 2.0)),
        (Failure.UNKNOWN, "unknown"),
        (Failure.AUTH, "auth"),
        (Failure.BILLING, "billing"),
        (Failure.MODEL_NOT_FOUND, "model_not_found"),
        (Failure.REJECTED, "format"),
        (Failure.CONTEXT_OVERFLOW, "context_overflow"),
    ],
)
def test_what_follows_where_there_is_one_model(failure: Failure, then: object) -> None:
    """What may pass is tried once more after a rest; what would fail again is not."""
    assert spot(after(("a", "k1", failure), chain=SINGLE)) == then


def test_a_wait_that_was_asked_for_is_kept_if_it_is_short() -> None:
    """Retry-After is waited for within the bound; a longer one ends the request and is told."""
    short = after(("a", "k1", Failure.RATE_LIMIT), chain=SINGLE, retry_after_s=10.0)
    long = after(("a", "k1", Failure.RATE_LIMIT), chain=SINGLE, retry_after_s=100.0)

    assert spot(short) == ("a", "k1", 10.5)
    assert spot(long) == "rate_limit"


def test_no_key_is_asked_twice_after_it_was_refused() -> None:
    """A key that one model's provider refused is not shown to it for another model."""
    decision = after(
        ("a", "k1", Failure.AUTH), ("a", "k2", Failure.AUTH), ("b", "k3", Failure.AUTH)
    )

    assert isinstance(decision, Exhausted)
    assert decision.failure is Failure.AUTH
    assert decision.reasons[2].startswith("c: the provider refuses the key, again in ")


def test_a_conversation_is_shortened_before_a_larger_model_is_asked() -> None:
    """Overflow is met by shortening; if that is no way, only models with a larger window are asked."""
    overflow = ("b", "k3", Failure.CONTEXT_OVERFLOW)

    assert spot(after(overflow, can_shorten=True)) == "shorten"
    assert spot(after(overflow)) == ("c", "k1", 0.0)
    assert spot(after(overflow, chain=(A, B))) == "context_overflow"


def test_a_smaller_model_is_not_asked_after_an_overflow() -> None:
    """A window no larger than the one that overflowed would overflow as well."""
    decision = after(("b", "k3", Failure.CONTEXT_OVERFLOW), chain=(B, A))

    assert isinstance(decision, Exhausted)
    assert decision.reasons == ("b: the conversation is too long (said so)", "a: not tried")


def test_a_refusal_goes_on_if_the_policy_says_so() -> None:
    """The next model is asked, never the same one again."""
    policy = Policy(failover_refusal=True)

    assert spot(after(("a", "k1", Failure.REFUSAL), policy=policy)) == ("b", "k3", 0.0)
    assert spot(after(("a", "k1", Failure.REFUSAL), policy=policy, chain=SINGLE)) == "refusal"


def test_the_preferred_model_is_first_and_vetoes_nothing() -> None:
    """A session's own model is tried first, and the others after it."""
    chain = ordered(CHAIN, "c")

    assert [each.name for each in chain] == ["c", "a", "b"]
    assert spot(after(chain=chain)) == ("c", "k1", 0.0)
    assert spot(after(("c", "k1", Failure.SERVER_ERROR), chain=chain)) == ("a", "k1", 0.0)
    assert ordered(CHAIN, "unknown") == CHAIN
    assert ordered(CHAIN, None) == CHAIN


def test_a_model_that_rests_comes_last_yet_is_asked() -> None:
    """What rests by our own guess is asked when nothing else is ready; what was told to wait is not."""
    rests = Cooldowns()
    rests.note("a", "k1", Failure.SERVER_ERROR, now=0.0)
    guess = next_attempt(Policy(), (A, B), [], rests, now=1.0)
    only = next_attempt(Policy(), (A,), [], rests, now=1.0)
    rests.note("a", "k1", Failure.OVERLOADED, now=0.0, retry_after_s=300.0)
    told = next_attempt(Policy(), (A,), [], rests, now=1.0)

    assert spot(guess) == ("b", "k3", 0.0)
    assert spot(only) == ("a", "k1", 0.0)
    assert isinstance(told, Exhausted)
    assert told.message == "a: the provider is overloaded, again in 314 s"


def test_the_time_is_shared_among_those_that_were_not_asked() -> None:
    """No attempt may take the time of the models after it."""
    policy = Policy(first_token_s=60, budget_s=90)

    first = after(policy=policy)
    last = after(
        ("a", "k1", Failure.TIMEOUT), ("b", "k3", Failure.TIMEOUT), policy=policy, waited_s=50
    )
    none = after(("a", "k1", Failure.TIMEOUT), policy=policy, waited_s=90)

    assert isinstance(first, NextAttempt)
    assert first.timeout_s == 30
    assert isinstance(last, NextAttempt)
    assert (last.candidate, last.timeout_s) == ("c", 40)
    assert isinstance(none, Exhausted)
    assert none.out_of_time
    assert none.message.startswith("all 3 models failed, and the time is up: a: the provider did")


def test_the_message_is_bounded() -> None:
    """However many models and however much they said, the text stays short."""
    chain = tuple(Candidate(f"model-{number}") for number in range(200))
    history = [Attempt(each.name, "", Failure.REJECTED, "x" * 10_000) for each in chain]

    decision = next_attempt(Policy(), chain, history, Cooldowns(), now=0.0)

    assert isinstance(decision, Exhausted)
    assert len(decision.message) == MESSAGE_CHARS
    assert len(max(decision.reasons, key=len)) < 300


def test_an_empty_chain_has_nothing_to_ask() -> None:
    """Without candidates the answer is a failure, not an error of ours."""
    assert spot(after(chain=())) == "unknown"


FAILING = [each for each in Failure if each not in (Failure.CANCELLED, Failure.REFUSAL)]
NAMES = st.lists(st.sampled_from("abcdef"), unique=True, min_size=1, max_size=5)


@st.composite
def chains(draw: st.DrawFn) -> tuple[Candidate, ...]:
    keys = st.lists(st.sampled_from(["", "k1", "k2", "k3"]), unique=True, min_size=1, max_size=3)
    windows = st.none() | st.integers(1, 5)
    return tuple(Candidate(name, tuple(draw(keys)), draw(windows)) for name in draw(NAMES))


@settings(max_examples=150)
@given(chains(), st.data())
def test_every_request_ends_in_time_and_tries_all_it_may(
    chain: tuple[Candidate, ...], data: st.DataObject
) -> None:
    """No key is asked more often than allowed, the time is kept, and nobody is left out without a reason."""
    policy = Policy(attempts_per_key=2, first_token_s=30, budget_s=60)
    rests = Cooldowns(policy.cooldown)
    history: list[Attempt] = []
    now = 0.0
    while True:
        decision = next_attempt(policy, chain, history, rests, now=now, waited_s=now)
        if not isinstance(decision, NextAttempt):
            break
        assert decision.delay_s >= 0
        assert decision.timeout_s > 0
        now += decision.delay_s + data.draw(st.floats(0, 1)) * decision.timeout_s
        failure = data.draw(st.sampled_from(FAILING))
        asked = data.draw(st.none() | st.floats(0.1, 100))
        jitter = data.draw(st.floats(0, 1))
        rests.note(
            decision.candidate, decision.key, failure, now=now, retry_after_s=asked, jitter=jitter
        )
        history.append(Attempt(decision.candidate, decision.key, failure))

    assert isinstance(decision, Exhausted)
    assert now <= policy.budget_s + 1e-6
    spots = [(attempt.candidate, attempt.key) for attempt in history]
    assert all(spots.count(each) <= policy.attempts_per_key for each in spots)
    assert len(decision.reasons) == len(chain)
    _nobody_is_left_out(chain, history, rests, now)


def _nobody_is_left_out(
    chain: tuple[Candidate, ...], history: list[Attempt], rests: Cooldowns, now: float
) -> None:
    asked = {attempt.candidate for attempt in history}
    overflowed = any(attempt.failure is Failure.CONTEXT_OVERFLOW for attempt in history)
    refused = {
        attempt.key for attempt in history if attempt.failure in (Failure.AUTH, Failure.BILLING)
    }
    for candidate in chain:
        if candidate.name not in asked:
            told_to_wait = all(
                key in refused or rests.until(candidate.name, key)[1] for key in candidate.keys
            )
            assert told_to_wait or overflowed or now > 59
