"""The model worker: its protocol, its memory, its errors. Needs the extra llm, no model."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest
from twisted.internet.defer import Deferred

pytest.importorskip("pydantic_ai")
pytest.importorskip("openai")

from pydantic_ai import exceptions as failures
from pydantic_ai.messages import (
    BinaryContent,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextPart,
    UserPromptPart,
)
from pydantic_ai.models.function import DeltaThinkingPart, FunctionModel
from pydantic_ai.usage import RequestUsage

from gateway.agents.llmspec import ModelSpec
from gateway.agents.workers.agent import MAX_SESSIONS
from gateway.agents.workers.content import Paragraphs
from gateway.agents.workers.conversation import MAX_CHARS, Conversation
from gateway.agents.workers.models import Candidate, build_model
from gateway.agents.workers.usage import TurnUsage
from tests.agents.llm_client import Client, Model, call, talk

pytestmark = pytest.mark.model


def test_a_turn_streams_and_counts() -> Deferred[None]:
    """A turn sends every piece as it comes, and ends with usage, provider and model."""

    async def scenario(client: Client) -> None:
        hello = (await client.ask("initialize", {"protocolVersion": 1}))["result"]
        assert hello["protocolVersion"] == 1
        assert hello["agentCapabilities"]["promptCapabilities"]["image"] is True
        session_id = await client.open()

        answer = await client.answer(client.prompt(session_id, "hi"))

        assert client.chunks() == ["one ", "two"]
        assert client.chunks("agent_thought_chunk") == ["hm"]
        assert answer["result"]["stopReason"] == "end_turn"
        told = answer["result"]["_meta"]["gateway"]
        assert told["provider"] == "fake"
        assert told["usage"]["outputTokens"] > 0
        assert told["usage"]["inputTokens"] > 0

    return talk(Model({0: DeltaThinkingPart(content="hm")}, "one ", "two"), scenario)


def test_a_session_remembers_its_turns() -> Deferred[None]:
    """A second turn knows the first; another session does not."""
    model = Model("answer")

    async def scenario(client: Client) -> None:
        one, two = await client.open(), await client.open()
        await client.answer(client.prompt(one, "first"))
        await client.answer(client.prompt(one, "second"))
        assert model.texts() == [("user", "first"), ("assistant", "answer"), ("user", "second")]
        await client.answer(client.prompt(two, "third"))
        assert model.texts() == [("user", "third")]

    return talk(model, scenario)


def test_a_session_goes_on_from_a_transcript() -> Deferred[None]:
    """History that comes with a session is what the model is told first."""
    model = Model("answer")
    history = [
        {"role": "assistant", "text": "no question before it"},
        {"role": "user", "text": "before"},
        {"role": "assistant", "text": "earlier"},
        {"odd": 1},
    ]

    async def scenario(client: Client) -> None:
        session_id = await client.open(history=history)
        await client.answer(client.prompt(session_id, "now"))
        assert model.texts() == [("user", "before"), ("assistant", "earlier"), ("user", "now")]

    return talk(model, scenario)


def test_instructions_are_the_agents_and_the_requests() -> Deferred[None]:
    """The system prompt stands before every conversation, extra instructions for one turn."""
    model = Model("answer")

    async def scenario(client: Client) -> None:
        session_id = await client.open()
        await client.answer(client.prompt(session_id, "a", extraSystemPrompt="Rhyme."))
        await client.answer(client.prompt(session_id, "b"))
        assert model.instructions == ["Be brief.\n\nRhyme.", "Be brief."]

    return talk(model, scenario, system_prompt="Be brief.")


def test_cancel_ends_a_turn_and_keeps_what_was_said() -> Deferred[None]:
    """A cancelled turn answers so; the next turn knows the half of the answer."""
    model = Model("half ", asyncio.Event())

    async def scenario(client: Client) -> None:
        session_id = await client.open()
        id_ = client.prompt(session_id, "first")
        while not client.chunks():
            await asyncio.sleep(0)

        client.cancel(session_id)
        assert (await client.answer(id_))["result"] == {"stopReason": "cancelled"}

        model.words = ("whole",)
        await client.answer(client.prompt(session_id, "second"))
        assert model.texts() == [("user", "first"), ("assistant", "half "), ("user", "second")]

    return talk(model, scenario)


def test_a_cancel_right_behind_the_prompt_is_answered() -> Deferred[None]:
    """A turn that is cancelled before it has done anything still answers."""

    async def scenario(client: Client) -> None:
        session_id = await client.open()
        id_ = client.prompt(session_id, "first")
        client.cancel(session_id)
        assert (await client.answer(id_))["result"] == {"stopReason": "cancelled"}
        client.cancel(session_id)
        client.cancel("no such session")

    return talk(Model(asyncio.Event()), scenario)


def test_the_end_of_the_input_ends_everything() -> Deferred[None]:
    """When the gateway is gone, turns are cancelled and the worker ends."""

    async def scenario(client: Client) -> None:
        client.prompt(await client.open(), "first")
        await asyncio.sleep(0)

    return talk(Model(asyncio.Event()), scenario)


def test_one_turn_at_a_time() -> Deferred[None]:
    """A second prompt of a session in the middle of a turn is refused."""

    async def scenario(client: Client) -> None:
        session_id = await client.open()
        client.prompt(session_id, "first")
        assert (
            "going on" in (await client.answer(client.prompt(session_id, "b")))["error"]["message"]
        )

    return talk(Model(asyncio.Event()), scenario)


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("fs/read", {}, -32601),
        ("session/load", {"sessionId": "x"}, -32002),
        ("session/load", {}, -32602),
        ("_gateway/unknown", {}, -32601),
        ("session/prompt", {}, -32602),
        ("session/prompt", {"sessionId": "x", "prompt": []}, -32002),
        ("session/prompt", [], -32602),
    ],
)
def test_what_is_wrong_is_refused(method: str, params: Any, code: int) -> Deferred[None]:
    """Unknown methods, sessions and shapes have the protocol's codes."""

    async def scenario(client: Client) -> None:
        assert (await client.ask(method, params))["error"]["code"] == code

    return talk(Model("x"), scenario)


