"""What an agent said in its answer to ``initialize``."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.agents.acp_capabilities import Capabilities, login_hint, read_capabilities
from gateway.errors import BackendError


def test_everything_that_an_agent_can() -> None:
    """Capabilities of ACP, of our own agents, and the ways to log in are read."""
    ours = ("history", "events", "steer", "compact", "models", "forget")
    answer = {
        "protocolVersion": 1,
        "agentCapabilities": {
            "loadSession": True,
            "promptCapabilities": {"image": True, "audio": True, "embeddedContext": True},
            "mcpCapabilities": {"http": True},
            "sessionCapabilities": {"resume": {}, "close": {}},
            "_meta": {"gateway": dict.fromkeys(ours, True)},
        },
        "agentInfo": {"name": "agent"},
        "authMethods": [{"id": "x", "name": "OAuth"}, {"id": "key"}, 5],
    }

    can = read_capabilities(answer)

    assert (can.name, can.logins) == ("agent", ("OAuth", "key"))
    assert all(can)
    assert can.ours


@pytest.mark.parametrize(
    "agent",
    [
        None,
        [],
        {"loadSession": "yes", "sessionCapabilities": {"resume": None}, "_meta": {"gateway": 1}},
        {"promptCapabilities": {"image": 1}, "_meta": {"gateway": {"history": "yes"}}},
    ],
)
def test_what_is_not_said_is_not_there(agent: Any) -> None:
    """What is missing, or of another type, counts as no."""
    shape = {"protocolVersion": 1, "agentCapabilities": agent, "agentInfo": "x", "authMethods": {}}

    assert read_capabilities(shape) == Capabilities()


@pytest.mark.parametrize("version", [2, 0, "1", True, None])
def test_another_version_is_refused(version: Any) -> None:
    """Only version 1 of the protocol is spoken."""
    with pytest.raises(BackendError, match="of the protocol, not 1"):
        read_capabilities({"protocolVersion": version})


def test_a_login_is_explained() -> None:
    """Who reads the error learns where to log in, and how the agent calls it."""
    assert "agent's own program (OAuth) as the user" in login_hint(("OAuth",))
    assert "own program as the user" in login_hint(())
