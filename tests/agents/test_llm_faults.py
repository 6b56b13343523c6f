"""Which kind of failure an exception of a model's library is. Needs the extra llm."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("pydantic_ai")

from pydantic_ai import exceptions as failures

from gateway.agents.workers.faults import EmptyAnswer, StreamCut, classify, overflow_sizes
from gateway.core.cooldown import Failure

pytestmark = pytest.mark.model

HTTP = failures.ModelHTTPError


def said(text: str, **shape: Any) -> dict[str, Any]:
    return {"error": {"message": text, **shape}}


OPENAI = said(
    "This model's maximum context length is 8192 tokens. However, your messages resulted in 9,001 tokens.",
    code="context_length_exceeded",
)
LLAMA = said(
    "the request exceeds the available context size, try increasing it",
    type="exceed_context_size_error",
    n_prompt_tokens=600,
    n_ctx=512,
)
LLAMA_WORDS = said(
    "request (600 tokens) exceeds the available context size (512 tokens), try increasing it"
)
ANTHROPIC = said("prompt is too long: 210000 tokens > 200000 maximum", type="invalid_request_error")
GOOGLE = said(
    "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
    status="INVALID_ARGUMENT",
)
MISTRAL = said(
    "Prompt contains 40000 tokens, too large for model with 32768 maximum context length"
)
GROQ = said(
    "Please reduce the length of the messages or completion.", code="context_length_exceeded"
)
VLLM = {
    "message": "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens "
    "in the messages, Please reduce the length of the messages.",
    "type": "BadRequestError",
}


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (
            HTTP.for_category(failures.ModelRateLimitError, status_code=429, model_name="m"),
            "rate_limit",
        ),
        (
            HTTP.for_category(failures.ModelQuotaExceededError, status_code=429, model_name="m"),
            "billing",
        ),
        (
            HTTP.for_category(failures.ModelOverloadedError, status_code=529, model_name="m"),
            "overloaded",
        ),
        (
            HTTP.for_category(failures.ModelUnavailableError, status_code=503, model_name="m"),
            "overloaded",
        ),
        (
            HTTP.for_category(failures.ModelServerError, status_code=500, model_name="m"),
            "server_error",
        ),
        (
            HTTP.for_category(failures.ModelAuthenticationError, status_code=401, model_name="m"),
            "auth",
        ),
        (
            HTTP.for_category(failures.ModelNotFoundError, status_code=404, model_name="m"),
            "model_not_found",
        ),
        (
            HTTP.for_category(failures.ModelRequestRejectedError, status_code=400, model_name="m"),
            "format",
        ),
        (HTTP(401, "m"), "auth"),
        (HTTP(402, "m"), "billing"),
        (HTTP(403, "m"), "auth"),
        (HTTP(404, "m"), "model_not_found"),
        (HTTP(408, "m"), "timeout"),
        (HTTP(413, "m"), "context_overflow"),
        (HTTP(429, "m"), "rate_limit"),
        (HTTP(429, "m", said("too many tokens per minute")), "rate_limit"),
        (HTTP(422, "m"), "format"),
        (HTTP(503, "m"), "overloaded"),
        (HTTP(529, "m"), "overloaded"),
        (HTTP(599, "m"), "server_error"),
        (HTTP(400, "m", OPENAI), "context_overflow"),
        (HTTP(400, "m", LLAMA), "context_overflow"),
        (HTTP(500, "m", LLAMA_WORDS), "context_overflow"),
        (HTTP(400, "m", ANTHROPIC), "context_overflow"),
        (HTTP(400, "m", GOOGLE), "context_overflow"),
        (HTTP(400, "m", MISTRAL), "context_overflow"),
        (HTTP(400, "m", GROQ), "context_overflow"),
        (HTTP(400, "m", VLLM), "context_overflow"),
        (failures.ModelContextWindowExceededError("m", "too long"), "context_overflow"),
        (failures.ModelTimeoutError("m", "Request timed out."), "timeout"),
        (failures.ModelRequestTimeout("m", 3), "timeout"),
        (failures.ModelConnectionError("m", "Connection error."), "connection"),
        (StreamCut("m", "cut"), "connection"),
        (failures.ModelAPIError("m", "not JSON"), "server_error"),
        (failures.ContentFilterError("filtered"), "refusal"),
        (failures.UnexpectedModelBehavior("nothing"), "empty_response"),
        (EmptyAnswer("nothing"), "empty_response"),
        (TimeoutError(), "timeout"),
        (ConnectionResetError(), "connection"),
        (ValueError("a bug"), "unknown"),
    ],
)
def test_kinds(error: Exception, failure: str) -> None:
    """Each exception has its kind, whatever the provider calls it."""
    assert classify(error).failure is Failure(failure)


@pytest.mark.parametrize(
    ("body", "sizes"),
    [
        (OPENAI, (9001, 8192)),
        (LLAMA, (600, 512)),
        (LLAMA_WORDS, (600, 512)),
        (ANTHROPIC, (210000, 200000)),
        (GOOGLE, (1200000, 1048576)),
        (MISTRAL, (40000, 32768)),
        (VLLM, (5000, 4096)),
        (GROQ, (None, None)),
        ("<html>", (None, None)),
        ({"error": {"n_ctx": "many", "n_prompt_tokens": -1}}, (None, None)),
    ],
)
def test_sizes_of_an_overflow(body: Any, sizes: tuple[int | None, int | None]) -> None:
    """The size of the request and that of the window are read from the provider's words."""
    assert overflow_sizes(HTTP(400, "m", body)) == sizes


def test_what_the_provider_said_is_short_and_without_secrets() -> None:
    """The detail is cut and names the status; a wait that was asked for is kept."""
    error = HTTP(429, "m", said("key sk-SECRET " + "x" * 500), headers={"Retry-After": "7"})

    fault = classify(error, ("sk-SECRET", ""))

    assert fault.detail.startswith("HTTP 429: key [secret] xxx")
    assert len(fault.detail) == 250
    assert fault.retry_after_s == 7.0
