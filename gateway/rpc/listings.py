"""Agents, models, commands and tools: what there is to choose from."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from gateway.app.agents import Agent
from gateway.app.context import Context
from gateway.core.access import READ
from gateway.core.params import SINCE_4, NonEmpty, NoParams, Params, given
from gateway.core.sessionkey import agent_of
from gateway.errors import InvalidRequest
from gateway.rpc.common import session_key
from gateway.rpc.table import MethodTable

methods = MethodTable()

COMMANDS = (
    ("stop", "Stop what the agent is doing in this session.", "session", False),
    ("new", "Start a new session.", "session", True),
    ("reset", "Reset this session.", "session", True),
)
"""Commands in a message: name, description, category, whether they take text."""


class AgentIdentityParams(Params, frozen=True):
    """Which agent: by its id, or as the owner of a session."""

    agent_id: NonEmpty | UnsetType = UNSET
    session_key: str | UnsetType = UNSET


class ModelsListParams(Params, frozen=True):
    """Filters of version 4; the configured models are listed in any case."""

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


class CommandsListParams(Params, frozen=True):
    """Filters of ``commands.list``."""

    agent_id: NonEmpty | UnsetType = UNSET
    include_args: bool | UnsetType = UNSET
    provider: NonEmpty | UnsetType = UNSET
    scope: Literal["text", "native", "both"] | UnsetType = UNSET
    session_key: NonEmpty | UnsetType = UNSET


class ToolsCatalogParams(Params, frozen=True):
    """Whose tools."""

    agent_id: NonEmpty | UnsetType = UNSET
    include_plugins: bool | UnsetType = UNSET


@methods.method("agents.list", scope=READ)
def agents_list(context: Context, params: NoParams) -> dict[str, Any]:
    """List the configured agents."""
    agents = context.services.agents
    four = context.caller.protocol >= 4
    answer: dict[str, Any] = {
        "defaultId": agents.default_id,
        "mainKey": agents.keys.main_key,
        "scope": agents.keys.scope,
        "agents": [_agent_row(agent, four=four) for agent in agents],
    }
    if four:
        answer |= {"ownership": "sole", "selectionRequired": False}
    return answer


def _agent_row(agent: Agent, *, four: bool) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": agent.agent_id,
        "name": agent.name,
        "identity": {"name": agent.name},
    }
    if four:
        # A page locks its input for an agent without a model.
        row["model"] = {"primary": agent.primary}
    return row


@methods.method("agent.identity.get", scope=READ)
def agent_identity(context: Context, params: AgentIdentityParams) -> dict[str, Any]:
    """Return an agent's name and avatar."""
    agents = context.services.agents
    agent_id = given(params.agent_id, None)
    key = given(params.session_key, "").strip()
    if agent_id is None and key:
        agent_id = agent_of(session_key(context, key), agents.keys)
    agent = agents.default if agent_id is None else agents.get(agent_id.strip().lower())
    if agent is None:
        raise InvalidRequest(f'unknown agent id "{str(agent_id)[:64]}"')
    answer: dict[str, Any] = {
        "agentId": agent.agent_id,
        "name": agent.name,
        "avatar": agent.name[:1].upper() or "A",
    }
    if context.caller.protocol >= 4:
        answer["nameSource"] = "config" if agent.name != agent.agent_id else "default"
    return answer


@methods.method("models.list", scope=READ)
def models_list(context: Context, params: ModelsListParams) -> dict[str, Any]:
    """List the models that the configured agents answer with."""
    return {"models": model_rows(context)}


def model_rows(context: Context) -> list[dict[str, Any]]:
    """Return the models as ``models.list`` shows them, within the caller's version."""
    four = context.caller.protocol >= 4
    rows = []
    for model in context.services.agents.models():
        row: dict[str, Any] = {"id": model.id, "name": model.name, "provider": model.provider}
        if model.context_window is not None:
            row["contextWindow"] = model.context_window
        if four:
            row["available"] = True
        rows.append(row)
    return rows


@methods.method("commands.list", scope=READ)
def commands_list(context: Context, params: CommandsListParams) -> dict[str, Any]:
    """List the commands that a message may begin with."""
    return {"commands": [] if params.scope == "native" else command_rows()}


def command_rows() -> list[dict[str, Any]]:
    """Return the commands as ``commands.list`` shows them."""
    return [
        {
            "name": name,
            "description": description,
            "category": category,
            "source": "native",
            "scope": "text",
            "textAliases": [f"/{name}"],
            "acceptsArgs": accepts,
        }
        for name, description, category, accepts in COMMANDS
    ]


@methods.method("tools.catalog", scope=READ)
def tools_catalog(context: Context, params: ToolsCatalogParams) -> dict[str, Any]:
    """List the gateway's own tools; agents bring theirs, so there are none."""
    agents = context.services.agents
    agent_id = given(params.agent_id, agents.default_id)
    agent = agents.get(agent_id.strip().lower())
    if agent is None:
        raise InvalidRequest(f'unknown agent id "{agent_id[:64]}"')
    return {
        "agentId": agent.agent_id,
        "profiles": [{"id": "full", "label": "Full"}],
        "groups": [],
    }
