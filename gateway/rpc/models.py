"""Models: what the configured agents answer with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType
from twisted.internet.defer import Deferred, TimeoutError
from twisted.logger import Logger

from gateway.app.agents import Agent
from gateway.app.context import Context
from gateway.app.deferreds import together
from gateway.core.access import READ
from gateway.core.params import SINCE_4, NonEmpty, Params, given
from gateway.errors import BackendError
from gateway.interfaces import IModelsBackend
from gateway.model import ModelInfo
from gateway.rpc.common import agent_for, named_agent, session_key
from gateway.rpc.table import MethodTable

methods = MethodTable()

REFRESH_S = 10.0
"""How long a fresh list is waited for; then the one there is stands."""

_log = Logger()


class ModelsListParams(Params, frozen=True):
    """Whose models; version 3 lists those of all agents."""

    agent_id: Annotated[NonEmpty | UnsetType, SINCE_4] = UNSET
    auth_profile_id: Annotated[
        Annotated[str, msgspec.Meta(min_length=1, max_length=256)] | UnsetType, SINCE_4
    ] = UNSET
    include_default_models: Annotated[bool | UnsetType, SINCE_4] = UNSET
    include_details: Annotated[bool | UnsetType, SINCE_4] = UNSET
    include_provider_capabilities: Annotated[bool | UnsetType, SINCE_4] = UNSET
    prepared_only: Annotated[bool | UnsetType, SINCE_4] = UNSET
    provider: Annotated[NonEmpty | UnsetType, SINCE_4] = UNSET
    refresh: Annotated[bool | UnsetType, SINCE_4] = UNSET
    session_key: Annotated[NonEmpty | UnsetType, SINCE_4] = UNSET
    view: Annotated[
        Literal["default", "configured", "provider-config", "all"] | UnsetType, SINCE_4
    ] = UNSET


@methods.method("models.list", scope=READ)
async def models_list(context: Context, params: ModelsListParams) -> dict[str, Any]:
    """List the models that the configured agents answer with, and whether they can be used now."""
    agents = _agents(context, params)
    if given(params.refresh, False):
        await together([Deferred.fromCoroutine(_refresh(context, agent)) for agent in agents])
    rows = model_rows(context, agents)
    provider = given(params.provider, "").strip().lower()
    if provider:
        rows = [row for row in rows if row["provider"].lower() == provider]
    return {"models": rows}


def _agents(context: Context, params: ModelsListParams) -> list[Agent]:
    if params.agent_id is not UNSET:
        return [named_agent(context, params.agent_id)]
    if params.session_key is not UNSET:
        return [agent_for(context, session_key(context, params.session_key))]
    return list(context.services.agents)


async def _refresh(context: Context, agent: Agent) -> None:
    """Let a backend bring its list up to date, if it can; otherwise the one there is stands."""
    if not IModelsBackend.providedBy(agent.backend):
        return
    try:
        asked: Deferred[Sequence[ModelInfo]] = agent.backend.refresh_models()
        await asked.addTimeout(REFRESH_S, context.services.clock)
    except (BackendError, TimeoutError) as error:
        _log.warn(
            "agent {agent} did not list its models: {error!r}", agent=agent.agent_id, error=error
        )


def model_rows(context: Context, agents: Iterable[Agent]) -> list[dict[str, Any]]:
    """Return the models of agents, each once, as ``models.list`` shows them in the caller's version.

    A model is available if one of the agents can use it.
    """
    four = context.caller.protocol >= 4
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for agent in agents:
        for model in agent.backend.models:
            key = (model.provider, model.id)
            row = _row(model)
            if four:
                row |= _since_4(model) | _availability(context, agent, model)
            if key not in rows or (row.get("available") and not rows[key]["available"]):
                rows[key] = row
    return list(rows.values())


def _row(model: ModelInfo) -> dict[str, Any]:
    row: dict[str, Any] = {"id": model.id, "name": model.name, "provider": model.provider}
    if model.context_window is not None:
        row["contextWindow"] = model.context_window
    if model.reasoning is not None:
        row["reasoning"] = model.reasoning
    return row


def _since_4(model: ModelInfo) -> dict[str, Any]:
    row: dict[str, Any] = {}
    if model.input:
        row["input"] = list(model.input)
    if model.thinking_levels:
        row["thinkingLevels"] = [
            {"id": level, "label": level.capitalize()} for level in model.thinking_levels
        ]
    if model.thinking_default is not None:
        row["thinkingDefault"] = model.thinking_default
    return row


def _availability(context: Context, agent: Agent, model: ModelInfo) -> dict[str, Any]:
    health = context.services.model_health
    trouble = health.trouble(agent.agent_id, model.provider, model.id)
    if trouble is not None:
        return {
            "available": False,
            "unavailableReason": trouble.reason,
            "unavailableUntil": trouble.until_ms,
        }
    return {"available": agent.backend.ready() and model.available is not False}
