"""The llm agent: our own model worker, run as an ACP program."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import msgspec
from twisted.plugin import IPlugin
from zope.interface import implementer

import gateway
from gateway.agents.acp import AcpBackend, secret_of, workspace
from gateway.agents.llmconfig import LlmConfig, ModelConfig
from gateway.agents.llmspec import (
    MAX_VARIABLE_BYTES,
    SECRETS_VARIABLE,
    SPEC_VARIABLE,
    WorkerSecrets,
    WorkerSpec,
)
from gateway.agents.mcpconfig import resolve_servers
from gateway.agents.process import Command, clean_environment
from gateway.errors import ConfigError
from gateway.interfaces import BackendEnvironment, IAgentBackend, IAgentBackendFactory
from gateway.model import ModelInfo

LIBRARIES = {
    "anthropic": ("anthropic", "anthropic"),
    "google": ("google.genai", "google"),
    "groq": ("groq", "groq"),
    "mistral": ("mistralai", "mistral"),
}
"""Module and extra of the providers that want more than the extra llm, which has OpenAI's."""

WORKER_ARGV = (sys.executable, "-P", "-m", "gateway.agents.workers.llm")
"""The worker's command line; ``-P`` keeps the workspace out of its import path."""


@implementer(IPlugin, IAgentBackendFactory)
class LlmFactory:
    """Makes agents of a model: ``backend = "llm"``."""

    name = "llm"
    summary = (
        "Talks to models of any provider: OpenAI-compatible, Anthropic, Google, Ollama and others."
    )
    config_type = LlmConfig

    def make(self, config: LlmConfig, environment: BackendEnvironment) -> IAgentBackend:
        """Make the backend. Raises ConfigError if a key or the worker's libraries are missing."""
        key = f"agents.{environment.agent_id}"
        chain = config.chain()
        check_libraries(chain, key)
        if config.mcp_servers and not _installed("fastmcp"):
            raise ConfigError(
                f"{key}.mcp_servers: want one more library: pip install 'txgateway[mcp]'"
            )
        env = clean_environment(os.environ) | import_path()
        env[SPEC_VARIABLE] = _variable(worker_spec(config, environment), f"{key}.system_prompt")
        secrets = worker_secrets(config, environment)
        env[SECRETS_VARIABLE] = _variable(secrets, f"{key}.api_key")
        command = Command(WORKER_ARGV, env, workspace(config.cwd, environment), secrets.all())
        return AcpBackend(command, model_infos(config), environment, config)


def model_infos(config: LlmConfig) -> tuple[ModelInfo, ...]:
    """Return the agent's models as ``models.list`` shows them."""
    specs = [model.spec() for model in config.chain()]
    return tuple(
        ModelInfo(
            id=spec.id,
            name=(config.name if len(specs) == 1 else None) or spec.id,
            provider=spec.provider,
            context_window=spec.context_window,
        )
        for spec in specs
    )


def worker_spec(config: LlmConfig, environment: BackendEnvironment) -> WorkerSpec:
    """Return what the worker is told, free of secrets."""
    return WorkerSpec(
        models=tuple(model.spec() for model in config.chain()),
        agent_id=environment.agent_id,
        system_prompt=config.system_prompt,
        state_dir=str(Path(environment.state_dir).absolute()),
        workspace=workspace(config.cwd, environment),
        workspace_files=config.workspace_files,
        tools=tuple(config.tools),
        shell=config.shell,
        max_requests=config.max_requests,
        failover=config.failover,
        context=config.context,
    )


def worker_secrets(config: LlmConfig, environment: BackendEnvironment) -> WorkerSecrets:
    """Return the keys of each model. Raises ConfigError, naming the one that is missing."""
    key = f"agents.{environment.agent_id}"

    def keys(number: int, model: ModelConfig) -> tuple[str, ...]:
        table = f"{key}.models[{number}]" if config.models else key
        return tuple(
            secret_of(secret, environment, f"{table}.{at}").strip() for at, secret in model.secrets
        )

    base = Path(environment.config_dir or environment.state_dir)
    return WorkerSecrets(
        models=tuple(keys(number, model) for number, model in enumerate(config.chain())),
        mcp_servers=resolve_servers(config.mcp_servers, os.environ, base, key),
    )


def check_libraries(chain: Sequence[ModelConfig], key: str) -> None:
    """Raise ConfigError with the command that mends it if a library of these models is missing."""
    if find_spec("pydantic_ai") is None or find_spec("openai") is None:
        raise ConfigError(f"{key}.backend: llm wants more libraries: pip install 'txgateway[llm]'")
    for model in chain:
        provider = model.spec().provider
        module, extra = LIBRARIES.get(provider, ("openai", "llm"))
        if not _installed(module):
            raise ConfigError(
                f"{key}.model: {provider} wants one more library: pip install 'txgateway[{extra}]'"
            )


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _variable(value: WorkerSpec | WorkerSecrets, key: str) -> str:
    text = msgspec.json.encode(value)
    if len(text) > MAX_VARIABLE_BYTES:
        raise ConfigError(
            f"{key}: the agent's table is too large for its process ({len(text)} bytes)"
        )
    return text.decode()


def import_path() -> dict[str, str]:
    """Return what lets the worker import this package where it runs from a source tree."""
    root = Path(gateway.__file__).absolute().parent.parent
    return {} if root.name in ("site-packages", "dist-packages") else {"PYTHONPATH": str(root)}
