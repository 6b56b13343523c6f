"""A client of the model worker in this process, and a model that says what the test wants."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

from pydantic_ai import ModelProfile
from pydantic_ai.messages import ModelMessage, UserPromptPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel
from twisted.internet.defer import Deferred

from gateway.agents.jsonrpc import (
    RpcError,
    encode_error,
    encode_notification,
    encode_request,
    encode_result,
)
from gateway.agents.llmspec import ModelSpec, WorkerSecrets, WorkerSpec
from gateway.agents.workers.acp_server import AcpServer
from gateway.agents.workers.agent import LlmAgent
from gateway.agents.workers.models import Candidate


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

    def reply(self, id_: Any, result: Any) -> None:
        """Answer a question of the worker."""
        if isinstance(result, RpcError):
            self.reader.feed_data(encode_error(id_, result))
        else:
            self.reader.feed_data(encode_result(id_, result))

    async def asked(self, method: str, number: int = 1) -> dict[str, Any]:
        """Wait for the n-th question of the worker."""
        return await self.seen(
            lambda message: message.get("method") == method and "id" in message, number
        )

    async def seen(
        self, wanted: Callable[[dict[str, Any]], bool], number: int = 1
    ) -> dict[str, Any]:
        """Wait for the n-th message of the worker that is as wanted."""
        while True:
            found = [message for message in self.writer.messages if wanted(message)]
            if len(found) >= number:
                return cast(dict[str, Any], found[number - 1])
            self.writer.written.clear()
            await self.writer.written.wait()

    def updates(self, *kinds: str) -> list[dict[str, Any]]:
        """The updates of these kinds, in order."""
        found = [
            message["params"]["update"]
            for message in self.writer.messages
            if message.get("method") == "session/update"
        ]
        return [each for each in found if each["sessionUpdate"] in kinds]

    def chunks(self, kind: str = "agent_message_chunk") -> list[str]:
        return [each["content"]["text"] for each in self.updates(kind)]

    async def close(self) -> None:
        self.reader.feed_eof()
        await self.server


def call(name: str, id_: str = "call-1", **args: Any) -> dict[int, DeltaToolCall]:
    """A tool call, as a word of a model."""
    return {0: DeltaToolCall(name=name, json_args=json.dumps(args), tool_call_id=id_)}


class Model:
    """A model that says what the test wants and remembers what it was asked.

    It says ``words`` to every request, or ``steps[n]`` to the n-th one, as long as there are steps.
    """

    def __init__(self, *words: Any, steps: list[list[Any]] | None = None) -> None:
        self.words = words
        self.steps = steps or []
        self.asked: list[list[ModelMessage]] = []
        self.instructions: list[str | None] = []
        self.tools: list[list[str]] = []
        self.thinking: list[Any] = []

    async def stream(self, messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        self.asked.append(list(messages))
        self.instructions.append(info.instructions)
        self.tools.append([tool.name for tool in info.function_tools])
        self.thinking.append(info.model_request_parameters.thinking)
        for word in self.steps.pop(0) if self.steps else self.words:
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


def llm_agent(
    model: Model, *, others: tuple[Candidate, ...] = (), secrets: tuple[str, ...] = (), **spec: Any
) -> LlmAgent:
    """Return an agent with ``model`` as the model ``fake:m``."""
    known = ModelSpec(model="fake:m")
    thinks = ModelProfile(supports_thinking=True)
    candidate = Candidate(known, FunctionModel(stream_function=model.stream, profile=thinks))
    every = (candidate, *others)
    whole = WorkerSpec(
        models=tuple(each.spec for each in every), **({"workspace": "/nonexistent"} | spec)
    )
    return LlmAgent(whole, every, WorkerSecrets(models=(secrets,)))


def talk(model: Model, scenario: Callable[[Client], Any], **options: Any) -> Deferred[None]:
    """Run ``scenario(client)`` against a worker with ``model``."""

    async def whole() -> None:
        agent = llm_agent(model, **options)
        client = Client(agent)
        try:
            await scenario(client)
        finally:
            await client.close()
            await agent.close()

    future = asyncio.ensure_future(asyncio.wait_for(whole(), 20))
    return Deferred.fromFuture(future)
