"""The agents of a configuration, made from the backend plugins that are installed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec.structs import fields
from twisted.internet.defer import Deferred
from twisted.plugin import getPlugins

import gateway.plugins
from gateway.agentfile import AgentFile, Tables, rendered
from gateway.app.agentadmin import Draft, Removed
from gateway.app.agents import Agent, AgentDirectory
from gateway.app.threads import InThread
from gateway.config import AgentConfig, LoadedConfig, decode_agent, default_agent_id
from gateway.core.sessionkey import SessionKeyPolicy
from gateway.errors import ConfigError, InvalidRequest, StartError
from gateway.interfaces import (
    BackendEnvironment,
    IAgentBackend,
    IAgentBackendFactory,
    IClock,
    IEntropy,
    IWorkspaceBackend,
)

Factories = Mapping[str, IAgentBackendFactory]


def backend_factories() -> dict[str, IAgentBackendFactory]:
    """Return the installed backends by name."""
    found = getPlugins(IAgentBackendFactory, gateway.plugins)
    return {factory.name: factory for factory in found}


class AgentMaker:
    """Makes agents from their tables.

    :ivar base: the tables of the configuration's agents.
    :ivar limits: the configuration's limits.
    """

    def __init__(
        self,
        loaded: LoadedConfig,
        *,
        reactor: Any,
        clock: IClock,
        entropy: IEntropy,
        state_dir: str,
        factories: Factories | None = None,
    ) -> None:
        self.base = loaded.config.agents
        self.limits = loaded.config.limits
        self.roots = loaded.config.server.workspace_roots
        self.state_dir = os.path.abspath(state_dir)
        self.config_dir = loaded.path.absolute().parent if loaded.path else None
        self.where = str(loaded.path or "the configuration")
        self.clock = clock
        self._loaded = loaded
        self._reactor = reactor
        self._entropy = entropy
        self._known = backend_factories() if factories is None else factories

    def make(self, agent_id: str, table: Mapping[str, Any]) -> Agent:
        """Make one agent. Raises ConfigError, which names the key and the file."""
        loaded, factory = self._loaded, self._factory(agent_id, table)
        config: AgentConfig = decode_agent(
            agent_id, table, factory.config_type, loaded.path, self.limits
        )
        environment = BackendEnvironment(
            agent_id=agent_id,
            reactor=self._reactor,
            clock=self.clock,
            entropy=self._entropy,
            state_dir=self.state_dir,
            config_dir=str(self.config_dir) if self.config_dir else None,
            workspace=self._workspace(config),
        )
        try:
            backend: Any = factory.make(config, environment)
        except StartError as error:
            if loaded.path is None:
                raise
            raise ConfigError(f"{loaded.path}: {error}") from error
        own = IWorkspaceBackend.providedBy(backend)
        return Agent(
            agent_id=agent_id,
            name=config.name or agent_id,
            kind=config.backend,
            backend=backend,
            timeout_s=config.timeout_s,
            reruns=_reruns(agent_id, config, backend, loaded),
            workspace=backend.workspace if own else environment.workspace,
            emoji=config.emoji,
            avatar=config.avatar,
        )

    def keys(self, agent_id: str, table: Mapping[str, Any]) -> frozenset[str]:
        """Return the keys that the table of an agent may have. Raises ConfigError."""
        factory = self._factory(agent_id, table)
        return frozenset(field.encode_name for field in fields(factory.config_type))

    def directory(self, tables: Tables) -> AgentDirectory:
        """Make the agents of all ``tables``. Raises ConfigError."""
        agents = {agent_id: self.make(agent_id, table) for agent_id, table in tables.items()}
        default = default_agent_id(tables)
        keys = SessionKeyPolicy.from_config(list(agents), default_agent_id=default)
        return AgentDirectory(agents, default, keys)

    def _factory(self, agent_id: str, table: Mapping[str, Any]) -> IAgentBackendFactory:
        kind = table.get("backend", "demo")
        factory = self._known.get(kind) if isinstance(kind, str) else None
        if factory is None:
            names = ", ".join(sorted(self._known))
            key = f"agents.{agent_id}.backend"
            raise ConfigError(f'{self.where}: {key}: unknown backend "{kind}" (known: {names})')
        return factory

    def _workspace(self, config: AgentConfig) -> str | None:
        if config.workspace is None:
            return None
        base = self.config_dir or self.state_dir
        return str(Path(base, Path(config.workspace).expanduser()).absolute())


class ConfiguredAgents:
    """The agents of a configuration and what clients have made of them (see gateway.app.agentadmin).

    :ivar maximum: how many agents there may be once a client makes one.
    """

    def __init__(self, maker: AgentMaker, path: Path, in_thread: InThread) -> None:
        self.maximum = maker.limits.agents_max
        self.file = AgentFile(path)
        self._maker = maker
        self._in_thread = in_thread

    def read(self) -> AgentDirectory:
        """Read the file, and make all agents. Raises ConfigError."""
        self.file.read()
        return self._maker.directory(self.file.merged(self._maker.base))

    def configured(self, agent_id: str) -> str | None:
        """Return where an agent is configured that is not the file's own, None if nowhere."""
        return self._maker.where if agent_id in self._maker.base else None

    def created(self, agent_id: str, like: str, values: Mapping[str, str | None]) -> Draft:
        """Draft a new agent. Raises InvalidRequest."""
        origin = self.file.changes.get(like, {}).get("like", like)
        return self._drafted(agent_id, {"like": origin}, values)

    def changed(self, agent_id: str, values: Mapping[str, str | None]) -> Draft:
        """Draft an agent with some values changed; None takes back what was changed before.

        Raises InvalidRequest.
        """
        return self._drafted(agent_id, self.file.changes.get(agent_id, {}), values)

    def deleted(self, agent_id: str) -> Mapping[str, Any]:
        """Return the changes without an agent."""
        changes = {name: table for name, table in self.file.changes.items() if name != agent_id}
        return changes | ({agent_id: {"deleted": True}} if agent_id in self._maker.base else {})

    def workspace(self, agent_id: str, wanted: str | None) -> str:
        """Return the absolute path of a workspace that a client asks for. Raises InvalidRequest."""
        home = os.path.join(self._maker.state_dir, "workspace")
        if wanted is None:
            return os.path.join(home, agent_id)
        if "\0" in wanted or len(wanted) > 1000:
            raise InvalidRequest("workspace: not a path")
        base = self._maker.config_dir or self._maker.state_dir
        roots = [home, *(str(Path(base, Path(root).expanduser())) for root in self._maker.roots)]
        path = os.path.realpath(os.path.join(home, os.path.expanduser(wanted)))
        if not any(_below(path, os.path.realpath(root)) for root in roots):
            text = f"workspace: it has to lie below one of: {', '.join(roots)}"
            raise InvalidRequest(f"{text} (server.workspace_roots of the configuration)")
        return path

    def hash(self) -> str:
        """Return a digest of the changes there are."""
        return self.file.hash()

    def save(self, changes: Mapping[str, Any], workspace: str | None = None) -> Deferred[None]:
        """Write the file, and make a workspace. Fails with OSError, ConfigError."""
        return self._in_thread(self._save, changes, workspace)

    def discard(self, agent: Agent) -> Deferred[Removed]:
        """Put the workspace of an agent that is gone into the trash, if it is one of the gateway's own."""
        return self._in_thread(self._discard, agent)

    def _save(self, changes: Mapping[str, Any], workspace: str | None) -> None:
        rendered(changes)  # what can not be written leaves no directory either
        if workspace is not None:
            os.makedirs(workspace, mode=0o700, exist_ok=True)
        self.file.write(changes)

    def _drafted(
        self, agent_id: str, own: Mapping[str, Any], values: Mapping[str, str | None]
    ) -> Draft:
        changes = {**self.file.changes, agent_id: {**own, **values}}
        merged = self._merged(changes)[agent_id]
        try:
            keys = self._maker.keys(agent_id, merged)
        except ConfigError as error:
            raise InvalidRequest(str(error)) from error
        if values.get("model") is not None:
            if "model" not in keys:
                raise InvalidRequest(f'the backend "{merged["backend"]}" has no model to choose')
            changes[agent_id]["model"] = _model(str(values["model"]), str(merged["backend"]))
        if values.get("workspace") is not None and "cwd" in keys:
            changes[agent_id]["cwd"] = values["workspace"]
        changes[agent_id] = {k: v for k, v in changes[agent_id].items() if v is not None}
        if not changes[agent_id]:
            del changes[agent_id]
        try:
            agent = self._maker.make(agent_id, self._merged(changes)[agent_id])
        except ConfigError as error:
            text = str(error).removeprefix(f"{self._maker.where}: ")
            raise InvalidRequest(text.removeprefix(f"agents.{agent_id}.")) from error
        return Draft(agent, changes)

    def _merged(self, changes: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        return self.file.merged(self._maker.base, changes)

    def _discard(self, agent: Agent) -> Removed:
        path, home = agent.workspace, os.path.join(self._maker.state_dir, "workspace")
        if not _below(os.path.realpath(path), os.path.realpath(home)):
            return Removed(path, "", "it is not one of the gateway's own, and was left as it is")
        if not os.path.lexists(path):
            return Removed(path, "missing")
        trash = os.path.join(self._maker.state_dir, "trash")
        to = os.path.join(trash, f"{agent.agent_id}-{self._maker.clock.now_ms()}")
        try:
            os.makedirs(trash, mode=0o700, exist_ok=True)
            os.rename(path, to)
        except OSError as error:
            return Removed(path, "", error.strerror or "it could not be moved")
        return Removed(path, "trash")


def make_agents(
    loaded: LoadedConfig,
    *,
    reactor: Any,
    clock: IClock,
    entropy: IEntropy,
    state_dir: str,
    factories: Factories | None = None,
) -> AgentDirectory:
    """Make every configured agent. Raises ConfigError, which names the key and the file."""
    maker = AgentMaker(
        loaded,
        reactor=reactor,
        clock=clock,
        entropy=entropy,
        state_dir=state_dir,
        factories=factories,
    )
    return maker.directory(maker.base)


def _below(path: str, root: str) -> bool:
    return path.startswith(root.rstrip("/") + "/")


def _model(text: str, backend: str) -> str:
    """Return a model as its backend's table has it: clients write ``PROVIDER/ID``, llm ``PROVIDER:ID``."""
    provider, slash, name = text.partition("/")
    return f"{provider}:{name}" if backend == "llm" and slash and ":" not in provider else text


def _reruns(
    agent_id: str, config: AgentConfig, backend: IAgentBackend, loaded: LoadedConfig
) -> bool:
    """Return whether an agent's runs are run again after a crash. Raises ConfigError if they can't be."""
    reruns = config.on_restart == "rerun"
    if reruns and not getattr(backend, "reruns", False):
        where, key = loaded.path or "the configuration", f"agents.{agent_id}.on_restart"
        raise ConfigError(f'{where}: {key}: backend "{config.backend}" can not run a turn again')
    return reruns
