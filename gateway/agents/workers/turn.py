"""One turn of a conversation: requests to the model, what it streams, what it used."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from pydantic_ai import Agent
from pydantic_ai.agent import AgentRunEvents
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.exceptions import RunCancelled
from pydantic_ai.messages import (
    ModelMessage,
    ModelResponse,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ThinkingPart,
    ThinkingPartDelta,
    UserContent,
)
from pydantic_ai.models import Model, ModelRequestContext
from pydantic_ai.tools import RunContext

from gateway.agents.workers.acp_server import Client
from gateway.agents.workers.content import chunk
from gateway.agents.workers.conversation import Conversation
from gateway.agents.workers.llm_errors import provider_error
from gateway.agents.workers.models import Candidate


class Turn:
    """Runs one prompt.

    :ivar conversation: what was said before; the turn is added to it when it ends.
    :ivar candidates: the models for it, the first choice first.
    :ivar current: the one that the request which goes on was given to. Whoever passes a request from
        one candidate to another sets it before each attempt.
    """

    def __init__(
        self,
        agent: Agent[None, str],
        conversation: Conversation,
        candidates: Sequence[Candidate],
        client: Client,
        secrets: Sequence[str] = (),
    ) -> None:
        self.conversation = conversation
        self.candidates = tuple(candidates)
        self.current = self.candidates[0]
        self._agent = agent
        self._client = client
        self._secrets = secrets

    async def notify(self, stream: str, data: dict[str, Any]) -> None:
        """Tell the gateway what is going on (``_gateway/event``)."""
        told = {"sessionId": self.conversation.session_id, "stream": stream, "data": data}
        await self._client.notify("_gateway/event", told)

    def model(self) -> Model:
        """Return the model that the run is made with."""
        return self.candidates[0].model

    def capabilities(self) -> list[AbstractCapability[None]]:
        """Return what takes part in every request of the run."""
        return [Hooks(self)]

    def answered(self, response: ModelResponse) -> None:
        """Take note of a response of :attr:`current`."""

    async def run(self, content: list[UserContent], extra: str | None) -> dict[str, Any]:
        """Run it, streaming the answer; return the answer to the prompt. Raises RpcError."""
        try:
            async with self._agent.run_stream_events(
                content,
                message_history=self.conversation.messages(),
                instructions=extra,
                model=self.model(),
                capabilities=self.capabilities(),
            ) as events:
                await self._stream(events)
                self.conversation.add(events.new_messages())
                return self._answer(events)
        except asyncio.CancelledError as cancelled:
            state = RunCancelled.from_cancellation(cancelled)
            self.conversation.add(_said(state.new_messages()) if state is not None else [])
            return {"stopReason": "cancelled"}
        except Exception as error:
            raise provider_error(
                error,
                provider=self.current.provider,
                model=self.current.id,
                secrets=self._secrets,
            ) from error

    async def _stream(self, events: AgentRunEvents[str]) -> None:
        async for event in events:
            match event:
                case PartStartEvent(part=TextPart(content=text)):
                    await self._say("agent_message_chunk", text)
                case PartDeltaEvent(delta=TextPartDelta(content_delta=text)):
                    await self._say("agent_message_chunk", text)
                case PartStartEvent(part=ThinkingPart(content=text)):
                    await self._say("agent_thought_chunk", text)
                case PartDeltaEvent(delta=ThinkingPartDelta(content_delta=thought)):
                    await self._say("agent_thought_chunk", thought or "")
                case _:
                    pass

    async def _say(self, kind: str, text: str) -> None:
        if text:
            await self._client.update(self.conversation.session_id, chunk(kind, text))

    def _answer(self, events: AgentRunEvents[str]) -> dict[str, Any]:
        response = events.new_messages()[-1]
        reason = response.finish_reason if isinstance(response, ModelResponse) else None
        usage = events.usage
        counts = {"inputTokens": usage.input_tokens, "outputTokens": usage.output_tokens}
        meta = {"usage": counts, "provider": self.current.provider, "model": self.current.id}
        reasons = {"length": "max_tokens", "content_filter": "refusal"}
        return {
            "stopReason": reasons.get(reason or "", "end_turn"),
            "_meta": {"gateway": meta},
        }


class Hooks(AbstractCapability[None]):
    """What the turn itself has to do around every request."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn

    async def after_model_request(
        self,
        ctx: RunContext[None],
        *,
        request_context: ModelRequestContext,
        response: ModelResponse,
    ) -> ModelResponse:
        """Count the response."""
        self._turn.answered(response)
        return response


def _said(messages: Sequence[ModelMessage]) -> list[ModelMessage]:
    """Return a broken-off turn without responses in which nothing was said yet."""
    return [each for each in messages if not isinstance(each, ModelResponse) or each.parts]
