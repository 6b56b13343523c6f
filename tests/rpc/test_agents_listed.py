"""Agents as clients choose from them."""

from __future__ import annotations

from typing import Any

from zope.interface import implementer

from gateway.interfaces import IWorkerBackend
from tests.app.harness import Gate, ScriptedBackend, assert_fits


def test_names_of_agents(gate: Gate) -> None:
    """Version 4 is told whether a name was given to an agent or is its id."""
    client = gate.client()
    assert client.ok("agent.identity.get", {})["nameSource"] == "default"
    object.__setattr__(gate.services.agents.default, "name", "Ann")

    identity = client.ok("agent.identity.get", {"sessionKey": " "})
    assert_fits(4, "AgentIdentityResult", identity)
    assert (identity["name"], identity["avatar"], identity["nameSource"]) == ("Ann", "A", "config")


def test_what_people_know_agents_by(gate: Gate) -> None:
    """An agent's emoji and avatar are shown where it has them."""
    client = gate.client()
    agent = gate.services.agents.default
    object.__setattr__(agent, "emoji", "\N{CRAB}")
    identity = client.ok("agent.identity.get", {})
    assert_fits(4, "AgentIdentityResult", identity)
    assert (identity["avatar"], identity["emoji"]) == ("\N{CRAB}", "\N{CRAB}")

    object.__setattr__(agent, "avatar", "crab.png")
    assert client.ok("agent.identity.get", {})["avatar"] == "crab.png"
    listed = client.ok("agents.list", {})
    assert_fits(4, "AgentsListResult", listed)
    assert listed["agents"][0]["identity"]["avatar"] == "crab.png"


@implementer(IWorkerBackend)
class Working(ScriptedBackend):
    """A backend with processes."""

    told: Any = ({"pid": 1, "state": "ready", "secret": object()}, "not facts")

    def describe_worker(self, run_id: str) -> Any:
        """Tell nothing of a run."""
        return {}

    def workers(self) -> Any:
        """Tell of the processes, or fail to."""
        if isinstance(self.told, Exception):
            raise self.told
        return self.told


def test_how_agents_do(expected_failures: list[type[BaseException]]) -> None:
    """Whoever may read is told of every agent's runs and processes; nobody's code can break that."""
    expected_failures.append(ValueError)
    gate = Gate(others=["other"])
    agents, working = gate.services.agents, Working()
    agents.put(agents.require("other").with_backend(working))
    client = gate.client(scopes=["operator.write"])
    client.send("hello", run="r1")
    client.send("more", run="r2")

    main, other = client.ok("agents.status", {})["agents"]
    assert main == {
        "agentId": "main",
        "name": "main",
        "isDefault": True,
        "backend": "test",
        "ready": True,
        "models": ["fake/echo-1"],
        "runs": {"going": 1, "waiting": 1},
        "workers": [],
    }
    assert other["workers"] == [{"pid": 1, "state": "ready"}]
    assert not other["isDefault"]
    working.told = ValueError("no")
    assert client.ok("agents.status", {})["agents"][1]["workers"] == []
    for run in ("r1", "r2"):
        gate.live(run).end()
        gate.clock.advance(1)
    gate.close()
