"""A provider's failures as typed errors. Needs the extra llm."""

from __future__ import annotations

import pytest

pytest.importorskip("pydantic_ai")

from pydantic_ai import exceptions as failures

from gateway.agents.workers.llm_errors import provider_error

pytestmark = pytest.mark.model

HTTP = failures.ModelHTTPError
OVERFLOW = {"error": {"code": 400, "type": "exceed_context_size_error", "message": "too long"}}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (
            HTTP.for_category(failures.ModelRateLimitError, status_code=429, model_name="m"),
            "rate_limit",
        ),
        (
            HTTP.for_category(failures.ModelOverloadedError, status_code=503, model_name="m"),
            "rate_limit",
        ),
        (HTTP(400, "m", OVERFLOW), "context_length"),
        (failures.ModelContextWindowExceededError("m", "too long"), "context_length"),
        (failures.ModelTimeoutError("m", "Request timed out."), "timeout"),
        (failures.ModelConnectionError("m", "Connection error."), "unknown"),
        (failures.ContentFilterError("filtered"), "refusal"),
        (HTTP(500, "m", "<html>"), "unknown"),
        (HTTP(500, "m", None), "unknown"),
        (ValueError("a bug"), "unknown"),
    ],
)
def test_kinds_of_failure(error: Exception, kind: str) -> None:
    """Every failure has a kind; the text of a bug of ours does not go out."""
    shaped = provider_error(error, provider="p", model="m")

    assert shaped.data["kind"] == kind
    assert "a bug" not in shaped.message


def test_a_long_word_of_the_provider_is_cut() -> None:
    """A page of HTML is 300 characters of preview."""
    shaped = provider_error(HTTP(500, "m", "x" * 5000), provider="p", model="m")

    assert shaped.data["message"] == "x" * 300