@pytest.mark.parametrize(
    "blocks", [None, [], [{"type": "audio"}], [{"type": "image", "mimeType": "a/b", "data": "x"}]]
)
def test_a_prompt_of_something_else_is_refused(blocks: Any) -> Deferred[None]:
    """The worker takes text and images."""

    async def scenario(client: Client) -> None:
        session_id = await client.open()
        answer = await client.ask("session/prompt", {"sessionId": session_id, "prompt": blocks})
        assert answer["error"]["code"] == -32602

    return talk(Model("x"), scenario)


def test_an_image_reaches_the_model() -> Deferred[None]:
    """An image block is handed on as it is."""
    model = Model("a cat")

    async def scenario(client: Client) -> None:
        data = base64.b64encode(b"\x89PNG").decode()
        blocks = [{"type": "image", "mimeType": "image/png", "data": data}]
        params = {"sessionId": await client.open(), "prompt": blocks}
        await client.ask("session/prompt", params)
        ((_, image),) = model.texts()
        assert image == BinaryContent(b"\x89PNG", media_type="image/png")

    return talk(model, scenario)


def test_a_providers_failure_is_a_typed_error() -> Deferred[None]:
    """What the provider answers reaches the gateway with kind, status, words, and without the key."""
    body = {"error": {"message": "Incorrect key sk-SECRET given", "type": "invalid_request_error"}}
    model = Model(
        failures.ModelHTTPError.for_category(
            failures.ModelAuthenticationError, status_code=401, model_name="m", body=body
        )
    )

    async def scenario(client: Client) -> None:
        session_id = await client.open()
        error = (await client.answer(client.prompt(session_id, "x")))["error"]
        assert error["data"] == {
            "kind": "unknown",
            "provider": "fake",
            "model": error["data"]["model"],
            "httpStatus": 401,
            "providerErrorType": "invalid_request_error",
            "message": "Incorrect key [secret] given",
        }
        assert error["message"] == (
            "the provider refuses the key (HTTP 401): Incorrect key [secret] given"
        )

        model.words = ("fine",)
        await client.answer(client.prompt(session_id, "y"))
        assert model.texts() == [("user", "y")]

    return talk(model, scenario, secrets=("sk-SECRET",))


