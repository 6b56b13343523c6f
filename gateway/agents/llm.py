"""The llm agent: our own model worker, run as an ACP program."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from msgspec import Meta
from twisted.plugin import IPlugin
from zope.interface import implementer

import gateway
from gateway.agents.acp import AcpBackend, secret_of, workspace
from gateway.agents.process import Command, clean_environment
from gateway.agents.processconfig import ProcessConfig
from gateway.config import Secret
from gateway.errors import ConfigError
from gateway.interfaces import BackendEnvironment, IAgentBackend, IAgentBackendFactory
from gateway.model import ModelInfo

KEY_VARIABLE = "GATEWAY_LLM_API_KEY"
"""The worker gets its key in this variable, and nowhere else."""


class LlmConfig(ProcessConfig, frozen=True):
    """A model behind an OpenAI-compatible API, run by the gateway's own worker."""

    model: str = ""
    """The model as pydantic-ai names it, such as "openai-chat:NAME"."""
    base_url: str | None = None
    """The API's address, such as "http://127.0.0.1:8080/v1"; without it the provider's own."""
    api_key: Secret | None = None
    """The key for it."""
    system_prompt: Annotated[str, Meta(max_length=100_000)] | None = None
    """What the model is told before every conversation."""
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    """Most tokens of one answer."""
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    """How freely the model chooses its words."""

    def __post_init__(self) -> None:
        provider, colon, name = self.model.partition(":")
        if not (provider and colon and name):
            raise ValueError('model: PROVIDER:NAME is wanted, such as "openai-chat:NAME"')
        if self.api_key is None and self.base_url is None and provider.startswith("openai"):
            raise ValueError("api_key: is missing; only a base_url of your own may do without")


@implementer(IPlugin, IAgentBackendFactory)
class LlmFactory:
    """Makes agents of a model: ``backend = "llm"``."""

    name = "llm"
    summary = "Talks to a model through an OpenAI-compatible API."
    config_type = LlmConfig

    def make(self, config: LlmConfig, environment: BackendEnvironment) -> IAgentBackend:
        """Make the backend. Raises ConfigError if the key or the worker's libraries are missing."""
        key = f"agents.{environment.agent_id}"
        if find_spec("pydantic_ai") is None or find_spec("openai") is None:
            raise ConfigError(
                f"{key}.backend: llm wants more libraries: pip install 'txgateway[llm]'"
            )
        env = clean_environment(os.environ) | import_path()
        if config.api_key is not None:
            env[KEY_VARIABLE] = secret_of(config.api_key, environment, f"{key}.api_key").strip()
        command = Command(worker_argv(config), env, workspace(None, environment))
        provider, _, name = config.model.partition(":")
        models = (ModelInfo(id=name, name=config.name or name, provider=provider),)
        return AcpBackend(command, models, environment, config)


def worker_argv(config: LlmConfig) -> tuple[str, ...]:
    """Return the worker's command line; ``-P`` keeps the workspace out of its import path."""
    argv = [sys.executable, "-P", "-m", "gateway.agents.workers.llm"]
    for option, value in (
        ("--model", config.model),
        ("--base-url", config.base_url),
        ("--system-prompt", config.system_prompt),
        ("--max-tokens", config.max_tokens),
        ("--temperature", config.temperature),
    ):
        if value is not None:
            argv.append(f"{option}={value}")
    return tuple(argv)


def import_path() -> dict[str, str]:
    """Return what lets the worker import this package where it runs from a source tree."""
    root = Path(gateway.__file__).absolute().parent.parent
    return {} if root.name in ("site-packages", "dist-packages") else {"PYTHONPATH": str(root)}
