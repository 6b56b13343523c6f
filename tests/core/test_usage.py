"""gateway.core.usage: what a run used, as it is stored and shown."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.core.outcome import RunOutcome
from gateway.core.usage import (
    MAX_MODELS,
    MAX_NAME_CHARS,
    MAX_TOKENS,
    UNKNOWN,
    by_model,
    run_usage,
    turn_usage,
)
from gateway.model import ModelUsage, RunState, Usage

ENTRY = ModelUsage(
    provider="p",
    model="m",
    input_tokens=100,
    output_tokens=20,
    cache_read_tokens=30,
    cache_write_tokens=4,
    cost_usd=0.25,
)


def outcome(usage: Usage | None, **fields: Any) -> RunOutcome:
    """Return how a run ended."""
    return RunOutcome(
        run_id="r1",
        session_key="k",
        session_id="s",
        state=RunState.DONE,
        started_at_ms=1,
        ended_at_ms=2,
        usage=usage,
        **fields,
    )


def test_nothing_told() -> None:
    """A run that says nothing of its usage leaves the counters as they are."""
    assert turn_usage(outcome(None)) == {}


def test_all_of_it_is_the_answering_models() -> None:
    """Totals without models are those of the model that answered, or of one that is not known."""
    usage = Usage(input_tokens=5, output_tokens=6, context_tokens=7)

    told = turn_usage(outcome(usage, provider="p", model="m"))

    expected = ModelUsage(provider="p", model="m", input_tokens=5, output_tokens=6)
    assert told == {
        "input_tokens": 5,
        "output_tokens": 6,
        "context_tokens": 7,
        "usage": (expected,),
    }
    (unknown,) = by_model(usage, None, None)
    assert (unknown.provider, unknown.model) == (UNKNOWN, UNKNOWN)


def test_one_entry_a_model() -> None:
    """What one model used several times is one entry; without one of the prices its price is not known."""
    unpriced = ModelUsage(provider="p", model="m", input_tokens=1)
    other = ModelUsage(provider="q", model="m", input_tokens=1)

    twice = by_model(Usage(by_model=(ENTRY, other, ENTRY)), "x", "y")
    priceless = by_model(Usage(by_model=(ENTRY, unpriced)), None, None)

    doubled = ModelUsage(
        provider="p",
        model="m",
        input_tokens=200,
        output_tokens=40,
        cache_read_tokens=60,
        cache_write_tokens=8,
        cost_usd=0.5,
    )
    assert twice == (doubled, other)
    assert [(e.input_tokens, e.cost_usd) for e in priceless] == [(101, None)]


def test_models_are_bounded() -> None:
    """A run that names more models than are kept loses names, but no tokens."""
    entries = tuple(
        ModelUsage(provider="p", model=str(number), output_tokens=1)
        for number in range(MAX_MODELS + 5)
    )

    kept = by_model(Usage(by_model=entries), None, None)

    assert len(kept) == MAX_MODELS
    assert sum(entry.output_tokens for entry in kept) == MAX_MODELS + 5


@pytest.mark.parametrize("count", [-1, True, 1.5, "7", None, MAX_TOKENS + 1])
def test_what_is_no_count_counts_as_none(count: Any) -> None:
    """An agent that says nonsense is put right, so that its end can be stored."""
    entry = ModelUsage(provider="p", model="m", cache_read_tokens=count)
    usage = Usage(context_tokens=count, by_model=(entry,))

    told = turn_usage(outcome(usage))

    assert told["context_tokens"] is None
    assert told["usage"][0].cache_read_tokens == 0


@pytest.mark.parametrize("cost", [-0.5, float("nan"), float("inf"), "1", True, 10**400])
def test_what_is_no_price(cost: Any) -> None:
    """A price that is none is not known."""
    entry = ModelUsage(provider="p", model="m", cost_usd=cost)

    assert by_model(Usage(by_model=(entry,)), None, None)[0].cost_usd is None
    assert "cost" not in run_usage(Usage(by_model=(entry,)))


def test_names_that_can_not_be_stored() -> None:
    """Half of a surrogate pair becomes a question mark; long names are cut, empty ones are unknown."""
    entry = ModelUsage(provider="\ud800", model="x" * 999)

    (kept,) = by_model(Usage(by_model=(entry,)), None, None)
    (empty,) = by_model(Usage(by_model=(ModelUsage(provider="", model="m"),)), None, None)

    assert (kept.provider, kept.model) == ("?", "x" * MAX_NAME_CHARS)
    assert empty.provider == UNKNOWN


def test_shown_with_a_message() -> None:
    """Clients add up what was read, written, cached: each token is shown once, and the price if known."""
    usage = Usage(input_tokens=100, output_tokens=20, by_model=(ENTRY,))

    assert run_usage(usage) == {
        "input": 66,
        "output": 20,
        "cacheRead": 30,
        "cacheWrite": 4,
        "totalTokens": 120,
        "cost": {"total": 0.25},
    }
    assert run_usage(Usage(input_tokens=3, output_tokens=4)) == {
        "input": 3,
        "output": 4,
        "totalTokens": 7,
    }


def test_a_price_that_is_partly_known_is_not_shown() -> None:
    """Where one model has no price the run has none."""
    entries = (ENTRY, ModelUsage(provider="q", model="m"))

    assert "cost" not in run_usage(Usage(by_model=entries))
