"""The agents of a configuration, made from the backend plugins that are installed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.plugin import getPlugins

import gateway.plugins
from gateway.app.agents import Agent, AgentDirectory
from gateway.config import AgentConfig, LoadedConfig, decode_agent, default_agent_id
from gateway.core.sessionkey import SessionKeyPolicy
from gateway.errors import ConfigError, StartError
from gateway.interfaces import (
    BackendEnvironment,
    IAgentBackend,
    IAgentBackendFactory,
    IClock,
    IEntropy,
)


def backend_factories() -> dict[str, IAgentBackendFactory]:
    """Return the installed backends by name."""
    found = getPlugins(IAgentBackendFactory, gateway.plugins)
    return {factory.name: factory for factory in found}


def make_agents(
    loaded: LoadedConfig,
    *,
    reactor: Any,
    clock: IClock,
    entropy: IEntropy,
    state_dir: str,
    factories: Mapping[str, IAgentBackendFactory] | None = None,
) -> AgentDirectory:
    """Make every configured agent. Raises ConfigError, which names the key and the file."""
    known = backend_factories() if factories is None else factories
    agents: dict[str, Agent] = {}
    for agent_id, table in loaded.config.agents.items():
        kind = table.get("backend", "demo")
        factory = known.get(kind) if isinstance(kind, str) else None
        if factory is None:
            names = ", ".join(sorted(known))
            where = loaded.path or "the configuration"
            raise ConfigError(
                f'{where}: agents.{agent_id}.backend: unknown backend "{kind}" (known: {names})'
            )
        config: AgentConfig = decode_agent(
            agent_id, table, factory.config_type, loaded.path, loaded.config.limits
        )
        environment = BackendEnvironment(
            agent_id=agent_id,
            reactor=reactor,
            clock=clock,
            entropy=entropy,
            state_dir=state_dir,
            config_dir=str(loaded.path.absolute().parent) if loaded.path else None,
        )
        try:
            backend = factory.make(config, environment)
        except StartError as error:
            if loaded.path is None:
                raise
            raise ConfigError(f"{loaded.path}: {error}") from error
        agents[agent_id] = Agent(
            agent_id=agent_id,
            name=config.name or agent_id,
            kind=kind,
            backend=backend,
            timeout_s=config.timeout_s,
            reruns=_reruns(agent_id, config, backend, loaded),
        )
    default = default_agent_id(loaded.config.agents)
    keys = SessionKeyPolicy.from_config(list(agents), default_agent_id=default)
    return AgentDirectory(agents, default, keys)


def _reruns(
    agent_id: str, config: AgentConfig, backend: IAgentBackend, loaded: LoadedConfig
) -> bool:
    """Return whether an agent's runs are run again after a crash. Raises ConfigError if they can't be."""
    reruns = config.on_restart == "rerun"
    if reruns and not getattr(backend, "reruns", False):
        where, key = loaded.path or "the configuration", f"agents.{agent_id}.on_restart"
        raise ConfigError(f'{where}: {key}: backend "{config.backend}" can not run a turn again')
    return reruns
