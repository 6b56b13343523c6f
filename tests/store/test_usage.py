"""gateway.store.usage: prices as whole numbers, and how much a pass forgets."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from gateway.core.usage import MAX_COST_USD, MAX_TOKENS, by_model
from gateway.model import ModelUsage, Retention, Usage
from gateway.store.retention import STEP_USAGE
from gateway.store.store import SQLStore
from gateway.store.usage import nanousd
from gateway.testing import result_of

from .contract_usage import SMALL, end_run, query
from .harness import NOW


@pytest.mark.parametrize(
    ("cost", "stored"),
    [
        (0.0, 0),
        (0.000_000_001_4, 1),
        (12.5, 12_500_000_000),
        (None, None),
        (-0.1, None),
        (math.nan, None),
        (math.inf, None),
        (1e18, None),
    ],
)
def test_prices(cost: float | None, stored: int | None) -> None:
    """A price is kept in billionths of a dollar; what is no price is none."""
    assert nanousd(cost) == stored


def test_sums_of_prices_do_not_drift(store: SQLStore) -> None:
    """A thousand tenths are a hundred, to the last digit."""
    wait: Callable[[Any], Any] = result_of
    end_run(store, wait, "run", NOW, *[SMALL] * 1000)

    (found,) = result_of(store.sum_usage(query()))

    assert found.cost_nanousd == 100 * 1_000_000_000


def test_a_pass_forgets_a_bounded_part(store: SQLStore) -> None:
    """So many entries go in one transaction, the oldest first."""
    wait: Callable[[Any], Any] = result_of
    end_run(store, wait, "old", NOW, *[SMALL] * STEP_USAGE)
    end_run(store, wait, "older", NOW - 1, *[SMALL] * 10)
    policy = Retention(usage_before_ms=NOW + 1)

    passes = [result_of(store.apply_retention(policy)) for _ in range(3)]

    assert [each.usage for each in passes] == [STEP_USAGE, 10, 0]
    assert [each.more for each in passes] == [True, True, False]


def test_the_largest_numbers_add_up(store: SQLStore) -> None:
    """What the most wasteful runs used can be added up: it never gets too large for the database."""
    wait: Callable[[Any], Any] = result_of
    largest = ModelUsage(
        provider="p", model="m", input_tokens=MAX_TOKENS, output_tokens=0, cost_usd=MAX_COST_USD
    )
    (entry,) = by_model(Usage(by_model=(largest,)), None, None)
    end_run(store, wait, "run", NOW, *[entry] * 10_000)

    (found,) = result_of(store.sum_usage(query()))

    assert found.input_tokens == 10_000 * MAX_TOKENS
    assert found.cost_nanousd == 10_000 * MAX_COST_USD * 1_000_000_000
