"""The window of idempotency keys."""

from __future__ import annotations

import pytest

from gateway.core.idempotency import Answer, IdempotencyWindow
from gateway.core.registry import RegistryFull
from gateway.core.run import RunOutcome
from gateway.model import RunState


def outcome(run_id: str = "r") -> RunOutcome:
    """Return how a run ended."""
    return RunOutcome(
        run_id=run_id,
        session_key="agent:main:main",
        session_id="s",
        state=RunState.DONE,
        started_at_ms=1,
        ended_at_ms=2,
    )


@pytest.fixture
def window() -> IdempotencyWindow:
    """A window of two keys that remembers for a second."""
    return IdempotencyWindow(maximum=2, ttl_s=1_000)


def test_the_same_key_gives_the_same_run(window: IdempotencyWindow) -> None:
    """A key finds its run while it runs and after it ended."""
    answer, claim = window.claim("k", "f", "r", 0)
    assert (answer, claim.run_id, claim.outcome) == (Answer.NEW, "r", None)

    assert window.claim("k", "f", "other", 5) == (Answer.SAME, claim)
    ended = outcome()
    window.settle("k", ended, 10)

    again, held = window.claim("k", "f", "other", 20)
    assert (again, held.run_id, held.outcome) == (Answer.SAME, "r", ended)


def test_other_content_under_the_same_key_is_a_conflict(window: IdempotencyWindow) -> None:
    """A key that was used for another request is refused, and the first stays."""
    _, claim = window.claim("k", "f", "r", 0)
    assert window.claim("k", "g", "r2", 0) == (Answer.CONFLICT, claim)
    assert window.claim("k", "f", "r3", 0)[0] is Answer.SAME


def test_a_key_is_remembered_from_the_end_of_its_run(window: IdempotencyWindow) -> None:
    """While the run goes its key never expires; afterwards its time to live begins."""
    window.claim("k", "f", "r", 0)
    assert window.claims.sweep(1_000_000) == 0

    window.settle("k", outcome(), 1_000_000)

    assert window.claims.sweep(1_000_999) == 0
    assert window.claims.sweep(1_001_000) == 1
    assert window.claim("k", "f", "r", 1_001_000)[0] is Answer.NEW


def test_a_full_window_forgets_the_run_that_ended_first(window: IdempotencyWindow) -> None:
    """Room is made by what has ended, never by what runs."""
    window.claim("a", "f", "ra", 0)
    window.claim("b", "f", "rb", 1)
    with pytest.raises(RegistryFull):
        window.claim("c", "f", "rc", 2)

    window.settle("b", outcome("rb"), 3)
    assert window.claim("c", "f", "rc", 4)[0] is Answer.NEW
    assert window.claim("a", "f", "x", 5)[0] is Answer.SAME
    assert "b" not in window.claims


def test_a_released_key_is_free(window: IdempotencyWindow) -> None:
    """A key whose run never came to be may be used again; releasing or settling it late does nothing."""
    window.claim("k", "f", "r", 0)
    window.release("k")
    window.release("k")
    window.settle("k", outcome(), 1)
    assert window.claim("k", "g", "r2", 2)[0] is Answer.NEW
