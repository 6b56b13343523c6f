"""The gateway's own model worker: ``python -m gateway.agents.workers.llm --model openai-chat:NAME``.

An agent program for the Agent Client Protocol on pydantic-ai. The key for the model's API comes in the
environment variable GATEWAY_LLM_API_KEY, which is removed at once. Several sessions are served at the
same time; each remembers its newest turns. ``session/new`` takes a transcript to go on from in
``_meta.gateway.history`` (``[{role, text}]``, oldest first), ``session/prompt`` takes
``_meta.gateway.extraSystemPrompt`` and answers ``_meta.gateway {usage, provider, model}``.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import binascii
import os
import sys
import uuid
from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Any

from pydantic_ai import Agent
from pydantic_ai.agent import AgentRunEvents
from pydantic_ai.messages import (
    BinaryContent,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ThinkingPart,
    ThinkingPartDelta,
    UserContent,
    UserPromptPart,
)
from pydantic_ai.models import Model, infer_model
from pydantic_ai.settings import ModelSettings

from gateway import __version__
from gateway.agents.jsonrpc import INVALID_PARAMS, NOT_FOUND, RpcError
from gateway.agents.workers.acp_server import Update, serve_stdio, take_stdout
from gateway.agents.workers.llm_errors import provider_error

KEY_VARIABLE = "GATEWAY_LLM_API_KEY"
MAX_SESSIONS = 256
"""More than the gateway remembers of one process, so that it never asks for a forgotten one."""
MAX_TURNS = 100
MAX_CHARS = 400_000
"""What a session remembers: its newest turns, up to so many and so many characters."""


class Memory:
    """The newest turns of one conversation; a turn is kept or forgotten as a whole."""

    def __init__(self) -> None:
        self._turns: deque[tuple[int, list[ModelMessage]]] = deque()
        self._chars = 0

    def messages(self) -> list[ModelMessage]:
        """Return all that is remembered, oldest first."""
        return [message for _, turn in self._turns for message in turn]

    def add(self, turn: list[ModelMessage]) -> None:
        """Remember a turn; forget the oldest ones over the bounds."""
        chars = sum(_size(part) for message in turn for part in message.parts)
        self._turns.append((chars, turn))
        self._chars += chars
        while len(self._turns) > MAX_TURNS or (self._chars > MAX_CHARS and len(self._turns) > 1):
            self._chars -= self._turns.popleft()[0]


class LlmAgent:
    """One model, many sessions. ``secret`` must never show in an error."""

    def __init__(
        self,
        model: Model,
        *,
        provider: str,
        system_prompt: str | None = None,
        settings: ModelSettings | None = None,
        secret: str | None = None,
    ) -> None:
        self._agent = Agent(model, instructions=system_prompt, model_settings=settings)
        self._provider = provider
        self._model = model.model_name
        self._secret = secret
        self._sessions: OrderedDict[str, Memory] = OrderedDict()

    def initialize(self, params: dict[str, Any]) -> dict[str, Any]:
        """Tell what this agent can: text and images, no loading of sessions."""
        return {
            "protocolVersion": 1,
            "agentCapabilities": {
                "loadSession": False,
                "promptCapabilities": {"image": True, "audio": False, "embeddedContext": False},
                "_meta": {"gateway": {"history": True}},
            },
            "agentInfo": {"name": "gateway-llm", "title": "Model worker", "version": __version__},
            "authMethods": [],
        }

    def new_session(self, params: dict[str, Any]) -> str:
        """Open a session, with the history that came along."""
        memory = Memory()
        for turn in _past_turns(_meta(params).get("history")):
            memory.add(turn)
        session_id = uuid.uuid4().hex
        self._sessions[session_id] = memory
        if len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)
        return session_id

    async def prompt(
        self, session_id: str, params: dict[str, Any], update: Update
    ) -> dict[str, Any]:
        """Run a turn, streaming the answer."""
        memory = self._sessions.get(session_id)
        if memory is None:
            raise RpcError(NOT_FOUND, "no such session")
        self._sessions.move_to_end(session_id)
        content = _user_content(params.get("prompt"))
        extra = _meta(params).get("extraSystemPrompt")
        said: list[str] = []
        try:
            async with self._agent.run_stream_events(
                content,
                message_history=memory.messages(),
                instructions=extra if isinstance(extra, str) else None,
            ) as events:
                await self._stream(events, said, update)
                memory.add(events.new_messages())
                return self._answer(events)
        except asyncio.CancelledError:
            memory.add(_turn(content, "".join(said)))
            return {"stopReason": "cancelled"}
        except Exception as error:
            raise provider_error(
                error, provider=self._provider, model=self._model, secret=self._secret
            ) from error

    async def _stream(self, events: AgentRunEvents[str], said: list[str], update: Update) -> None:
        async for event in events:
            match event:
                case PartStartEvent(part=TextPart(content=text)):
                    pass
                case PartDeltaEvent(delta=TextPartDelta(content_delta=text)):
                    pass
                case (
                    PartStartEvent(part=ThinkingPart(content=thought))
                    | PartDeltaEvent(delta=ThinkingPartDelta(content_delta=thought))
                ):
                    if thought:
                        await update(_chunk("agent_thought_chunk", thought))
                    continue
                case _:
                    continue
            if text:
                said.append(text)
                await update(_chunk("agent_message_chunk", text))

    def _answer(self, events: AgentRunEvents[str]) -> dict[str, Any]:
        response = events.new_messages()[-1]
        reason = response.finish_reason if isinstance(response, ModelResponse) else None
        usage = events.usage
        return {
            "stopReason": {"length": "max_tokens", "content_filter": "refusal"}.get(
                reason or "", "end_turn"
            ),
            "_meta": {
                "gateway": {
                    "usage": {
                        "inputTokens": usage.input_tokens,
                        "outputTokens": usage.output_tokens,
                    },
                    "provider": self._provider,
                    "model": self._model,
                }
            },
        }


def build_model(name: str, base_url: str | None, key: str | None) -> Model:
    """Return the model ``PROVIDER:NAME``. Raises UserError if it can not be made.

    Requests are not repeated here: whoever runs the agent decides what to do about a failure.
    """
    prefix = name.partition(":")[0]
    if prefix in ("openai", "openai-chat", "openai-responses"):
        from openai import AsyncOpenAI
        from pydantic_ai.exceptions import UserError
        from pydantic_ai.providers.openai import OpenAIProvider

        if key is None and base_url is None:
            raise UserError("api_key is missing in the agent's configuration")
        # Servers on one's own machine want no key, the client wants one in any case.
        client = AsyncOpenAI(base_url=base_url, api_key=key or "none", max_retries=0)
        return infer_model(name, lambda _: OpenAIProvider(openai_client=client))
    from pydantic_ai.providers import infer_provider_class

    options = {"base_url": base_url, "api_key": key}
    given = {option: value for option, value in options.items() if value is not None}
    return infer_model(name, lambda provider: infer_provider_class(provider)(**given))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the worker until its standard input ends."""
    stdout = take_stdout()
    key = os.environ.pop(KEY_VARIABLE, None)
    options = _parse(argv)
    settings = ModelSettings()
    if options.max_tokens is not None:
        settings["max_tokens"] = options.max_tokens
    if options.temperature is not None:
        settings["temperature"] = options.temperature
    try:
        model = build_model(options.model, options.base_url, key)
    except Exception as error:
        sys.exit(f"the model can not be made: {type(error).__name__}: {error}")
    agent = LlmAgent(
        model,
        provider=options.model.partition(":")[0],
        system_prompt=options.system_prompt,
        settings=settings,
        secret=key,
    )
    asyncio.run(serve_stdio(agent, stdout))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="gateway.agents.workers.llm")
    parser.add_argument("--model", required=True, help="PROVIDER:NAME as pydantic-ai has it")
    parser.add_argument("--base-url", help="address of the API")
    parser.add_argument("--system-prompt", help="instructions for every conversation")
    parser.add_argument("--max-tokens", type=int, help="most tokens of one answer")
    parser.add_argument("--temperature", type=float)
    return parser.parse_args(argv)


