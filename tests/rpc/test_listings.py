"""Models and agents as clients choose from them."""

from __future__ import annotations

import pytest

from gateway.model import ModelInfo
from tests.app.harness import Client, Gate, assert_fits


@pytest.fixture(params=[3, 4])
def client(request: pytest.FixtureRequest, gate: Gate) -> Client:
    """An admin's client of either version."""
    return gate.client(request.param)


def test_models_that_do_not_tell_their_context(gate: Gate, client: Client) -> None:
    """A model that does not tell its context window is listed without one."""
    gate.backend.models = (ModelInfo(id="m", name="M", provider="p"),)

    (model,) = client.ok("models.list", {})["models"]
    assert model == {"id": "m", "name": "M", "provider": "p"} | (
        {"available": True} if client.connection.protocol == 4 else {}
    )
    assert client.ok("status")["sessions"]["defaults"]["contextTokens"] > 0


def test_names_of_agents(gate: Gate) -> None:
    """Version 4 is told whether a name was given to an agent or is its id."""
    client = gate.client()
    assert client.ok("agent.identity.get", {})["nameSource"] == "default"
    object.__setattr__(gate.services.agents.default, "name", "Ann")

    identity = client.ok("agent.identity.get", {"sessionKey": " "})
    assert_fits(4, "AgentIdentityResult", identity)
    assert (identity["name"], identity["avatar"], identity["nameSource"]) == ("Ann", "A", "config")
