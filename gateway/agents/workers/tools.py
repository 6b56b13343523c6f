"""The tools of an agent, put together from its specification."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic_ai.toolsets import FunctionToolset

from gateway.agents.llmspec import WorkerSpec
from gateway.agents.workers.files import FileTools
from gateway.agents.workers.shell import ShellTool
from gateway.agents.workers.toolspec import ToolContext
from gateway.workspace import Workspace

TOOL_RETRIES = 3
"""How often in a row a model may call a tool with arguments that do not fit."""


def build_tools(
    spec: WorkerSpec, workspace: Workspace, environ: Mapping[str, str]
) -> FunctionToolset[ToolContext]:
    """Return the built-in tools that the agent has; ``environ`` is what its commands see."""
    files = FileTools(workspace)
    shell = ShellTool(workspace, environ, ask=spec.shell == "ask")
    known: dict[str, Callable[..., Any]] = {
        "read": files.read,
        "list": files.list_directory,
        "search": files.search,
        "write": files.write,
        "edit": files.edit,
    }
    toolset: FunctionToolset[ToolContext] = FunctionToolset(max_retries=TOOL_RETRIES)
    for name in spec.tools:
        if name in known:
            toolset.add_function(known[name], name=name, takes_ctx=False)
        elif name == "shell" and spec.shell != "off":
            toolset.add_function(shell.shell, name=name, takes_ctx=True)
    return toolset
