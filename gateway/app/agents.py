"""The agents and their backends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from gateway.core.sessionkey import SessionKeyPolicy
from gateway.errors import InvalidRequest
from gateway.interfaces import IAgentBackend
from gateway.model import ModelInfo


@dataclass(frozen=True, slots=True)
class Agent:
    """One agent."""

    agent_id: str
    name: str
    kind: str
    """The backend's name: demo, acp, llm ..."""
    backend: IAgentBackend
    timeout_s: float
    reruns: bool = False
    """Whether a run that a crash cut off is run again."""
    workspace: str = ""
    """The directory of its files, an absolute path; empty where it has none."""
    emoji: str | None = None
    avatar: str | None = None

    def with_backend(self, backend: IAgentBackend) -> Agent:
        """Return the same agent behind another backend."""
        return replace(self, backend=backend)

    @property
    def model(self) -> ModelInfo:
        """The model it answers with by default."""
        models = self.backend.models
        return models[0] if models else ModelInfo(id=self.kind, name=self.kind, provider=self.kind)

    def chosen(self, asked: str | None) -> ModelInfo:
        """The model it answers with where ``asked`` for: ``provider/id``, or an id of its own provider.

        The one by default for one that it does not list.
        """
        names = {f"{each.provider}/{each.id}": each for each in self.backend.models}
        wanted = asked if asked is None or "/" in asked else f"{self.model.provider}/{asked}"
        return names.get(wanted or "", self.model)

    @property
    def primary(self) -> str:
        """The model as ``provider/id``."""
        return f"{self.model.provider}/{self.model.id}"


class AgentDirectory:
    """The agents by id. There is always the default one; others come and go.

    :ivar keys: what session keys mean, given these agents.
    """

    def __init__(
        self, agents: Mapping[str, Agent], default_id: str, keys: SessionKeyPolicy
    ) -> None:
        self._agents = dict(agents)
        self.default_id = default_id
        self.keys = keys

    def __iter__(self) -> Iterator[Agent]:
        return iter(tuple(self._agents.values()))  # who goes through them may wait in between

    def __len__(self) -> int:
        return len(self._agents)

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

    def put(self, agent: Agent) -> None:
        """Take an agent in, in the place of the one that has its id."""
        self._agents[agent.agent_id] = agent
        self._follow()

    def remove(self, agent_id: str) -> Agent:
        """Let an agent go, which is not the default one, and return it."""
        assert agent_id != self.default_id
        agent = self._agents.pop(agent_id)
        self._follow()
        return agent

    def _follow(self) -> None:
        self.keys = replace(self.keys, agent_ids=frozenset(self._agents))

    def models(self) -> list[ModelInfo]:
        """Return the models of all agents, each once."""
        found = {(m.provider, m.id): m for agent in self for m in agent.backend.models}
        return list(found.values())

    def ready(self) -> bool:
        """Whether the default agent could start a run now."""
        return self.default.backend.ready()
