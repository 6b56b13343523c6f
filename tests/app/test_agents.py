"""The configured agents."""

from __future__ import annotations

import pytest

from gateway.app.agents import Agent, AgentDirectory
from gateway.core.sessionkey import SessionKeyPolicy
from gateway.errors import InvalidRequest
from gateway.model import ModelInfo
from tests.app.harness import ScriptedBackend


def make_agent(agent_id: str, *models: ModelInfo) -> Agent:
    """Return an agent that answers with some models."""
    backend = ScriptedBackend()
    backend.models = models
    return Agent(agent_id, agent_id.title(), "scripted", backend, 60.0)


@pytest.fixture
def directory() -> AgentDirectory:
    """Return two agents that share a model, and one that names none."""
    one = ModelInfo(id="m1", name="One", provider="p")
    two = ModelInfo(id="m2", name="Two", provider="p")
    agents = {
        "main": make_agent("main", one, two),
        "other": make_agent("other", two),
        "bare": make_agent("bare"),
    }
    return AgentDirectory(agents, "main", SessionKeyPolicy.from_config(list(agents)))


def test_finding_an_agent(directory: AgentDirectory) -> None:
    """An agent is found by its id; one that is not configured is refused by name."""
    assert [agent.agent_id for agent in directory] == ["main", "other", "bare"]
    assert directory.default.agent_id == "main"
    assert directory.require("other").name == "Other"
    assert directory.get("nobody") is None
    with pytest.raises(InvalidRequest, match='Agent "nobody" no longer exists in configuration'):
        directory.require("nobody")


def test_models(directory: AgentDirectory) -> None:
    """The models of all agents are listed each once; an agent without any stands for its backend."""
    assert [model.id for model in directory.models()] == ["m1", "m2"]
    assert directory.require("main").primary == "p/m1"
    assert directory.require("bare").primary == "scripted/scripted"


def test_ready(directory: AgentDirectory) -> None:
    """The gateway is as ready as its default agent."""
    assert directory.ready()
