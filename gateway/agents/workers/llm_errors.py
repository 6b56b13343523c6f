"""A model provider's failures as the typed errors that the gateway passes on.

The error's data is ``{kind, message, provider, model, httpStatus?, providerErrorType?}``; ``kind`` is one
of rate_limit, timeout, context_length, refusal, unknown, and ``message`` what the provider said, at
most 300 characters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic_ai import exceptions as failures

from gateway.agents.jsonrpc import INTERNAL_ERROR, RpcError
from gateway.core.cooldown import Failure
from gateway.core.failover import MESSAGE_CHARS

PREVIEW_CHARS = 300

CONTEXT_TYPES = ("exceed_context_size_error", "context_length_exceeded")
"""How servers that pydantic-ai does not know by their own words name an overflow (llama.cpp: the first)."""

_KINDS: tuple[tuple[type[Exception], str, str], ...] = (
    (failures.ModelContextWindowExceededError, "context_length", "the conversation is too long"),
    (failures.ModelRateLimitError, "rate_limit", "the provider's rate limit is reached"),
    (failures.ModelQuotaExceededError, "rate_limit", "the provider's quota is used up"),
    (failures.ModelOverloadedError, "rate_limit", "the provider is overloaded"),
    (failures.ModelTimeoutError, "timeout", "the provider did not answer in time"),
    (failures.ModelRequestTimeout, "timeout", "the provider did not answer in time"),
    (failures.ModelConnectionError, "unknown", "the provider can not be reached"),
    (failures.ModelAuthenticationError, "unknown", "the provider refuses the key"),
    (failures.ModelNotFoundError, "unknown", "the provider has no such model or address"),
    (failures.ModelAPIError, "unknown", "the provider failed"),
    (failures.ContentFilterError, "refusal", "the provider refused to answer"),
    (failures.UsageLimitExceeded, "unknown", "the turn took too many requests"),
    (failures.UnexpectedModelBehavior, "unknown", "the model gave no usable answer"),
    (failures.UserError, "unknown", "the agent is not set up right"),
)


def provider_error(
    error: Exception, *, provider: str, model: str, secrets: Sequence[str] = ()
) -> RpcError:
    """Return what the client is told of ``error``, without ``secrets`` wherever they may stand."""
    kind, text = "unknown", "the agent failed"
    for type_, known_kind, known_text in _KINDS:
        if isinstance(error, type_):
            kind, text = known_kind, known_text
            break
    if isinstance(error, ChainExhausted):
        return _exhausted(error, secrets)
    said, type_name = said_by(error)
    if type_name in CONTEXT_TYPES:
        kind, text = "context_length", "the conversation is too long"
    data: dict[str, Any] = {"kind": kind, "provider": provider, "model": model}
    http = error if isinstance(error, failures.ModelHTTPError) else error.__cause__
    if isinstance(http, failures.ModelHTTPError):
        data["httpStatus"] = http.status_code
        text = f"{text} (HTTP {http.status_code})"
    if type_name:
        data["providerErrorType"] = type_name[:PREVIEW_CHARS]
    preview = _redact(said, secrets)
    if preview:
        data["message"] = preview
        text = f"{text}: {preview}"
    return RpcError(INTERNAL_ERROR, text, data)


class ChainExhausted(failures.AgentRunError):
    """No model of the chain answered; provider and model are those of the first choice."""

    def __init__(self, message: str, failure: Failure, provider: str, model: str) -> None:
        super().__init__(message)
        self.failure = failure
        self.provider = provider
        self.model = model


_OF_FAILURE = {
    Failure.RATE_LIMIT: "rate_limit",
    Failure.BILLING: "rate_limit",
    Failure.OVERLOADED: "rate_limit",
    Failure.TIMEOUT: "timeout",
    Failure.CONTEXT_OVERFLOW: "context_length",
    Failure.REFUSAL: "refusal",
}


def _exhausted(error: ChainExhausted, secrets: Sequence[str]) -> RpcError:
    text = _redact(error.message, secrets, MESSAGE_CHARS)
    kind = _OF_FAILURE.get(error.failure, "unknown")
    data: dict[str, Any] = {
        "kind": kind,
        "provider": error.provider,
        "model": error.model,
        "message": text,
    }
    cause = error.__cause__
    if isinstance(cause, failures.ModelHTTPError):
        data["httpStatus"] = cause.status_code
    return RpcError(INTERNAL_ERROR, text, data)


def said_by(error: BaseException) -> tuple[str, str]:
    """Return the provider's words and its name for the error, as far as it gave them."""
    if isinstance(error, failures.ModelAPIError):
        body = error.body if isinstance(error.body, dict) else {}
        inner = body.get("error", body)
        shape = inner if isinstance(inner, dict) else {"message": inner}
        said = shape.get("message") or ("" if body else error.body)
        if not said and not isinstance(error, failures.ModelHTTPError):
            said = error.message
        name = error.provider_error_type or error.provider_error_code or shape.get("type")
        return str(said or ""), str(name or "")
    if isinstance(error, (failures.AgentRunError, failures.UserError)):
        return error.message, ""
    return type(error).__name__, ""


def _redact(text: str, secrets: Sequence[str], most: int = PREVIEW_CHARS) -> str:
    for secret in secrets:
        if secret:
            text = text.replace(secret, "[secret]")
    return " ".join(text.split())[:most]
