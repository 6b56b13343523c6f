"""Conversations that outgrow the model's window, through the worker's protocol. Needs the extra llm."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

pytest.importorskip("pydantic_ai")
pytest.importorskip("openai")

from gateway.agents.llmpolicy import ContextConfig, FailoverConfig
from gateway.agents.llmspec import ModelSpec, WorkerSecrets, WorkerSpec
from gateway.agents.workers.agent import LlmAgent
from gateway.agents.workers.models import Candidate, build_model
from tests.agents.fake_provider import OK, Behaviour, FakeProvider, fails, tokens_of
from tests.agents.llm_client import Client

pytestmark = pytest.mark.model

TASK = "You shorten conversations."
SUMMARY = (TASK, Behaviour(words=("The user likes ", "green.")))
SUMMARY_HEAD = "[Summary of the conversation before this point]"
LONG = "word " * 120


class Worker:
    """An agent on a fake provider and its client."""

    def __init__(self, agent: LlmAgent) -> None:
        self.agent = agent
        self.client = Client(agent)

    def events(self, stream: str) -> list[dict[str, Any]]:
        return [
            message["params"]["data"]
            for message in self.client.writer.messages
            if message.get("method") == "_gateway/event" and message["params"]["stream"] == stream
        ]

    def compacted(self) -> list[dict[str, Any]]:
        return [
            message["params"]
            for message in self.client.writer.messages
            if message.get("method") == "_gateway/compacted"
        ]

    async def say(self, session_id: str, text: str, **meta: Any) -> dict[str, Any]:
        return await self.client.answer(self.client.prompt(session_id, text, **meta))


def spec_of(provider: FakeProvider, name: str = "m", window: int | None = None) -> ModelSpec:
    return ModelSpec(
        model=f"openai-chat:{name}", base_url=provider.url, context_window=window, max_tokens=50
    )


def run(
    specs: Callable[[], list[ModelSpec]],
    scenario: Callable[[Worker], Coroutine[Any, Any, None]],
    *providers: FakeProvider,
    **options: Any,
) -> Deferred[None]:
    """Run ``scenario`` against a worker with these models."""

    async def whole() -> None:
        for provider in providers:
            await provider.__aenter__()
        known = specs()
        candidates = [Candidate(each, build_model(each, None)) for each in known]
        given: dict[str, Any] = {
            "workspace": "/nonexistent",
            "tools": (),
            "workspace_files": False,
        } | options
        spec = WorkerSpec(models=tuple(known), **given)
        worker = Worker(LlmAgent(spec, candidates, WorkerSecrets()))
        try:
            await scenario(worker)
        finally:
            await worker.client.close()
            await worker.agent.close()
            for provider in providers:
                await provider.__aexit__()

    return Deferred.fromFuture(asyncio.ensure_future(asyncio.wait_for(whole(), 4)))


@pytest.mark.parametrize("overflow", ["openai", "llama.cpp"])
def test_a_refused_size_is_shortened_and_asked_again(overflow: str) -> Deferred[None]:
    """Where nobody knew the window, the provider's refusal teaches it; the turn goes on with a summary."""
    provider = FakeProvider(OK, window=700, overflow=overflow)

    async def scenario(worker: Worker) -> None:
        session_id = await worker.client.open()
        for n in range(4):
            assert "result" in await worker.say(session_id, f"{n} {LONG}"), n
        provider.special = SUMMARY
        answer = await worker.say(session_id, f"4 {LONG}")

        assert answer["result"]["stopReason"] == "end_turn"
        said = provider.texts()
        assert said[0][1].startswith(SUMMARY_HEAD)
        assert "green" in said[0][1]
        assert said[-1][1].startswith("4 ")
        assert worker.client.chunks()[-3:] == ["all ", "is ", "well"]
        assert [each["phase"] for each in worker.events("compaction")] == ["start", "end"]
        end = worker.events("compaction")[1]
        assert end["willRetry"] is True
        assert end["tokensAfter"] < end["tokensBefore"]
        (told,) = worker.compacted()
        assert told["summary"] == "The user likes green."
        kept = [text for role, text in said[1:-1]]
        assert told["keptMessages"] == len(kept)
        assert all(tokens_of(body) <= 700 for body in provider.requests[-1:])

    return run(lambda: [spec_of(provider)], scenario, provider)


def test_an_overflow_is_foreseen() -> Deferred[None]:
    """With a known window no request is ever too long, however long the conversation goes on."""
    provider = FakeProvider(OK, window=700)

    async def scenario(worker: Worker) -> None:
        session_id = await worker.client.open()
        for n in range(12):
            answer = await worker.say(session_id, f"{n} {LONG}")
            assert answer["result"]["stopReason"] == "end_turn"

        assert max(tokens_of(body) for body in provider.requests) <= 700
        asked = [each for each in range(len(provider.requests)) if TASK in _first(provider, each)]
        assert len(provider.requests) == 12 + len(asked)
        assert 1 <= len(worker.compacted()) <= 6

    return run(lambda: [spec_of(provider, window=700)], scenario, provider)


