"""What a turn used, by model, and what it cost where that is known."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from genai_prices import calc_price
from pydantic_ai.messages import ModelResponse

from gateway.agents.workers.models import Candidate


@dataclass
class ModelUse:
    """The sums of one model. ``cost`` is None as soon as the price of one response is not known."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    cost: Decimal | None = Decimal(0)


@dataclass
class TurnUsage:
    """What a turn used so far.

    :ivar context: tokens of the last request and its response.
    """

    context: int | None = None
    by_model: dict[tuple[str, str], ModelUse] = field(default_factory=dict)

    def add(self, candidate: Candidate, response: ModelResponse) -> None:
        """Count a response of ``candidate``."""
        use = self.by_model.setdefault((candidate.provider, candidate.id), ModelUse())
        usage = response.usage
        use.input += usage.input_tokens
        use.output += usage.output_tokens
        use.cache_read += usage.cache_read_tokens
        use.cache_write += usage.cache_write_tokens
        cost = price(candidate, response)
        use.cost = None if use.cost is None or cost is None else use.cost + cost
        self.context = usage.input_tokens + usage.output_tokens or self.context

    def shape(self) -> dict[str, Any]:
        """Return it as ``_meta.gateway.usage``."""
        uses = self.by_model.values()
        shape: dict[str, Any] = {
            "inputTokens": sum(use.input for use in uses),
            "outputTokens": sum(use.output for use in uses),
            "byModel": [_one(*key, use) for key, use in self.by_model.items()],
        }
        if self.context is not None:
            shape["contextTokens"] = self.context
        return shape


def price(candidate: Candidate, response: ModelResponse) -> Decimal | None:
    """Return what a response cost in US dollars, or None where nobody knows.

    A server at an address of one's own has no known price, whatever its models are called.
    """
    try:
        if candidate.spec.base_url is None:
            return response.cost().total_price
        name = response.model_name or candidate.id
        found = calc_price(response.usage, name, provider_api_url=candidate.spec.base_url)
        return found.total_price
    except (LookupError, ValueError, AssertionError):
        return None


def _one(provider: str, model: str, use: ModelUse) -> dict[str, Any]:
    shape = {
        "provider": provider,
        "model": model,
        "inputTokens": use.input,
        "outputTokens": use.output,
        "cacheReadTokens": use.cache_read,
        "cacheWriteTokens": use.cache_write,
    }
    return shape if use.cost is None else shape | {"costUsd": float(use.cost)}
