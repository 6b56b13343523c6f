"""What is known of an agent's models: by the library, and by their providers if they are asked."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import Any

from gateway.agents.workers.models import Candidate

LIST_S = 5.0
"""How long a provider has to list its models."""


async def listed(candidates: Sequence[Candidate]) -> list[dict[str, Any]]:
    """Return ``{provider, id, contextWindow?, input, reasoning?, available?}`` of each model, in order.

    Providers with an OpenAI-compatible API are asked which models they have; whoever does not answer leaves
    ``available`` out. So does a server of a single model, since many of these answer to any name.
    """
    first = {candidate.spec.ref: candidate for candidate in reversed(candidates)}
    return list(await asyncio.gather(*(_row(first[ref]) for ref in reversed(first))))


async def _row(candidate: Candidate) -> dict[str, Any]:
    row: dict[str, Any] = {"provider": candidate.provider, "id": candidate.id}
    row["input"] = ["text", "image"] if candidate.images else ["text"]
    if candidate.context_window is not None:
        row["contextWindow"] = candidate.context_window
    if candidate.model.profile.get("supports_thinking"):
        row["reasoning"] = True
    return row | await _asked(candidate)


async def _asked(candidate: Candidate) -> dict[str, Any]:
    api = getattr(getattr(candidate.model, "client", None), "models", None)
    if api is None or not candidate.provider.startswith("openai"):
        return {}
    try:
        async with asyncio.timeout(LIST_S):
            page = await api.list()
        found = {each.id: each for each in page.data}
    except Exception as error:
        # Its text may quote the key.
        print(f"models of {candidate.provider}: {type(error).__name__}", file=sys.stderr)
        return {}
    mine = found.get(candidate.id) or (next(iter(found.values())) if len(found) == 1 else None)
    answer: dict[str, Any] = {}
    if candidate.id in found or len(found) != 1:
        answer["available"] = candidate.id in found
    window = _window(mine)
    if candidate.context_window is None and window is not None:
        answer["contextWindow"] = window
    return answer


def _window(model: Any) -> int | None:
    """Return the context that a server says a model has: llama.cpp's ``meta``, or vLLM's key."""
    meta = getattr(model, "meta", None)
    told = (
        meta.get("n_ctx") or meta.get("n_ctx_train")
        if isinstance(meta, dict)
        else getattr(model, "max_model_len", None)
    )
    return told if isinstance(told, int) and told > 0 else None
