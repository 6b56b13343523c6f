"""A provider's failure as the kind that decides what is tried next."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_ai import exceptions as failures

from gateway.agents.workers.llm_errors import CONTEXT_TYPES, said_by
from gateway.core.cooldown import Failure
from gateway.core.failover import DETAIL_CHARS

_KINDS: tuple[tuple[type[BaseException], Failure], ...] = (
    (failures.ModelContextWindowExceededError, Failure.CONTEXT_OVERFLOW),
    (failures.ModelRateLimitError, Failure.RATE_LIMIT),
    (failures.ModelQuotaExceededError, Failure.BILLING),
    (failures.ModelUnavailableError, Failure.OVERLOADED),
    (failures.ModelServerError, Failure.SERVER_ERROR),
    (failures.ModelTimeoutError, Failure.TIMEOUT),
    (failures.ModelRequestTimeout, Failure.TIMEOUT),
    (failures.ModelConnectionError, Failure.CONNECTION),
    (failures.ModelAuthenticationError, Failure.AUTH),
    (failures.ModelNotFoundError, Failure.MODEL_NOT_FOUND),
    (failures.ModelRequestRejectedError, Failure.REJECTED),
    (failures.ContentFilterError, Failure.REFUSAL),
    (failures.UnexpectedModelBehavior, Failure.EMPTY_RESPONSE),
    (TimeoutError, Failure.TIMEOUT),
    (OSError, Failure.CONNECTION),
)
_STATUSES = {
    401: Failure.AUTH,
    402: Failure.BILLING,
    403: Failure.AUTH,
    404: Failure.MODEL_NOT_FOUND,
    408: Failure.TIMEOUT,
    413: Failure.CONTEXT_OVERFLOW,
    429: Failure.RATE_LIMIT,
    503: Failure.OVERLOADED,
    529: Failure.OVERLOADED,
}
_OVERFLOW = re.compile(
    r"context[ _](?:length|window|size)|prompt is too long|too many (?:input )?tokens"
    r"|input (?:token count|is too long|length and `max_tokens` exceed)"
    r"|maximum (?:prompt|context|input) length"
    r"|exceeds the (?:available|maximum|model'?s) context|reduce the length of the (?:messages|prompt)"
    r"|request too large for model|larger than the (?:model'?s )?context",
    re.IGNORECASE,
)
"""How the providers say in words that a request is too long, besides the codes that stand for it."""
_SIZES = (
    re.compile(r"(?P<asked>\d+) tokens > (?P<window>\d+) maximum"),
    re.compile(r"(?:maximum|context) (?:\w+ )?length is (?P<window>\d+) tokens"),
    re.compile(r"(?:resulted in|requested) (?:about )?(?P<asked>\d+) tokens"),
    re.compile(
        r"token count \((?P<asked>\d+)\) exceeds the maximum number of tokens allowed \((?P<window>\d+)\)"
    ),
    re.compile(r"contains (?P<asked>\d+) tokens.* (?P<window>\d+) maximum context length"),
    re.compile(r"\((?P<asked>\d+) tokens\).*context size \((?P<window>\d+) tokens\)"),
)
"""How the providers name the size of the request and that of the window."""


class EmptyAnswer(failures.UnexpectedModelBehavior):
    """The model's answer has neither text nor tool calls, or has no end."""


class StreamCut(failures.ModelConnectionError):
    """The provider's stream ended before the answer did."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is known of a failure. ``detail`` is the provider's words, cut and free of secrets."""

    failure: Failure
    detail: str = ""
    retry_after_s: float | None = None


def classify(error: BaseException, secrets: Sequence[str] = ()) -> Fault:
    """Return what kind of failure an exception of a model's library is."""
    said, name = said_by(error)
    failure = Failure.UNKNOWN
    for type_, known in _KINDS:
        if isinstance(error, type_):
            failure = known
            break
    status = error.status_code if isinstance(error, failures.ModelHTTPError) else None
    if failure is Failure.UNKNOWN and status is not None:
        default = Failure.SERVER_ERROR if status >= 500 else Failure.REJECTED
        failure = _STATUSES.get(status, default)
    elif failure is Failure.UNKNOWN and isinstance(error, failures.ModelAPIError):
        failure = Failure.SERVER_ERROR  # such as an answer that can not be read
    if _is_overflow(failure, status, said, name):
        failure = Failure.CONTEXT_OVERFLOW
    retry_after = error.retry_after if isinstance(error, failures.ModelAPIError) else None
    for secret in filter(None, secrets):
        said = said.replace(secret, "[secret]")
    code = f"HTTP {status}" if status is not None else ""
    detail = ": ".join(filter(None, (code, " ".join(said.split())[:DETAIL_CHARS])))
    return Fault(failure, detail, retry_after)


def _is_overflow(failure: Failure, status: int | None, said: str, name: str) -> bool:
    if name in CONTEXT_TYPES:
        return True
    may_be = failure in (Failure.REJECTED, Failure.UNKNOWN, Failure.SERVER_ERROR)
    # A limit of tokens in a minute speaks of tokens too, but a 429 is no overflow.
    return may_be and status in (None, 400, 413, 422, 500) and bool(_OVERFLOW.search(said))


def overflow_sizes(error: BaseException) -> tuple[int | None, int | None]:
    """Return the tokens of a request that is too long and those of the window, as far as they are told."""
    shape = _shape(error)
    asked, window = shape.get("n_prompt_tokens"), shape.get("n_ctx")
    found = {"asked": asked, "window": window}
    said = said_by(error)[0].replace(",", "")
    for pattern in _SIZES:
        match = pattern.search(said)
        for name, value in (match.groupdict() if match else {}).items():
            found[name] = found[name] or int(value)
    return (_size(found["asked"]), _size(found["window"]))


def _size(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _shape(error: BaseException) -> dict[str, Any]:
    body = getattr(error, "body", None)
    inner = body.get("error", body) if isinstance(body, dict) else None
    return inner if isinstance(inner, dict) else {}
