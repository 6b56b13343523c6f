"""The configured agents and their backends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gateway.core.sessionkey import SessionKeyPolicy
from gateway.errors import InvalidRequest
from gateway.interfaces import IAgentBackend
from gateway.model import ModelInfo


@dataclass(frozen=True, slots=True)
class Agent:
    """One agent of the configuration."""

    agent_id: str
    name: str
    kind: str
    """The backend's name: demo, acp, llm ..."""
    backend: IAgentBackend
    timeout_s: float
    reruns: bool = False
    """Whether a run that a crash cut off is run again."""

    @property
    def model(self) -> ModelInfo:
        """The model it answers with by default."""
        models = self.backend.models
        return models[0] if models else ModelInfo(id=self.kind, name=self.kind, provider=self.kind)

    @property
    def primary(self) -> str:
        """The model as ``provider/id``."""
        return f"{self.model.provider}/{self.model.id}"


class AgentDirectory:
    """The agents by id; fixed while the gateway runs."""

    def __init__(
        self, agents: Mapping[str, Agent], default_id: str, keys: SessionKeyPolicy
    ) -> None:
        self._agents = dict(agents)
        self.default_id = default_id
        self.keys = keys

    def __iter__(self) -> Iterator[Agent]:
        return iter(self._agents.values())

    @property
    def default(self) -> Agent:
        """The agent of keys and calls that name none."""
        return self._agents[self.default_id]

    def get(self, agent_id: str) -> Agent | None:
        """Return an agent, or None."""
        return self._agents.get(agent_id)

    def require(self, agent_id: str) -> Agent:
        """Return an agent. Raises InvalidRequest for one that is not configured."""
        agent = self._agents.get(agent_id)
        if agent is None:
            raise InvalidRequest(f'Agent "{agent_id}" no longer exists in configuration')
        return agent

    def models(self) -> list[ModelInfo]:
        """Return the models of all agents, each once."""
        found = {(m.provider, m.id): m for agent in self for m in agent.backend.models}
        return list(found.values())

    def ready(self) -> bool:
        """Whether the default agent could start a run now."""
        return self.default.backend.ready()
