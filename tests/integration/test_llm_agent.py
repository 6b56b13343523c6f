"""An llm agent from its table to a provider that says what the test wants: tools, operators, restarts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred

pytest.importorskip("pydantic_ai")
pytest.importorskip("openai")

from gateway.agents.llm import LlmFactory
from gateway.agents.llmconfig import LlmConfig, ModelConfig
from gateway.model import ApprovalRequest, Decision
from gateway.runtime import SystemClock
from tests.agents.fakes import RecordingSink, make_environment, run_request
from tests.agents.test_llm_process import Provider

pytestmark = [pytest.mark.model, pytest.mark.integration]

reactor: Any = installed_reactor


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as server:
        yield server


def asks(name: str, id_: str, **args: Any) -> dict[str, Any]:
    """The delta of a response that calls a tool."""
    function = {"name": name, "arguments": json.dumps(args)}
    return {"tool_calls": [{"index": 0, "id": id_, "type": "function", "function": function}]}


def roles(request: dict[str, Any]) -> list[str]:
    return [message["role"] for message in request["messages"]]


@pytest_twisted.ensureDeferred
async def test_a_turn_with_tools_is_steered_and_outlives_the_process(
    provider: Provider, tmp_path: Path
) -> None:
    """An operator allows a command, a message on the way is heeded, a new process knows all of it."""
    command = asks("shell", "c2", command="cat a.txt")
    provider.answers = [asks("write", "c1", path="a.txt", content="hi"), command]
    provider.answers += [{"content": "done"}, {"content": "again"}]
    model = ModelConfig(model="openai-chat:small", base_url=provider.url, api_key="sk-123456")
    environment = make_environment(tmp_path, SystemClock(reactor), reactor)
    backend: Any = LlmFactory().make(LlmConfig(models=[model]), environment)
    sink = RecordingSink()
    asked: Deferred[None] = Deferred()
    decision: Deferred[Decision | None] = Deferred()

    def decide(request: ApprovalRequest) -> Deferred[Decision | None]:
        asked.callback(None)
        return decision

    sink.decide = decide
    backend.startService()
    run = backend.start(run_request("go"), sink)
    await asked
    assert await backend.steer("run-1", "also this", ()) is True
    decision.callback(Decision.ALLOW_ONCE)
    result = await run
    await backend.stopService()

    assert sink.said == "done"
    assert sink.asked[0].command == "cat a.txt"
    ends = [data for stream, data in sink.events if stream == "tool" and data["phase"] == "result"]
    assert [data["isError"] for data in ends] == [False, False]
    assert [data["name"] for data in ends] == ["write", "shell"]
    assert "exit status 0\nhi" in json.dumps(ends[1], ensure_ascii=False).replace("\\n", "\n")
    assert provider.requests[2]["messages"][-1] == {"role": "user", "content": "also this"}
    assert result.usage.context_tokens == 12
    assert [use.model for use in result.usage.by_model] == ["small"]

    backend = LlmFactory().make(LlmConfig(models=[model]), environment)
    backend.startService()
    more = run_request("more", run_id="run-2", agent_session=sink.bound[-1])
    await backend.start(more, RecordingSink())
    await backend.stopService()

    turn = ["user", "assistant", "tool", "assistant", "tool", "user", "assistant"]
    assert roles(provider.requests[3]) == [*turn, "user"]