def test_an_empty_answer_is_an_error() -> Deferred[None]:
    """A model that says nothing at all has not answered."""

    async def scenario(client: Client) -> None:
        error = (await client.answer(client.prompt(await client.open(), "x")))["error"]
        assert error["message"].startswith("the model gave no usable answer")

    return talk(Model(""), scenario)


def test_a_conversation_forgets_whole_turns() -> None:
    """The newest turns stay; one that is too large alone is kept until the next."""
    memory = Conversation("s")

    def turn(text: str) -> list[ModelMessage]:
        return [ModelRequest(parts=[UserPromptPart(text)]), ModelResponse(parts=[TextPart("ok")])]

    memory.add(turn("x" * MAX_CHARS))
    assert len(memory.messages()) == 2
    for number in range(150):
        memory.add(turn(str(number)))

    messages = memory.messages()
    assert len(messages) == 200
    assert messages[0].parts[0].content == "50"  # type: ignore[union-attr]


def test_sessions_are_bounded() -> Deferred[None]:
    """The session that was used longest ago is forgotten over the cap."""

    async def scenario(client: Client) -> None:
        first, second = await client.open(), await client.open()
        await client.answer(client.prompt(first, "x"))
        for _ in range(MAX_SESSIONS - 1):
            await client.open()
        assert "result" in await client.answer(client.prompt(first, "x"))
        assert (await client.answer(client.prompt(second, "x")))["error"]["code"] == -32002

    return talk(Model("x"), scenario)


def other_model(model: Model, **facts: Any) -> Candidate:
    return Candidate(
        ModelSpec(model="fake:other", **facts), FunctionModel(stream_function=model.stream)
    )


def test_a_turn_may_ask_for_another_model() -> Deferred[None]:
    """A prompt's model goes first, by its name or its id; one that is gone is told of and changes nothing."""
    first, other = Model("first"), Model("other")

    async def scenario(client: Client) -> None:
        session_id = await client.open()
        for wanted in ("fake/other", "other"):
            answer = await client.answer(client.prompt(session_id, "x", model=wanted))
            assert answer["result"]["_meta"]["gateway"]["model"] == "other"
        answer = await client.answer(client.prompt(session_id, "x", model="fake/none"))
        assert answer["result"]["_meta"]["gateway"]["model"] == "m"
        text = "the agent has no model fake/none; it answers with its own: fake/m, fake/other"
        notice = {"stream": "notice", "data": {"kind": "model", "text": text}}
        await client.seen(lambda each: each.get("params", {}).items() >= notice.items())
        answer = await client.answer(client.prompt(session_id, "x"))
        assert answer["result"]["_meta"]["gateway"]["model"] == "m"

    return talk(first, scenario, others=(other_model(other),))


def test_a_model_without_eyes_is_told_of_the_image() -> Deferred[None]:
    """An image for a model that takes none is named in words."""
    blind = Model("what image?")

    async def scenario(client: Client) -> None:
        data = base64.b64encode(b"\x89PNG").decode()
        blocks = [{"type": "image", "mimeType": "image/png", "data": data}]
        meta = {"gateway": {"model": "fake/other"}}
        params = {"sessionId": await client.open(), "prompt": blocks, "_meta": meta}
        await client.ask("session/prompt", params)
        assert blind.texts() == [("user", "[image: image/png, 4 bytes, not shown to you]")]

    return talk(Model("x"), scenario, others=(other_model(blind, images=False),))


def test_thinking_levels_reach_the_model() -> Deferred[None]:
    """A session's thinking level is a setting of the request; an unknown word changes nothing."""
    model = Model("x")

    async def scenario(client: Client) -> None:
        session_id = await client.open()
        for level in ("high", "off", "very", None):
            await client.answer(client.prompt(session_id, "x", thinking=level))
        assert model.thinking == ["high", False, None, None]

    return talk(model, scenario)


