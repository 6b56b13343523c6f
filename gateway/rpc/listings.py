"""Commands and tools: what there is to choose from."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, UnsetType

from gateway.app.context import Context
from gateway.core.access import READ
from gateway.core.params import NonEmpty, Params
from gateway.rpc.common import named_agent
from gateway.rpc.table import MethodTable

methods = MethodTable()

COMMANDS = (
    ("stop", "Stop what the agent is doing in this session.", "session", False),
    ("new", "Start a new session.", "session", True),
    ("reset", "Reset this session.", "session", True),
)
"""Commands in a message: name, description, category, whether they take text."""


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
    agent = named_agent(context, params.agent_id)
    return {
        "agentId": agent.agent_id,
        "profiles": [{"id": "full", "label": "Full"}],
        "groups": [],
    }
