"""What the gateway tells its model worker at the start: shared by both sides, free of any library of models.

The specification goes in the environment variable :data:`SPEC_VARIABLE` and holds no secret; the secrets
go in :data:`SECRETS_VARIABLE`, which the worker removes at once. Both are JSON.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from gateway.agents.launcher import SECRETS_VARIABLE as SECRETS_VARIABLE
from gateway.agents.mcpconfig import ResolvedServer

SPEC_VARIABLE = "GATEWAY_LLM_SPEC"
MAX_VARIABLE_BYTES = 120_000
"""Linux takes no environment variable of more than 128 KiB."""

ToolName = Literal["read", "list", "search", "write", "edit", "shell"]
TOOLS: tuple[ToolName, ...] = ("read", "list", "search", "write", "edit", "shell")
ShellPolicy = Literal["ask", "allow", "off"]
MAX_REQUESTS = 50

ThinkingLevel = Literal["off", "minimal", "low", "medium", "high", "xhigh", "max"]


class ModelSpec(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    """One model of the chain. ``model`` is ``PROVIDER:ID``, as pydantic-ai has it."""

    model: str
    base_url: str | None = None
    context_window: int | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    thinking: ThinkingLevel | None = None
    images: bool | None = None
    """Whether it takes images; None where the library's own knowledge of the model decides."""

    @property
    def provider(self) -> str:
        """The part before the colon."""
        return self.model.partition(":")[0]

    @property
    def id(self) -> str:
        """The part behind the colon."""
        return self.model.partition(":")[2]

    @property
    def ref(self) -> str:
        """``PROVIDER/ID``, as clients name a model."""
        return f"{self.provider}/{self.id}"


class WorkerSpec(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    """The whole agent. The first model is the default; the others stand in for it, in this order."""

    models: tuple[ModelSpec, ...]
    agent_id: str = "main"
    system_prompt: str | None = None
    state_dir: str | None = None
    """Where conversations are kept; without it they live as long as the process."""
    workspace: str | None = None
    """The directory that the tools work in; without it the process's own."""
    workspace_files: bool = True
    """Whether AGENTS.md and its like in the workspace are part of the instructions."""
    tools: tuple[ToolName, ...] = TOOLS
    shell: ShellPolicy = "ask"
    max_requests: int = MAX_REQUESTS
    """Requests to the model in one turn, each followed by the tools that it asks for."""


class WorkerSecrets(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    """What nobody else may see. ``models[i]`` holds the keys for the i-th model of the specification."""

    models: tuple[tuple[str, ...], ...] = ()
    mcp_servers: tuple[ResolvedServer, ...] = ()

    def keys(self, index: int) -> tuple[str, ...]:
        """Return the keys of a model; none is none."""
        return self.models[index] if index < len(self.models) else ()

    def all(self) -> tuple[str, ...]:
        """Return every secret text, for who must not let one out."""
        keys = [key for keys in self.models for key in keys]
        for server in self.mcp_servers:
            values = [*server.env.values(), *server.headers.values()]
            # A short value of an environment variable, such as 1, is no secret and stands in many texts.
            keys += [value for value in values if len(value) >= 6]
        return tuple(keys)
