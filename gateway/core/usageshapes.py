"""Usage as clients are shown it: totals, days, models, sessions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from gateway.core.sessionrow import session_kind
from gateway.model import LatencySum, Session, UsageSum

K = TypeVar("K", int, str, tuple[str, str], tuple[int, str, str])
DayName = Callable[[int], str]

NANO = 1_000_000_000


def totals(sums: Iterable[UsageSum]) -> dict[str, Any]:
    """Return sums as one object of totals, with costs in US dollars.

    ``input`` leaves out what was read from or written to a provider's cache. Prices are known per model
    and not per kind of token: the costs of the kinds are 0, ``totalCost`` is what is known of all.
    """
    read = written = total_in = output = nano = unpriced = 0
    for each in sums:
        total_in += each.input_tokens
        output += each.output_tokens
        read += each.cache_read_tokens
        written += each.cache_write_tokens
        nano += each.cost_nanousd
        unpriced += each.unpriced
    return {
        "input": max(0, total_in - read - written),
        "output": output,
        "cacheRead": read,
        "cacheWrite": written,
        "totalTokens": total_in + output,
        "totalCost": nano / NANO,
        "inputCost": 0,
        "outputCost": 0,
        "cacheReadCost": 0,
        "cacheWriteCost": 0,
        "missingCostEntries": unpriced,
    }


def daily(sums: Iterable[UsageSum], name: DayName) -> list[dict[str, Any]]:
    """Return the totals of each day on which something was used."""
    return [{"date": name(day), **totals(held)} for day, held in _by(sums, _day)]


def by_model(sums: Iterable[UsageSum]) -> list[dict[str, Any]]:
    """Return the totals of each model, what was used most first."""
    return _most_first(
        {
            "provider": provider,
            "model": model,
            "count": _entries(held),
            "totals": totals(held),
        }
        for (provider, model), held in _by(sums, lambda s: (s.provider or "", s.model or ""))
    )


def aggregates(
    sums: Sequence[UsageSum],
    latency: Sequence[LatencySum],
    daily_latency: Sequence[LatencySum],
    name: DayName,
) -> dict[str, Any]:
    """Return everything that is told of all sessions together."""
    shown: dict[str, Any] = {
        "messages": messages(sums),
        "tools": {"totalCalls": 0, "uniqueTools": 0, "tools": []},
        "byModel": by_model(sums),
        "byProvider": _most_first(
            {"provider": provider, "count": _entries(held), "totals": totals(held)}
            for provider, held in _by(sums, lambda s: s.provider or "")
        ),
        "byAgent": _most_first(
            {"agentId": agent_id, "totals": totals(held)}
            for agent_id, held in _by(sums, lambda s: s.agent_id or "")
        ),
        "byChannel": [],
        "dailyLatency": [{"date": name(each.day or 0), **_latency(each)} for each in daily_latency],
        "modelDaily": _model_daily(sums, name),
        "daily": [
            {
                "date": name(day),
                **_tokens_and_cost(held),
                "messages": messages(held)["total"],
                "toolCalls": 0,
                "errors": 0,
            }
            for day, held in _by(sums, _day)
        ],
    }
    if latency:
        shown["latency"] = _latency(latency[0])
    return shown


def messages(sums: Iterable[UsageSum]) -> dict[str, int]:
    """Return how many messages there were: each run is one of the user, and one that answers it."""
    runs = sum(each.runs for each in sums)
    nothing = dict.fromkeys(("toolCalls", "toolResults", "errors"), 0)
    return {"total": 2 * runs, "user": runs, "assistant": runs, **nothing}


def session_usage(
    whole: UsageSum, session: Session | None, parts: Sequence[UsageSum], name: DayName
) -> dict[str, Any]:
    """Return what one session used, with what is known of the session; ``parts`` by day and model."""
    days = _by(parts, _day)
    key, session_id = whole.session_key or "", whole.session_id
    if session is not None and session_id is None:
        session_id = session.session_id
    row: dict[str, Any] = {
        "key": key,
        "agentId": whole.agent_id,
        "updatedAt": whole.last_at_ms,
        "chatType": "group" if session_kind(key) == "group" else "direct",
    }
    if session_id is not None:
        row["sessionId"] = session_id
    if session is not None and session.label is not None:
        row["label"] = session.label
    if parts:
        row |= {"modelProvider": parts[0].provider, "model": parts[0].model}
    row["usage"] = {
        "sessionId": session_id,
        "firstActivity": whole.first_at_ms,
        "lastActivity": whole.last_at_ms,
        "durationMs": whole.last_at_ms - whole.first_at_ms,
        "activityDates": [name(day) for day, _ in days],
        "dailyBreakdown": [{"date": name(day), **_tokens_and_cost(held)} for day, held in days],
        "dailyModelUsage": _model_daily(parts, name),
        "messageCounts": messages((whole,)),
        "modelUsage": by_model(parts),
        **totals((whole,)),
    }
    return row


def points(runs: Sequence[UsageSum], everything: Sequence[UsageSum]) -> list[dict[str, Any]]:
    """Return the newest runs, oldest first, as points of a curve that ends with ``everything``."""
    whole, shown_here = totals(everything), totals(runs)
    tokens = whole["totalTokens"] - shown_here["totalTokens"]
    cost = whole["totalCost"] - shown_here["totalCost"]
    shown: list[dict[str, Any]] = []
    for run in runs:
        each = totals((run,))
        tokens += each["totalTokens"]
        cost += each["totalCost"]
        shown.append(
            {
                "timestamp": run.last_at_ms,
                **{k: each[k] for k in ("input", "output", "cacheRead", "cacheWrite")},
                "totalTokens": each["totalTokens"],
                "cost": each["totalCost"],
                "cumulativeTokens": tokens,
                "cumulativeCost": cost,
            }
        )
    return shown


def _model_daily(sums: Iterable[UsageSum], name: DayName) -> list[dict[str, Any]]:
    return [
        {
            "date": name(day),
            "provider": provider,
            "model": model,
            **_tokens_and_cost(held),
            "count": _entries(held),
        }
        for (day, provider, model), held in _by(
            sums, lambda s: (s.day or 0, s.provider or "", s.model or "")
        )
    ]


def _by(sums: Iterable[UsageSum], key: Callable[[UsageSum], K]) -> list[tuple[K, list[UsageSum]]]:
    groups: defaultdict[K, list[UsageSum]] = defaultdict(list)
    for each in sums:
        groups[key(each)].append(each)
    return [(group, groups[group]) for group in sorted(groups)]


def _day(part: UsageSum) -> int:
    return part.day or 0


def _entries(sums: Iterable[UsageSum]) -> int:
    return sum(each.entries for each in sums)


def _most_first(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sort rows by their cost, then by their tokens."""

    def weight(row: dict[str, Any]) -> tuple[float, int]:
        return (-row["totals"]["totalCost"], -row["totals"]["totalTokens"])

    return sorted(rows, key=weight)


def _tokens_and_cost(sums: Iterable[UsageSum]) -> dict[str, Any]:
    whole = totals(sums)
    return {"tokens": whole["totalTokens"], "cost": whole["totalCost"]}


def _latency(each: LatencySum) -> dict[str, Any]:
    return {
        "count": each.runs,
        "avgMs": each.total_ms / each.runs,
        "p95Ms": each.p95_ms,
        "minMs": each.min_ms,
        "maxMs": each.max_ms,
    }