def test_usage_is_told_by_model() -> Deferred[None]:
    """Every model's share, the size of the context, and no cost where no price is known."""

    async def scenario(client: Client) -> None:
        answer = await client.answer(client.prompt(await client.open(), "hi there"))
        usage = answer["result"]["_meta"]["gateway"]["usage"]
        (share,) = usage["byModel"]
        assert (share["provider"], share["model"]) == ("fake", "m")
        assert share["inputTokens"] == usage["inputTokens"] > 0
        assert share["outputTokens"] == usage["outputTokens"] > 0
        assert usage["contextTokens"] == usage["inputTokens"] + usage["outputTokens"]
        assert "costUsd" not in share

    return talk(Model("one ", "two"), scenario)


def test_a_price_is_that_of_the_provider_itself() -> None:
    """A known model costs what its provider takes; at one's own address nobody knows."""
    response = ModelResponse(
        parts=[TextPart("x")],
        usage=RequestUsage(input_tokens=1_000_000, output_tokens=0),
        model_name="gpt-4o",
        provider_name="openai",
    )
    model = FunctionModel(stream_function=Model("x").stream)
    openai = Candidate(ModelSpec(model="openai:gpt-4o"), model)
    mine = Candidate(ModelSpec(model="openai:gpt-4o", base_url="http://127.0.0.1:1/v1"), model)

    usage = TurnUsage()
    usage.add(openai, response)
    assert usage.shape()["byModel"][0]["costUsd"] > 0
    usage.add(mine, response)
    assert "costUsd" not in usage.shape()["byModel"][0]


def test_a_turn_that_goes_on_is_steered() -> Deferred[None]:
    """A message on the way is given to the model with its next request, and stays in the conversation."""
    wait = asyncio.Event()
    model = Model("done", steps=[[call("list")], ["first", wait]])

    async def scenario(client: Client) -> None:
        session_id = await client.open()
        id_ = client.prompt(session_id, "begin")
        while not client.chunks():
            await asyncio.sleep(0)
        prompt = [{"type": "text", "text": "rather this"}]
        params = {"sessionId": session_id, "prompt": prompt}
        assert (await client.ask("_gateway/steer", params))["result"] == {"accepted": True}
        wait.set()

        assert (await client.answer(id_))["result"]["stopReason"] == "end_turn"
        assert client.chunks() == ["first", "\n\ndone"]
        assert model.texts()[-1] == ("user", "rather this")
        assert (await client.ask("_gateway/steer", params))["result"] == {"accepted": False}

    return talk(model, scenario)


def test_what_is_said_around_a_steered_message_is_apart() -> None:
    """Once, and again after the answer was taken back; around a tool call the gateway does it."""
    apart = Paragraphs()
    assert apart.before() == ""
    apart.steered()
    apart.request()
    assert [apart.before(), apart.before()] == ["\n\n", ""]
    apart.taken_back()
    assert apart.before() == "\n\n"
    apart.tool()
    apart.steered()
    apart.request()
    assert apart.before() == ""


def test_a_steered_message_outlives_an_abort() -> Deferred[None]:
    """What a cancelled turn had no time to heed is there in the next one."""
    model = Model("half", asyncio.Event())

    async def scenario(client: Client) -> None:
        session_id = await client.open()
        id_ = client.prompt(session_id, "begin")
        while not client.chunks():
            await asyncio.sleep(0)
        prompt = [{"type": "text", "text": "rather this"}]
        await client.ask("_gateway/steer", {"sessionId": session_id, "prompt": prompt})
        client.cancel(session_id)
        await client.answer(id_)

        model.words = ("fine",)
        await client.answer(client.prompt(session_id, "next"))
        said = [text for role, text in model.texts() if role == "user"]
        assert said == ["begin", "rather this", "next"]

    return talk(model, scenario)


def test_a_turn_that_was_cancelled_in_its_beginning_is_remembered() -> Deferred[None]:
    """The next turn knows what the user had said, though no model was asked."""
    model = Model(asyncio.Event())

    async def scenario(client: Client) -> None:
        session_id = await client.open()
        id_ = client.prompt(session_id, "first")
        while not model.asked:
            await asyncio.sleep(0)
        client.cancel(session_id)
        await client.answer(id_)

        model.words = ("fine",)
        await client.answer(client.prompt(session_id, "second"))
        assert model.texts() == [("user", "first"), ("user", "second")]

    return talk(model, scenario)