def _first(provider: FakeProvider, request: int) -> str:
    return provider.texts(request)[0][1][:40]


def test_a_message_that_is_too_long_alone_says_what_to_do() -> Deferred[None]:
    """Nothing is asked in vain: the error is typed and its advice works."""
    provider = FakeProvider(OK, window=300)

    async def scenario(worker: Worker) -> None:
        session_id = await worker.client.open()
        await worker.say(session_id, "hello")
        error = (await worker.say(session_id, "x " * 2000))["error"]

        assert error["data"]["kind"] == "context_length"
        assert "send a shorter message, or use a model with a larger window" in error["message"]
        assert len(provider.requests) == 1
        assert "result" in await worker.say(session_id, "and now?")

    return run(lambda: [spec_of(provider, window=300)], scenario, provider)


def test_a_message_too_long_for_an_unknown_window_ends_after_few_requests() -> Deferred[None]:
    """The provider's refusal comes out with the advice, and nobody asks it again and again."""
    provider = FakeProvider(OK, window=300)

    async def scenario(worker: Worker) -> None:
        session_id = await worker.client.open()
        error = (await worker.say(session_id, "x " * 2000))["error"]

        assert error["data"]["kind"] == "context_length"
        assert "send a shorter message" in error["message"]
        assert len(provider.requests) == 1

    return run(lambda: [spec_of(provider)], scenario, provider)


def test_a_server_may_come_back_with_a_larger_window() -> Deferred[None]:
    """What a server once said of its window keeps no later message from it."""
    provider = FakeProvider(OK, window=300)

    async def scenario(worker: Worker) -> None:
        session_id = await worker.client.open()
        assert "error" in await worker.say(session_id, "x " * 2000)
        provider.window = None
        assert "result" in await worker.say(session_id, "x " * 2000)
        assert "result" in await worker.say(session_id, "y")

        assert len(provider.requests) == 3
        assert worker.events("compaction") == []

    return run(lambda: [spec_of(provider)], scenario, provider)


def test_a_larger_model_takes_what_can_not_be_shortened() -> Deferred[None]:
    """The next candidate with a larger window gets the message as it is; a smaller one is not asked."""
    small, tiny, large = FakeProvider(window=300), FakeProvider(window=200), FakeProvider(OK)

    async def scenario(worker: Worker) -> None:
        session_id = await worker.client.open()
        answer = await worker.say(session_id, "x " * 2000)

        assert answer["result"]["_meta"]["gateway"]["model"] == "large"
        assert (len(small.requests), len(tiny.requests), len(large.requests)) == (0, 0, 1)
        (step,) = [
            each
            for each in worker.events("lifecycle")
            if each.get("fallbackStepToModel")
            and each["fallbackStepFinalOutcome"] == "next_fallback"
        ]
        assert step["fallbackStepFromFailureReason"] == "context_overflow"

    return run(
        lambda: [
            spec_of(small, "small", 300),
            spec_of(tiny, "tiny", 200),
            spec_of(large, "large", 100_000),
        ],
        scenario,
        small,
        tiny,
        large,
    )


def test_without_a_summary_the_rest_is_left_out() -> Deferred[None]:
    """If no model makes a summary, the older turns are cut mechanically and the turn goes on."""
    provider = FakeProvider(OK, window=700)

    async def scenario(worker: Worker) -> None:
        session_id = await worker.client.open()
        for n in range(3):
            await worker.say(session_id, f"{n} {LONG}")
        provider.special = (TASK, fails(400, "no summaries here"))
        answer = await worker.say(session_id, f"4 {LONG}")

        assert answer["result"]["stopReason"] == "end_turn"
        (told,) = worker.compacted()
        assert told["summary"].startswith("[Older messages were left out here")

    return run(lambda: [spec_of(provider, window=700)], scenario, provider)


def test_a_turn_that_outgrows_the_window_goes_on(tmp_path: Path) -> Deferred[None]:
    """Between tool calls long results are cut, or the turn's beginning goes; calls stay paired."""
    (tmp_path / "big.txt").write_text("line of text\n" * 200)
    read = Behaviour(tool=("read", json.dumps({"path": "big.txt"})))
    provider = FakeProvider(read, read, read, read, OK, window=2_000)

    async def scenario(worker: Worker) -> None:
        session_id = await worker.client.open()
        answer = await worker.say(session_id, "read it again and again")

        assert answer["result"]["stopReason"] == "end_turn"
        assert max(tokens_of(body) for body in provider.requests) <= 2_000
        assert worker.events("compaction")
        for body in provider.requests:
            called = [
                each["id"]
                for message in body["messages"]
                for each in message.get("tool_calls") or []
            ]
            returned = [m["tool_call_id"] for m in body["messages"] if m["role"] == "tool"]
            assert called == returned
        assert any("was cut to save room" in text for _, text in provider.texts())

    return run(
        lambda: [spec_of(provider, window=2_000)],
        scenario,
        provider,
        tools=("read",),
        workspace=str(tmp_path),
    )


