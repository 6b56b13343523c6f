"""A gateway whose agents clients may make, change and delete."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct
from zope.interface import implementer

from gateway.app.threads import here
from gateway.backends import AgentMaker, ConfiguredAgents
from gateway.config import AgentConfig, load
from gateway.errors import ConfigError, StartError
from gateway.interfaces import BackendEnvironment, IAgentBackend
from gateway.model import ModelInfo
from gateway.testing import FakeEntropy, memory_gateway, memory_store
from tests.app.faults import FaultyStore
from tests.app.harness import Gate, ScriptedBackend

CONFIG = """
# the operator's own file
[server]
workspace_roots = ["shared"]
[agents.main]
backend = "scripted"
model = "p/m"
[agents.other]
backend = "plain"
name = "Other"
"""


class ScriptedConfig(AgentConfig, frozen=True):
    """An agent of the tests that has a model."""

    model: str = "p/m"
    cwd: str | None = None


@implementer(IAgentBackend)
class Made(ScriptedBackend):
    """A backend that remembers what it was made with."""

    def __init__(self, config: Any, environment: BackendEnvironment) -> None:
        super().__init__()
        self.config, self.environment = config, environment
        provider, _, name = getattr(config, "model", "p/plain").partition("/")
        self.models = (ModelInfo(id=name, name=name, provider=provider),)
        self.stopping: Any = None

    def startService(self) -> None:
        """Refuse a workspace that is called so."""
        if (self.environment.workspace or "").endswith("/broken"):
            raise StartError(f"workspace {self.environment.workspace}: no")
        super().startService()

    def stopService(self) -> Any:
        """Fail the runs that go on."""
        super().stopService()
        return self.stopping() if self.stopping else None


class Factory:
    """Makes them, and keeps them."""

    summary = "For tests."

    def __init__(self, name: str, config_type: type[Struct], made: list[Made]) -> None:
        self.name, self.config_type, self.made = name, config_type, made

    def make(self, config: Any, environment: BackendEnvironment) -> Made:
        """Make one, unless its model is called bad."""
        if getattr(config, "model", "") == "p/bad":
            raise ConfigError(f"agents.{environment.agent_id}.model: there is none")
        self.made.append(Made(config, environment))
        return self.made[-1]


class Managed(Gate):
    """A gateway over a configuration file and a state directory."""

    def __init__(self, path: Path, config: str = CONFIG, limits: str = "") -> None:
        super().__init__()
        self.close()
        self.path, self.config_file = path, path / "gateway.toml"
        self.config_file.write_text(config + limits)
        self.state = path / "state"
        self.state.mkdir(exist_ok=True)
        loaded = load(self.config_file, {})
        self.made: list[Made] = []
        factories: Mapping[str, Any] = {
            "scripted": Factory("scripted", ScriptedConfig, self.made),
            "plain": Factory("plain", AgentConfig, self.made),
            "llm": Factory("llm", ScriptedConfig, self.made),
        }
        maker = AgentMaker(
            loaded,
            reactor=None,
            clock=self.clock,
            entropy=FakeEntropy(),
            state_dir=str(self.state),
            factories=factories,
        )
        self.roster = ConfiguredAgents(maker, self.state / "agents.toml", here)
        self.store = FaultyStore(memory_store(self.clock))
        self.wiring = memory_gateway(
            clock=self.clock,
            config=loaded.config,
            store=self.store,
            roster=self.roster,
            agents=self.roster.read(),
            entropy=FakeEntropy("managed"),
        )
        self.services = self.wiring.services
        self.runs = self.services.runs
        for agent in self.services.agents:
            agent.backend.startService()

    def again(self) -> Managed:
        """Return a gateway over the same files, as after a restart."""
        return Managed(self.path, self.config_file.read_text())

    def backend_of(self, agent_id: str) -> Made:
        """Return the backend of an agent."""
        backend = self.services.agents.require(agent_id).backend
        assert isinstance(backend, Made)
        return backend

    @property
    def ids(self) -> list[str]:
        """The agents there are."""
        return [agent.agent_id for agent in self.services.agents]
