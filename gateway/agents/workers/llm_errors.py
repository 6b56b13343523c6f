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

PREVIEW_CHARS = 300

_CONTEXT_TYPES = ("exceed_context_size_error", "context_length_exceeded")
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
    said, type_name = _said(error)
    if type_name in _CONTEXT_TYPES:
        kind, text = "context_length", "the conversation is too long"
    data: dict[str, Any] = {"kind": kind, "provider": provider, "model": model}
    if isinstance(error, failures.ModelHTTPError):
        data["httpStatus"] = error.status_code
        text = f"{text} (HTTP {error.status_code})"
    if type_name:
        data["providerErrorType"] = type_name[:PREVIEW_CHARS]
    preview = _redact(said, secrets)
    if preview:
        data["message"] = preview
        text = f"{text}: {preview}"
    return RpcError(INTERNAL_ERROR, text, data)


def _said(error: Exception) -> tuple[str, str]:
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


def _redact(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        if secret:
            text = text.replace(secret, "[secret]")
    return " ".join(text.split())[:PREVIEW_CHARS]
