"""What a run used: as it is stored, and as clients are shown it.

An agent's numbers can be anything. What is no count of tokens counts as none; what is no text, or none
that can be stored, is put right: they must not keep the end of a run from being stored.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from gateway.core.outcome import RunOutcome
from gateway.model import ModelUsage, Usage

MAX_TOKENS: Final = 10**12
"""More than any run uses; the sum of millions of runs is still one that the database can hold."""

MAX_MODELS: Final = 64
"""Of a run the usage of so many models is kept; what is beyond is added to the last."""

MAX_COST_USD: Final = 10_000
"""The same for what a model costs in one run, which is stored in billionths."""
MAX_NAME_CHARS: Final = 200
UNKNOWN: Final = "unknown"


def turn_usage(outcome: RunOutcome) -> dict[str, Any]:
    """Return what the end of a run (TurnEnd) says of its usage."""
    usage = outcome.usage
    if usage is None:
        return {}
    return {
        "input_tokens": _count(usage.input_tokens),
        "output_tokens": _count(usage.output_tokens),
        "context_tokens": context_tokens(usage),
        "usage": by_model(usage, outcome.provider, outcome.model),
    }


def context_tokens(usage: Usage) -> int | None:
    """Return how many tokens are in the agent's context, if it said so."""
    told = usage.context_tokens
    return None if told is None or _count(told) != told else told


def by_model(usage: Usage, provider: str | None, model: str | None) -> tuple[ModelUsage, ...]:
    """Return what each model used, one entry a model; by default all of it is the answering model's."""
    entries: Iterable[ModelUsage] = usage.by_model or (
        ModelUsage(
            provider=provider or UNKNOWN,
            model=model or UNKNOWN,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
        ),
    )
    merged: dict[tuple[str, str], ModelUsage] = {}
    for entry in entries:
        clean = _clean(entry)
        name = (clean.provider, clean.model)
        if name not in merged and len(merged) == MAX_MODELS:
            name = next(reversed(merged))
        held = merged.get(name)
        merged[name] = clean if held is None else _sum(held, clean)
    return tuple(merged.values())


def run_usage(usage: Usage) -> dict[str, Any]:
    """Return the usage object of a message and of a final event.

    ``input`` leaves out what was read from or written to the provider's cache, as clients add the four up;
    ``cost`` is there if the price of every model is known, in US dollars.
    """
    models = [_clean(entry) for entry in usage.by_model]
    total_in, total_out = _count(usage.input_tokens), _count(usage.output_tokens)
    read = sum(entry.cache_read_tokens for entry in models)
    written = sum(entry.cache_write_tokens for entry in models)
    shown: dict[str, Any] = {
        "input": max(0, total_in - read - written),
        "output": total_out,
        "totalTokens": total_in + total_out,
    }
    if models:
        shown |= {"cacheRead": read, "cacheWrite": written}
        costs = [entry.cost_usd for entry in models]
        if None not in costs:
            shown["cost"] = {"total": sum(cost for cost in costs if cost is not None)}
    return shown


def _clean(entry: ModelUsage) -> ModelUsage:
    return ModelUsage(
        provider=_name(entry.provider),
        model=_name(entry.model),
        input_tokens=_count(entry.input_tokens),
        output_tokens=_count(entry.output_tokens),
        cache_read_tokens=_count(entry.cache_read_tokens),
        cache_write_tokens=_count(entry.cache_write_tokens),
        cost_usd=_cost(entry.cost_usd),
    )


def _sum(one: ModelUsage, other: ModelUsage) -> ModelUsage:
    costs = (one.cost_usd, other.cost_usd)
    known = [cost for cost in costs if cost is not None]
    return ModelUsage(
        provider=one.provider,
        model=one.model,
        input_tokens=_count(one.input_tokens + other.input_tokens),
        output_tokens=_count(one.output_tokens + other.output_tokens),
        cache_read_tokens=_count(one.cache_read_tokens + other.cache_read_tokens),
        cache_write_tokens=_count(one.cache_write_tokens + other.cache_write_tokens),
        cost_usd=sum(known) if len(known) == len(costs) else None,
    )


def _count(value: Any) -> int:
    return value if type(value) is int and 0 <= value <= MAX_TOKENS else 0


def _cost(value: Any) -> float | None:
    if type(value) not in (int, float) or not 0 <= value <= MAX_COST_USD:
        return None
    return float(value)


def _name(value: Any) -> str:
    text = value if isinstance(value, str) and value else UNKNOWN
    return text[:MAX_NAME_CHARS].encode("utf-8", "replace").decode()
