"""Workspaces: the files of agents, as far as clients may see and write them."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, UnsetType

from gateway.app.agents import Agent
from gateway.app.context import Context
from gateway.core.access import ADMIN, READ
from gateway.core.params import SINCE_4, Natural, NonEmpty, Params, Positive, given
from gateway.rpc.common import named_agent
from gateway.rpc.table import MethodTable

methods = MethodTable()

DEFAULT_LIMIT = 200
MAX_LIMIT = 1000

Sha256 = Annotated[str, msgspec.Meta(pattern="^[a-fA-F0-9]{64}$")]


class AgentsFilesListParams(Params, frozen=True):
    """Whose files."""

    agent_id: NonEmpty


class AgentsFilesGetParams(Params, frozen=True):
    """Which of the well-known files."""

    agent_id: NonEmpty
    name: NonEmpty


class AgentsFilesSetParams(Params, frozen=True):
    """What a file is to hold, and the hash of what is replaced."""

    agent_id: NonEmpty
    name: NonEmpty
    content: str
    expected_hash: Annotated[Sha256 | UnsetType, SINCE_4] = UNSET


class AgentsWorkspaceListParams(Params, frozen=True):
    """Which directory, relative to the workspace, and which part of it."""

    agent_id: NonEmpty
    path: str | UnsetType = UNSET
    offset: Natural | UnsetType = UNSET
    limit: Positive | UnsetType = UNSET


class AgentsWorkspaceGetParams(Params, frozen=True):
    """Which file, relative to the workspace."""

    agent_id: NonEmpty
    path: NonEmpty


@methods.method("agents.files.list", scope=READ)
async def files_list(context: Context, params: AgentsFilesListParams) -> dict[str, Any]:
    """List the well-known files of an agent's workspace, those that are missing included."""
    agent = named_agent(context, params.agent_id)
    rows = await context.services.agent_files.known(agent)
    return {**_head(agent), "files": [_shown(context, row) for row in rows]}


@methods.method("agents.files.get", scope=READ)
async def files_get(context: Context, params: AgentsFilesGetParams) -> dict[str, Any]:
    """Read a well-known file of an agent's workspace."""
    agent = named_agent(context, params.agent_id)
    row = await context.services.agent_files.get(agent, params.name)
    return {**_head(agent), "file": _shown(context, row)}


@methods.method("agents.files.set", scope=ADMIN)
async def files_set(context: Context, params: AgentsFilesSetParams) -> dict[str, Any]:
    """Write a well-known file of an agent's workspace, as a whole."""
    agent = named_agent(context, params.agent_id)
    expected = given(params.expected_hash, None)
    row = await context.services.agent_files.set(agent, params.name, params.content, expected)
    return {"ok": True, **_head(agent), "file": _shown(context, row)}


@methods.method("agents.workspace.list", scope=READ)
async def workspace_list(context: Context, params: AgentsWorkspaceListParams) -> dict[str, Any]:
    """List a directory of an agent's workspace, without hidden files and links."""
    agent = named_agent(context, params.agent_id)
    limit = min(given(params.limit, DEFAULT_LIMIT), MAX_LIMIT)
    page = await context.services.agent_files.list(
        agent, given(params.path, ""), given(params.offset, 0), limit
    )
    return {"agentId": agent.agent_id, **page}


@methods.method("agents.workspace.get", scope=READ)
async def workspace_get(context: Context, params: AgentsWorkspaceGetParams) -> dict[str, Any]:
    """Read a file of an agent's workspace; what is not UTF-8 comes as base64."""
    agent = named_agent(context, params.agent_id)
    file = await context.services.agent_files.read(agent, params.path)
    return {"agentId": agent.agent_id, "file": file}


def _head(agent: Agent) -> dict[str, Any]:
    return {"agentId": agent.agent_id, "workspace": agent.workspace}


def _shown(context: Context, row: dict[str, Any]) -> dict[str, Any]:
    if context.caller.protocol >= 4:
        return row
    return {key: value for key, value in row.items() if key not in ("hash", "expectedAbsent")}
