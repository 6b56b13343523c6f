"""gateway.core.usageshapes: what has no wire of its own; the rest is in tests/rpc/test_usage.py."""

from __future__ import annotations

from gateway.core.usageshapes import session_usage, totals
from gateway.model import UsageSum

WHOLE = UsageSum(
    agent_id="main",
    session_key="agent:main:main",
    entries=1,
    runs=1,
    input_tokens=3,
    output_tokens=4,
    cache_read_tokens=5,
    cache_write_tokens=0,
    cost_nanousd=1,
    unpriced=0,
    first_at_ms=10,
    last_at_ms=30,
)


def test_a_session_without_parts() -> None:
    """A session whose days and models are too many to be told has its totals, and no model."""
    row = session_usage(WHOLE, None, (), str)

    assert (row["usage"]["totalTokens"], row["usage"]["durationMs"]) == (7, 20)
    assert (row["usage"]["activityDates"], "model" in row) == ([], False)


def test_an_agent_that_counts_otherwise() -> None:
    """Where the cached tokens are more than those that were read, nothing is left, not less than that."""
    assert totals([WHOLE])["input"] == 0
