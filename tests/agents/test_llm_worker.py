"""The model worker: its protocol, its memory, its errors. Needs the extra llm, no model."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

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
from pydantic_ai.models.function import AgentInfo, DeltaThinkingPart, FunctionModel

from gateway.agents.jsonrpc import encode_notification, encode_request
from gateway.agents.llmspec import ModelSpec, WorkerSpec
from gateway.agents.workers.acp_server import AcpServer
from gateway.agents.workers.agent import MAX_SESSIONS, LlmAgent
from gateway.agents.workers.conversation import MAX_CHARS, Conversation
from gateway.agents.workers.models import Candidate, build_model

pytestmark = pytest.mark.model


class Writer:
    """What the server writes, as messages."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.written = asyncio.Event()

    def write(self, line: bytes) -> None:
        self.messages.append(json.loads(line))
        self.written.set()

    async def drain(self) -> None:
        await asyncio.sleep(0)

    def is_closing(self) -> bool:
        return False


class Client:
    """A client of a worker that runs in this process."""

    def __init__(self, agent: LlmAgent) -> None:
        self.writer = cast(Any, Writer())
        self.reader = asyncio.StreamReader()
        self.server = asyncio.create_task(AcpServer(agent, self.writer).serve(self.reader))
        self.ids = 0

    def send(self, method: str, params: Any) -> int:
        self.ids += 1
        self.reader.feed_data(encode_request(self.ids, method, params))
        return self.ids

    def cancel(self, session_id: str) -> None:
        self.reader.feed_data(encode_notification("session/cancel", {"sessionId": session_id}))

    async def answer(self, id_: int) -> dict[str, Any]:
        while True:
            for message in self.writer.messages:
                if message.get("id") == id_:
                    return cast(dict[str, Any], message)
            self.writer.written.clear()
            await self.writer.written.wait()

    async def ask(self, method: str, params: Any) -> dict[str, Any]:
        return await self.answer(self.send(method, params))

    async def open(self, **meta: Any) -> str:
        params = {"cwd": "/", "mcpServers": [], "_meta": {"gateway": meta}}
        session_id = (await self.ask("session/new", params))["result"]["sessionId"]
        assert isinstance(session_id, str)
        return session_id

    def prompt(self, session_id: str, text: str, **meta: Any) -> int:
        blocks = [{"type": "text", "text": text}]
        params = {"sessionId": session_id, "prompt": blocks, "_meta": {"gateway": meta}}
        return self.send("session/prompt", params)

    def chunks(self, kind: str = "agent_message_chunk") -> list[str]:
        updates = [
            message["params"]["update"]
            for message in self.writer.messages
            if message.get("method") == "session/update"
        ]
        return [each["content"]["text"] for each in updates if each["sessionUpdate"] == kind]

    async def close(self) -> None:
        self.reader.feed_eof()
        await self.server


class Model:
    """A model that says what the test wants and remembers what it was asked."""

    def __init__(self, *words: Any) -> None:
        self.words = words
        self.asked: list[list[ModelMessage]] = []
        self.instructions: list[str | None] = []

    async def stream(self, messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        self.asked.append(list(messages))
        self.instructions.append(info.instructions)
        for word in self.words:
            if isinstance(word, Exception):
                raise word
            if isinstance(word, asyncio.Event):
                await word.wait()
            else:
                yield word

    def texts(self) -> list[Any]:
        """Return what the last request consisted of: (role, text) for each part."""
        found = []
        for message in self.asked[-1]:
            for part in message.parts:
                role = "user" if isinstance(part, UserPromptPart) else "assistant"
                content: Any = getattr(part, "content", None)
                found.append((role, content[0] if isinstance(content, list) else content))
        return found


def llm_agent(model: Model, *, secrets: tuple[str, ...] = (), **spec: Any) -> LlmAgent:
    """Return an agent with ``model`` as the model ``fake:m``."""
    known = ModelSpec(model="fake:m")
    candidate = Candidate(known, FunctionModel(stream_function=model.stream))
    return LlmAgent(WorkerSpec(models=(known,), **spec), (candidate,), secrets)


def talk(model: Model, scenario: Callable[[Client], Any], **options: Any) -> Deferred[None]:
    """Run ``scenario(client)`` against a worker with ``model``."""

    async def whole() -> None:
        agent = llm_agent(model, **options)
        client = Client(agent)
        await scenario(client)
        await client.close()

    future = asyncio.ensure_future(asyncio.wait_for(whole(), 20))
    return Deferred.fromFuture(future)


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
        ("session/load", {"sessionId": "x"}, -32601),
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
