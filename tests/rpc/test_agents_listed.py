"""Agents as clients choose from them."""

from __future__ import annotations

from tests.app.harness import Gate, assert_fits


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
