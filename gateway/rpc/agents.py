"""Agents: which there are, who they are, what becomes of them."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, UnsetType

from gateway.app.agentadmin import Removed, Wish
from gateway.app.agents import Agent
from gateway.app.context import Context
from gateway.core.access import ADMIN, READ
from gateway.core.params import SINCE_4, NonEmpty, NoParams, Params, given
from gateway.core.sessionkey import agent_of
from gateway.errors import InvalidRequest
from gateway.rpc.common import named_agent, session_key
from gateway.rpc.table import MethodTable

methods = MethodTable()


MAX_NAME_CHARS = 200
MAX_EMOJI_CHARS = 64
MAX_AVATAR_CHARS = 4096
"""They ride on every list of agents."""


class AgentsCreateParams(Params, frozen=True):
    """What the new agent is called, where its files lie, and what it answers with."""

    name: NonEmpty
    workspace: NonEmpty | UnsetType = UNSET
    model: Annotated[NonEmpty | UnsetType, SINCE_4] = UNSET
    emoji: str | UnsetType = UNSET
    avatar: str | UnsetType = UNSET

    def violation(self, protocol: int) -> str | None:
        """Version 3 asks for a workspace."""
        missing = protocol < 4 and self.workspace is UNSET
        return "at root: must have required property 'workspace'" if missing else None


class AgentsUpdateParams(Params, frozen=True):
    """What is to change; an empty text or null takes a change back."""

    agent_id: NonEmpty
    name: NonEmpty | UnsetType = UNSET
    workspace: NonEmpty | UnsetType = UNSET
    model: NonEmpty | UnsetType | None = UNSET
    agent_runtime: Annotated[NonEmpty | UnsetType, SINCE_4] = UNSET
    emoji: Annotated[str | UnsetType, SINCE_4] = UNSET
    avatar: str | UnsetType = UNSET

    def violation(self, protocol: int) -> str | None:
        """Version 3 has no null."""
        return "at /model: must be string" if protocol < 4 and self.model is None else None


class AgentsDeleteParams(Params, frozen=True):
    """Which agent, and whether its workspace goes as well (it does unless this is false)."""

    agent_id: NonEmpty
    delete_files: bool | UnsetType = UNSET


class AgentsRestartParams(Params, frozen=True):
    """Which agent."""

    agent_id: NonEmpty


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


@methods.method("agents.status", scope=READ)
def agents_status(context: Context, params: NoParams) -> dict[str, Any]:
    """Tell how the agents do: whether they are ready, their runs, the processes behind them."""
    return {"agents": context.services.inspection.agents()}


@methods.method("agents.create", scope=ADMIN)
async def agents_create(context: Context, params: AgentsCreateParams) -> dict[str, Any]:
    """Make an agent like the default one, with a workspace of its own; it can be used at once."""
    wish = Wish(_values(params), given(params.workspace, None))
    agent = await context.services.agent_admin.create(params.name.strip(), wish)
    answer = {
        "ok": True,
        "agentId": agent.agent_id,
        "name": agent.name,
        "workspace": agent.workspace,
    }
    return answer | ({"model": agent.primary} if context.caller.protocol >= 4 else {})


@methods.method("agents.update", scope=ADMIN)
async def agents_update(context: Context, params: AgentsUpdateParams) -> dict[str, Any]:
    """Change an agent; for another model or workspace it is started anew, once its runs have ended."""
    if params.agent_runtime is not UNSET:
        raise InvalidRequest("agentRuntime: what runs an agent is for the configuration to say")
    wish = Wish(_values(params), given(params.workspace, None))
    agent = await context.services.agent_admin.update(params.agent_id, wish)
    return {"ok": True, "agentId": agent.agent_id}


@methods.method("agents.restart", scope=ADMIN)
async def agents_restart(context: Context, params: AgentsRestartParams) -> dict[str, Any]:
    """Start an agent anew; runs that go on end with what they were begun with."""
    agent = await context.services.agent_admin.restart(params.agent_id)
    return {"ok": True, "agentId": agent.agent_id}


@methods.method("agents.delete", scope=ADMIN)
async def agents_delete(context: Context, params: AgentsDeleteParams) -> dict[str, Any]:
    """Delete an agent that is not the default one; its runs are aborted, its sessions stay."""
    removed: Removed | None = await context.services.agent_admin.delete(
        params.agent_id, files=given(params.delete_files, True)
    )
    answer: dict[str, Any] = {
        "ok": True,
        "agentId": params.agent_id.strip().lower(),
        "removedBindings": 0,
    }
    if context.caller.protocol >= 4 and removed is not None:
        if removed.reason:
            failed = [{"path": removed.path, "reason": removed.reason}]
            answer |= {"purgeFailed": True, "failed": failed}
        else:
            answer["removed"] = [{"path": removed.path, "method": removed.method}]
    return answer


def _values(params: AgentsCreateParams | AgentsUpdateParams) -> dict[str, str | None]:
    """Return what is to be kept; None for what is taken back. Raises InvalidRequest."""
    limits = {"name": MAX_NAME_CHARS, "emoji": MAX_EMOJI_CHARS, "avatar": MAX_AVATAR_CHARS}
    values: dict[str, str | None] = {}
    for key in ("name", "emoji", "avatar", "model"):
        given_value: str | UnsetType | None = getattr(params, key)
        if isinstance(given_value, UnsetType):
            continue
        value = (given_value or "").strip()
        longest = limits.get(key, MAX_NAME_CHARS)
        if len(value) > longest or not value.isprintable():
            raise InvalidRequest(f"{key}: at most {longest} printable characters")
        if key == "name" and not value:
            raise InvalidRequest("name: it must not be blank")
        values[key] = value or None
    return values