def test_a_steered_message_outlives_a_failure() -> Deferred[None]:
    """What was accepted for a turn that then failed is there in the next one."""
    wait = asyncio.Event()
    model = Model("fine", steps=[["half", wait, RuntimeError("gone")]])

    async def scenario(client: Client) -> None:
        session_id = await client.open()
        id_ = client.prompt(session_id, "begin")
        while not client.chunks():
            await asyncio.sleep(0)
        prompt = [{"type": "text", "text": "rather this"}]
        await client.ask("_gateway/steer", {"sessionId": session_id, "prompt": prompt})
        wait.set()
        assert "error" in await client.answer(id_)

        await client.answer(client.prompt(session_id, "next"))
        said = [text for role, text in model.texts() if role == "user"]
        assert said == ["begin", "rather this", "next"]

    return talk(model, scenario)


def test_a_silent_turn_gives_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> Deferred[None]:
    """While a model thinks for long, the gateway hears that the process lives."""
    monkeypatch.setattr("gateway.agents.workers.turn.ALIVE_S", 0.01)
    wait = asyncio.Event()

    async def scenario(client: Client) -> None:
        session_id = await client.open()
        id_ = client.prompt(session_id, "x")
        sign = await client.seen(lambda message: message.get("method") == "_gateway/alive", 2)
        assert sign["params"] == {"sessionId": session_id}
        wait.set()
        await client.answer(id_)

    return talk(Model(wait, "done"), scenario)


def test_a_summary_stands_for_what_was_before() -> Deferred[None]:
    """A transcript's summary is what the model is told first; the turns before it are gone."""
    model = Model("answer")
    history = [
        {"role": "user", "text": "long ago"},
        {"role": "summary", "text": "They talked of cats."},
        {"role": "assistant", "text": "the rest of an answer"},
        {"role": "user", "text": "lately"},
    ]

    async def scenario(client: Client) -> None:
        session_id = await client.open(history=history)
        await client.answer(client.prompt(session_id, "now"))
        (_, summary), *rest = model.texts()
        assert summary.endswith("\n\nThey talked of cats.")
        assert rest == [
            ("assistant", "the rest of an answer"),
            ("user", "lately"),
            ("user", "now"),
        ]

    return talk(model, scenario)


def test_models_are_made_from_their_names() -> None:
    """The model string is pydantic-ai's; one's own server needs no key, OpenAI's does."""
    local = ModelSpec(model="openai-chat:small", base_url="http://127.0.0.1:1/v1", temperature=0.5)
    model = build_model(local, None)
    assert (model.model_name, model.settings) == ("small", {"temperature": 0.5})
    assert build_model(ModelSpec(model="openai:big"), "sk-1").model_name == "big"
    ollama = build_model(ModelSpec(model="ollama:llama3"), None)
    assert ollama.base_url == "http://127.0.0.1:11434/v1/"
    with pytest.raises(failures.UserError, match="api_key"):
        build_model(ModelSpec(model="openai-chat:small"), None)


@pytest.mark.parametrize(
    ("name", "library"),
    [
        ("anthropic:claude-sonnet-4-5", "anthropic"),
        ("google:gemini-2.5-flash", "google.genai"),
        ("ollama:llama3", "openai"),
        ("openrouter:some/model", "openai"),
    ],
)
def test_models_of_other_providers_are_made(name: str, library: str) -> None:
    """Each provider's model takes its key and address from the table, and repeats nothing by itself."""
    pytest.importorskip(library)

    model = build_model(ModelSpec(model=name, thinking="low"), "sk-1")

    assert model.model_name == name.partition(":")[2]
    cached = {"cache": True} if name.startswith(("anthropic", "openrouter")) else {}
    assert model.settings == {"thinking": "low"} | cached
    assert getattr(getattr(model, "client", None), "max_retries", 0) == 0