def _chunk(kind: str, text: str) -> dict[str, Any]:
    return {"sessionUpdate": kind, "content": {"type": "text", "text": text}}


def _meta(params: dict[str, Any]) -> dict[str, Any]:
    meta = params.get("_meta")
    ours = meta.get("gateway") if isinstance(meta, dict) else None
    return ours if isinstance(ours, dict) else {}


def _user_content(blocks: Any) -> list[UserContent]:
    content: list[UserContent] = []
    for block in blocks if isinstance(blocks, list) else []:
        match block:
            case {"type": "text", "text": str(text)}:
                content.append(text)
            case {"type": "image", "mimeType": str(mime_type), "data": str(data)}:
                try:
                    content.append(BinaryContent(base64.b64decode(data), media_type=mime_type))
                except binascii.Error as error:
                    raise RpcError(INVALID_PARAMS, "an image is not base64") from error
            case _:
                raise RpcError(INVALID_PARAMS, "this agent takes text and images")
    if not content:
        raise RpcError(INVALID_PARAMS, "the prompt is empty")
    return content


def _turn(content: list[UserContent], answer: str) -> list[ModelMessage]:
    turn: list[ModelMessage] = [ModelRequest(parts=[UserPromptPart(content=content)])]
    if answer:
        turn.append(ModelResponse(parts=[TextPart(content=answer)]))
    return turn


def _past_turns(history: Any) -> list[list[ModelMessage]]:
    """Return a transcript as turns, each from a user's message to the next one."""
    turns: list[list[ModelMessage]] = []
    for item in history if isinstance(history, list) else []:
        match item:
            case {"role": "user", "text": str(text)}:
                turns.append([ModelRequest(parts=[UserPromptPart(content=text)])])
            case {"role": "assistant", "text": str(text)} if turns:
                turns[-1].append(ModelResponse(parts=[TextPart(content=text)]))
            case _:
                pass
    return turns


def _size(part: Any) -> int:
    content = getattr(part, "content", "")
    if isinstance(content, str):
        return len(content)
    items = content if isinstance(content, list) else [content]
    return sum(len(item.data if isinstance(item, BinaryContent) else str(item)) for item in items)


if __name__ == "__main__":
    main()
