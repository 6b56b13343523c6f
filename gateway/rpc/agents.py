"""Agents: which there are, who they are, what becomes of them."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, UnsetType

from gateway.app.agents import Agent
from gateway.app.context import Context
from gateway.core.access import READ
from gateway.core.params import NonEmpty, NoParams, Params, given
from gateway.core.sessionkey import agent_of
from gateway.rpc.common import named_agent, session_key
from gateway.rpc.table import MethodTable

methods = MethodTable()


class AgentIdentityParams(Params, frozen=True):
    """Which agent: by its id, or as the owner of a session."""

    agent_id: NonEmpty | UnsetType = UNSET
    session_key: str | UnsetType = UNSET


@methods.method("agents.list", scope=READ)
def agents_list(context: Context, params: NoParams) -> dict[str, Any]:
    """List the agents."""
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
    identity = {"name": agent.name, "emoji": agent.emoji, "avatar": agent.avatar}
    row: dict[str, Any] = {
        "id": agent.agent_id,
        "name": agent.name,
        "identity": {name: value for name, value in identity.items() if value},
    }
    if four:
        # A page locks its input for an agent without a model.
        row["model"] = {"primary": agent.primary}
        row |= {"workspace": agent.workspace} if agent.workspace else {}
        row |= {} if agent.backend.ready() else {"status": "degraded"}
    return row


@methods.method("agent.identity.get", scope=READ)
def agent_identity(context: Context, params: AgentIdentityParams) -> dict[str, Any]:
    """Return an agent's name and avatar."""
    agent_id: str | UnsetType = params.agent_id
    key = given(params.session_key, "").strip()
    if agent_id is UNSET and key:
        agent_id = agent_of(session_key(context, key), context.services.agents.keys)
    agent = named_agent(context, agent_id)
    answer: dict[str, Any] = {
        "agentId": agent.agent_id,
        "name": agent.name,
        "avatar": agent.avatar or agent.emoji or agent.name[:1].upper() or "A",
    }
    if agent.emoji:
        answer["emoji"] = agent.emoji
    if context.caller.protocol >= 4:
        answer["nameSource"] = "config" if agent.name != agent.agent_id else "default"
    return answer
