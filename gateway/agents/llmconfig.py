"""The table of the llm agent, ``[agents.ID]`` with ``backend = "llm"``."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from gateway.agents.llmpolicy import ContextConfig, FailoverConfig
from gateway.agents.llmspec import (
    MAX_REQUESTS,
    TOOLS,
    ModelSpec,
    ShellPolicy,
    ThinkingLevel,
    ToolName,
)
from gateway.agents.mcpconfig import SERVERS_MAX, McpServer
from gateway.agents.processconfig import ProcessConfig
from gateway.config import Secret
from gateway.limits import Table

MAX_MODELS = 16
MAX_KEYS = 16

Tokens = Annotated[int, Meta(ge=1)]
Temperature = Annotated[float, Meta(ge=0, le=2)]


class ModelConfig(Table, frozen=True, omit_defaults=True):
    """One model of an agent, ``[[agents.ID.models]]``: the first is the default, the others stand in."""

    model: str
    """The model as pydantic-ai names it, such as "anthropic:NAME"."""
    base_url: str | None = None
    """The API's address; without it the provider's own."""
    api_key: Secret | None = None
    """The key for it."""
    api_keys: Annotated[list[Secret], Meta(max_length=MAX_KEYS)] = []
    """More keys for it: the next one is used while one is refused or at its limit."""
    context_window: Tokens | None = None
    """Tokens that a request may have, where pydantic-ai does not know the model."""
    max_tokens: Tokens | None = None
    """Most tokens of one answer."""
    temperature: Temperature | None = None
    """How freely the model chooses its words."""
    thinking: ThinkingLevel | None = None
    """How much it thinks where a session does not say; ignored by models that can't."""
    images: bool | None = None
    """Whether it takes images, where pydantic-ai is wrong about it."""

    def __post_init__(self) -> None:
        check_model(self)

    @property
    def secrets(self) -> tuple[tuple[str, Secret], ...]:
        """Its keys in their order, each with its place in the table."""
        one = () if self.api_key is None else (("api_key", self.api_key),)
        return (*one, *((f"api_keys[{n}]", key) for n, key in enumerate(self.api_keys)))

    def spec(self) -> ModelSpec:
        """Return what the worker is told of it."""
        return ModelSpec(
            model=self.model,
            base_url=self.base_url,
            context_window=self.context_window,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            thinking=self.thinking,
            images=self.images,
        )


class LlmConfig(ProcessConfig, frozen=True):
    """Models of any provider that pydantic-ai knows, run by the gateway's own worker."""

    model: str = ""
    """The model as pydantic-ai names it, such as "openai-chat:NAME"; or give models."""
    base_url: str | None = None
    """The API's address, such as "http://127.0.0.1:8080/v1"; without it the provider's own."""
    api_key: Secret | None = None
    """The key for it."""
    api_keys: Annotated[list[Secret], Meta(max_length=MAX_KEYS)] = []
    """More keys for it: the next one is used while one is refused or at its limit."""
    context_window: Tokens | None = None
    """Tokens that a request may have, where pydantic-ai does not know the model."""
    max_tokens: Tokens | None = None
    """Most tokens of one answer."""
    temperature: Temperature | None = None
    """How freely the model chooses its words."""
    thinking: ThinkingLevel | None = None
    """How much it thinks where a session does not say; ignored by models that can't."""
    images: bool | None = None
    """Whether it takes images, where pydantic-ai is wrong about it."""
    fallbacks: Annotated[list[str], Meta(max_length=MAX_MODELS - 1)] = []
    """More models of the same provider and address, which stand in where model fails."""
    models: Annotated[list[ModelConfig], Meta(max_length=MAX_MODELS)] = []
    """Models with an address and keys each; the first is the default, the others stand in for it."""
    system_prompt: Annotated[str, Meta(max_length=100_000)] | None = None
    """What the model is told before every conversation."""
    cwd: str | None = None
    """Its workspace, the directory that its tools work in; without it workspace/ID in the state directory."""
    workspace_files: bool = True
    """Whether AGENTS.md, SOUL.md, MEMORY.md and the like there are read at the start of every turn."""
    tools: list[ToolName] = msgspec.field(default_factory=lambda: list(TOOLS))
    """Its own tools, beside those of its MCP servers."""
    shell: ShellPolicy = "ask"
    """Whether an operator is asked before a command runs, or none is asked, or there is no shell."""
    max_requests: Annotated[int, Meta(ge=1, le=1000)] = MAX_REQUESTS
    """Requests to the model in one turn, each followed by the tools that it calls."""
    failover: FailoverConfig = FailoverConfig()
    """What happens when a model fails."""
    context: ContextConfig = ContextConfig()
    """How a conversation is kept within the model's window."""
    mcp_servers: Annotated[dict[str, McpServer], Meta(max_length=SERVERS_MAX)] = {}
    """Servers of the Model Context Protocol whose tools it has."""

    def __post_init__(self) -> None:
        if self.models:
            given = [name for name in _SHORT if getattr(self, name) not in (None, "", [])]
            if given:
                raise ValueError(f"{given[0]}: goes into the tables of models where there are any")
        else:
            check_model(self)
            for model in self.fallbacks:
                if model.partition(":")[0] != self.model.partition(":")[0]:
                    raise ValueError("fallbacks: a model of another provider goes into models")
                self._short(model)
        refs = [model.spec().ref for model in self.chain()]
        if twice := next((ref for ref in refs if refs.count(ref) > 1), None):
            raise ValueError(f"models: {twice} is there twice; more keys go into api_keys")

    def chain(self) -> tuple[ModelConfig, ...]:
        """Return the models in their order: those of ``models``, or ``model`` and its fallbacks."""
        if self.models:
            return tuple(self.models)
        return tuple(self._short(model) for model in (self.model, *self.fallbacks))

    def _short(self, model: str) -> ModelConfig:
        values = {
            name: getattr(self, name) for name in _SHORT if name not in ("model", "fallbacks")
        }
        return ModelConfig(model=model, **values)


_SHORT = (*(field.name for field in msgspec.structs.fields(ModelConfig)), "fallbacks")
"""The keys of one model on the agent's own table."""


def check_model(table: ModelConfig | LlmConfig) -> None:
    """Raise ValueError for a model that has no provider, or no key though it needs one."""
    provider, colon, name = table.model.partition(":")
    if not (provider and colon and name):
        raise ValueError('model: PROVIDER:NAME is wanted, such as "openai-chat:NAME"')
    if table.base_url is not None and not table.base_url.startswith(("http://", "https://")):
        raise ValueError("base_url: http://… or https://… is wanted")
    keyless = table.base_url is not None or provider not in KEYED
    if table.api_key is None and not table.api_keys and not keyless:
        raise ValueError("api_key: is missing; only a base_url of your own may do without")


KEYED = ("openai", "openai-chat", "openai-responses", "anthropic", "google", "openrouter", "groq")
"""Providers that answer nobody without a key."""
