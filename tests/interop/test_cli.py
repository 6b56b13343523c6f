"""The commands ``gateway call`` and ``agent`` of both generations, against a real gateway."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from .clients import OpenClaw
from .install import V4, Generation
from .server import Gateway

pytestmark = [pytest.mark.interop, pytest.mark.timeout(150, func_only=True)]

MESSAGE = "The naïve  fox — «jumps» 🦊 over {braces} & \\slashes\\ | twice"
MAIN = "agent:main:main"


def test_gateway_call_health_prints_the_gateways_health(openclaw: OpenClaw) -> None:
    """The command ``gateway call health`` prints the health that the gateway reported."""
    done = openclaw.call("health")

    assert done.stdout.startswith("{"), done
    health = json.loads(done.stdout)
    assert health["ok"] is True
    assert health["defaultAgentId"] == "main"
    assert [agent["agentId"] for agent in health["agents"]] == ["main"]


def test_gateway_call_with_a_wrong_token_says_so(openclaw: OpenClaw) -> None:
    """The command names the token as the reason when the gateway refuses it."""
    done = openclaw.call("health", token="not-the-token")

    assert done.status != 0
    assert "unauthorized" in done.stderr, done
    assert "token" in done.stderr, done


def test_agent_prints_the_words_of_the_gateways_agent(openclaw: OpenClaw, gateway: Gateway) -> None:
    """The command ``agent`` prints the agent's words byte for byte, and the gateway ran it."""
    done = openclaw.agent(MESSAGE, "--agent", "main", "--json")

    assert done.stdout.startswith("{"), done
    answer = json.loads(done.stdout)
    assert answer["status"] == "ok"
    assert [payload["text"] for payload in answer["result"]["payloads"]] == [MESSAGE]
    runs = {run["run"]: run["state"] for run in gateway.ended_runs(MAIN)}
    assert runs[answer["runId"]] == "done"


def test_agent_prints_a_failed_run(openclaw: OpenClaw, gateway: Gateway) -> None:
    """The command ``agent`` prints the agent's own error, and the gateway logs a failed run."""
    done = openclaw.agent("/error out of marbles", "--agent", "main")

    assert "out of marbles" in done.stdout + done.stderr, done
    assert gateway.ended_runs(MAIN)[-1]["state"] == "failed"


def test_agent_takes_a_session_id_and_limits(openclaw: OpenClaw, gateway: Gateway) -> None:
    """The options ``--session-id``, ``--thinking`` and ``--timeout`` are taken by the gateway."""
    options = ("--session-id", "errand-5", "--thinking", "low", "--timeout", "30")

    done = openclaw.agent("an errand by its id", *options, "--json")

    assert done.stdout.startswith("{"), done
    answer = json.loads(done.stdout)
    assert answer["result"]["payloads"][0]["text"] == "an errand by its id"
    assert {run["run"]: run["state"] for run in gateway.ended_runs()}[answer["runId"]] == "done"


@pytest.mark.parametrize("generation", [V4], ids=["v4"])
def test_agent_runs_in_the_session_it_names(
    make_client: Callable[[Generation], OpenClaw], generation: Generation, gateway: Gateway
) -> None:
    """The newer command's ``--session-key`` decides the session of the run."""
    key = "agent:main:errand-7"

    done = make_client(generation).agent("an errand to run", "--session-key", key)

    assert "an errand to run" in done.stdout, done
    assert [run["state"] for run in gateway.ended_runs(key)] == ["done"]


@pytest.mark.parametrize("generation", [V4], ids=["v4"])
def test_agent_finds_the_default_agent(
    make_client: Callable[[Generation], OpenClaw], generation: Generation, gateway: Gateway
) -> None:
    """The newer command asks the gateway for its default agent when it is given nothing."""
    before = len(gateway.ended_runs(MAIN))

    done = make_client(generation).agent("to whom it may concern")

    assert "to whom it may concern" in done.stdout, done
    assert [run["state"] for run in gateway.ended_runs(MAIN)[before:]] == ["done"]


def test_models_list_shows_the_models_of_the_agents(
    make_client: Callable[[Generation], OpenClaw],
) -> None:
    """The newer command ``models list`` wants a capability of the gateway, and shows its agents' models."""
    done = make_client(V4).models("--json")

    assert done.stdout.startswith("{"), done
    assert [model["key"] for model in json.loads(done.stdout)["models"]] == ["demo/demo"]


def test_gateway_usage_cost_shows_what_was_used(openclaw: OpenClaw, gateway: Gateway) -> None:
    """The command ``gateway usage-cost`` reads the tokens of what was said before, as JSON and for people."""
    openclaw.agent("three small words", "--agent", "main")

    read = openclaw.usage_cost("--days", "7", "--json")
    shown = openclaw.usage_cost()

    assert read.stdout.startswith("{"), read
    cost = json.loads(read.stdout)
    assert cost["days"] == 7
    assert cost["totals"]["totalTokens"] >= 6
    assert cost["totals"]["missingCostEntries"] >= 1
    assert [day["totalTokens"] for day in cost["daily"]] == [cost["totals"]["totalTokens"]]
    assert cost["daily"][0]["date"] in shown.stdout, shown
    assert "Total" in shown.stdout, shown
