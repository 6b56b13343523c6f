"""The models of an agent program, as it tells of them itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from gateway.agents.acp_values import count_of, items, mapping, text_of
from gateway.model import ModelInfo

PROVIDER: Final = "acp"
"""Stands for the provider of a model where an agent program knows it, and the gateway does not."""
LIST_S: Final = 8.0
"""How long an agent of ours has to ask its providers which models they have."""
_INPUTS: Final = ("text", "image", "audio", "video", "document")


def with_offered(models: Sequence[ModelInfo], offered: Iterable[str]) -> tuple[ModelInfo, ...]:
    """Return what a program of somebody else's lets choose from, its own choice first.

    The models of an agent of ours are known from its configuration; they stay.
    """
    own, *_ = models
    if own.provider != PROVIDER:
        return tuple(models)
    others = (ModelInfo(id=name, name=name, provider=PROVIDER) for name in offered)
    return (own, *(model for model in others if model.id != own.id))


def refreshed(models: Sequence[ModelInfo], answer: Any) -> tuple[ModelInfo, ...]:
    """Return models with what the answer to ``_gateway/models`` tells of them; it adds none.

    ``{models: [{provider, id, contextWindow?, reasoning?, input?, available?}]}``
    """
    told = {
        (row.get("provider"), row.get("id")): row
        for row in map(mapping, items(mapping(answer).get("models")))
        if text_of(row.get("provider")) and text_of(row.get("id"))
    }
    return tuple(_refreshed(model, told.get((model.provider, model.id), {})) for model in models)


def _refreshed(model: ModelInfo, row: dict[str, Any]) -> ModelInfo:
    inputs = tuple(kind for kind in _INPUTS if kind in items(row.get("input")))
    return msgspec.structs.replace(
        model,
        context_window=count_of(row.get("contextWindow")) or model.context_window,
        reasoning=_flag(row.get("reasoning"), model.reasoning),
        input=inputs or model.input,
        available=_flag(row.get("available"), None),
    )


def _flag(value: Any, otherwise: bool | None) -> bool | None:
    return value if isinstance(value, bool) else otherwise