def test_shortening_is_bounded() -> Deferred[None]:
    """A provider that finds everything too long is asked a few times only."""
    too_long = fails(400, "prompt is too long", code="context_length_exceeded")
    provider = FakeProvider(OK)

    async def scenario(worker: Worker) -> None:
        session_id = await worker.client.open()
        for n in range(6):
            await worker.say(session_id, f"{n} {LONG}")
        before = len(provider.requests)
        provider.script = [too_long]
        error = (await worker.say(session_id, "more"))["error"]

        assert error["data"]["kind"] == "context_length"
        assert len(provider.requests) - before <= 8

    return run(lambda: [spec_of(provider)], scenario, provider)


def test_one_sessions_compaction_delays_no_other() -> Deferred[None]:
    """While a summary of one session is being made, another one answers."""
    provider = FakeProvider(OK, window=700)

    async def scenario(worker: Worker) -> None:
        one, two = await worker.client.open(), await worker.client.open()
        for n in range(3):
            await worker.say(one, f"{n} {LONG}")
        provider.special = (TASK, Behaviour(wait=True))
        long = worker.client.prompt(one, f"4 {LONG}")
        asked = len(provider.requests)
        while len(provider.requests) == asked:
            await asyncio.sleep(0.01)
        assert "result" in await worker.say(two, "quick")
        assert not worker.compacted()
        assert (await worker.client.answer(long))["result"]["stopReason"] == "end_turn"
        assert len(worker.compacted()) == 1

    return run(
        lambda: [spec_of(provider, window=700)],
        scenario,
        provider,
        context=ContextConfig(summary_s=0.5),
    )


def test_compaction_by_hand() -> Deferred[None]:
    """All but the last turn becomes a summary, with what the user wants kept; twice is nothing."""
    provider = FakeProvider(OK)

    async def scenario(worker: Worker) -> None:
        session_id = await worker.client.open()
        ask = {"sessionId": session_id, "instructions": "Keep the colours."}
        assert (await worker.client.ask("_gateway/compact", ask))["result"] == {}
        for n in range(3):
            await worker.say(session_id, f"{n} {LONG}")
        provider.special = SUMMARY
        done = (await worker.client.ask("_gateway/compact", ask))["result"]

        assert done["summary"] == "The user likes green."
        assert done["keptMessages"] == 2
        assert done["tokensAfter"] < done["tokensBefore"]
        assert "Keep the colours." in provider.texts()[0][1]
        assert worker.compacted() == []
        assert worker.events("compaction")[-1]["willRetry"] is False
        assert (await worker.client.ask("_gateway/compact", ask))["result"] == {}
        await worker.say(session_id, "and?")
        assert [text[:8] for _, text in provider.texts()] == [
            SUMMARY_HEAD[:8],
            "2 word w",
            "all is w",
            "and?",
        ]

    return run(lambda: [spec_of(provider)], scenario, provider)


def test_an_answer_that_breaks_off_is_taken_back() -> Deferred[None]:
    """The gateway is told how much to forget, then gets the answer once; the answer names its model."""
    bad = FakeProvider(Behaviour(words=("half ", "of ", "it"), cut_after=2))
    good = FakeProvider(OK)

    async def scenario(worker: Worker) -> None:
        session_id = await worker.client.open()
        answer = await worker.say(session_id, "hello")

        meta = answer["result"]["_meta"]["gateway"]
        assert (meta["provider"], meta["model"]) == ("openai-chat", "good")
        assert worker.client.chunks() == ["half ", "of ", "all ", "is ", "well"]
        assert worker.events("assistant") == [{"takeBack": 8}]
        order = [
            message["params"].get("stream") or "update"
            for message in worker.client.writer.messages
            if message.get("method") in ("_gateway/event", "session/update")
        ]
        assert (
            order.index("assistant")
            == order.index("update") + 2 + order[: order.index("assistant")].count("lifecycle") - 1
        )
        await worker.say(session_id, "again", model="openai-chat/good")
        assert ("assistant", "all is well") in good.texts()

    return run(
        lambda: [spec_of(bad, "bad"), spec_of(good, "good")],
        scenario,
        bad,
        good,
        failover=FailoverConfig(idle_s=1),
    )


def test_a_chosen_model_vetoes_nothing() -> Deferred[None]:
    """A session's own model is asked first; when it fails, the others stand in for it."""
    first, second = FakeProvider(OK), FakeProvider(fails(500))

    async def scenario(worker: Worker) -> None:
        session_id = await worker.client.open()
        answer = await worker.say(session_id, "hello", model="openai-chat/second")

        assert len(second.requests) == 1
        assert answer["result"]["_meta"]["gateway"]["model"] == "first"

    return run(
        lambda: [spec_of(first, "first"), spec_of(second, "second")], scenario, first, second
    )
