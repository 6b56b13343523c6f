"""gatewayctl agents against a scripted gateway."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cli.ctl import one_line

MAIN: dict[str, Any] = {
    "agentId": "main",
    "name": "Ann",
    "isDefault": True,
    "backend": "llm",
    "ready": True,
    "models": ["openai/m", "openai/n"],
    "runs": {"going": 2, "waiting": 1},
    "workers": [
        {"pid": 41, "state": "ready", "restarts": 0},
        {
            "state": "waiting",
            "restarts": 3,
            "lastError": "it\x1b[2J died",
            "nextStartInMs": 1500,
            "busy": 2,
        },
    ],
}
DEMO: dict[str, Any] = {
    "agentId": "echo",
    "name": "echo",
    "isDefault": False,
    "backend": "demo",
    "ready": False,
    "models": ["demo/demo"],
    "runs": {"going": 0, "waiting": 0},
    "workers": [],
}


@pytest.fixture
def status(script: Any) -> list[dict[str, Any]]:
    """What the scripted gateway tells of its agents."""
    rows = [MAIN, DEMO]
    script.handlers["agents.status"] = lambda c, f: c.answer(f, {"agents": rows})
    return rows


def test_agents(to_script: Any, status: list[dict[str, Any]]) -> None:
    """Every process of every agent has a line, with its state and what the last one died of."""
    head, first, second, third, note = to_script("agents").stdout.splitlines()

    assert head.split("  ")[0] == "ID"
    assert first.startswith("main *  Ann   llm")
    assert first.split()[-6:] == ["yes", "2+1", "41", "ready", "0", "-"]
    assert "waiting 1.5s busy=2" in second
    assert second.endswith("3         it [2J died")
    assert third.split() == "echo echo demo demo/demo no 0 - - - -".split()
    assert note == "* the default agent"


def test_agents_as_json(to_script: Any, status: list[dict[str, Any]]) -> None:
    """With --json the answer is printed as it is."""
    assert json.loads(to_script("agents", "--json").stdout) == {"agents": status}


def test_an_agent_is_started_anew(to_script: Any, script: Any) -> None:
    """A restart names the agent, and a refusal is one line."""
    script.handlers["agents.restart"] = lambda c, f: c.answer(f, {"ok": True, "agentId": "main"})
    assert to_script("agents", "restart", "main").stdout == "agent main is started anew\n"
    assert script.params("agents.restart") == {"agentId": "main"}

    script.handlers["agents.restart"] = lambda c, f: c.refuse(f, "INVALID_REQUEST", "not found")
    assert one_line(to_script("agents", "restart", "x"), 1) == (
        "gatewayctl: the gateway refused agents.restart: not found\n"
    )
