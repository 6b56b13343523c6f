"""One turn of a conversation: requests to the model, tools, what it streams, what it used."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic_ai import Agent
from pydantic_ai.agent import AgentRunEvents
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.exceptions import RunCancelled, UsageLimitExceeded, UserError
from pydantic_ai.messages import (
    EnqueuedMessagesEvent,
    FunctionToolCallEvent,
    FunctionToolResultEvent,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ThinkingPart,
    ThinkingPartDelta,
    ToolReturnPart,
    UserContent,
    UserPromptPart,
)
from pydantic_ai.models import Model, ModelRequestContext
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import RunContext
from pydantic_ai.toolsets import AbstractToolset
from pydantic_ai.usage import UsageLimits

from gateway.agents.jsonrpc import RpcError
from gateway.agents.workers.acp_server import Client
from gateway.agents.workers.content import chunk
from gateway.agents.workers.conversation import Conversation
from gateway.agents.workers.llm_errors import provider_error
from gateway.agents.workers.models import Candidate
from gateway.agents.workers.toolspec import Permission, call_report, result_report
from gateway.agents.workers.usage import TurnUsage

PERMISSION_OPTIONS = [
    {"optionId": "allow_once", "name": "Allow once", "kind": "allow_once"},
    {"optionId": "allow_always", "name": "Always allow this command", "kind": "allow_always"},
    {"optionId": "reject_once", "name": "Reject", "kind": "reject_once"},
]
MAX_STEERED = 32
"""Messages that may wait for the next request of a turn."""
ALIVE_S = 15.0
"""A turn that goes on gives a sign of life so often; the gateway kills a process that is silent for long."""
STOP_REASONS = {"length": "max_tokens", "content_filter": "refusal"}


@dataclass(frozen=True)
class TurnOptions:
    """What a turn is run with, beside its prompt."""

    instructions: str | None = None
    toolsets: Sequence[AbstractToolset[Any]] = ()
    settings: ModelSettings | None = None
    max_requests: int = 50
    secrets: Sequence[str] = ()


@dataclass
class _Steered:
    """Messages for the turn that it was given on the way, by the library's id once it has them."""

    early: list[list[UserContent]] = field(default_factory=list)
    waiting: dict[str, list[UserContent]] = field(default_factory=dict)


class Turn:
    """Runs one prompt.

    :ivar conversation: what was said before; the turn is added to it when it ends.
    :ivar candidates: the models for it, the first choice first.
    :ivar current: the one that the request which goes on was given to. Whoever passes a request from
        one candidate to another sets it before each attempt.
    """

    def __init__(
        self,
        agent: Agent[Any, str],
        conversation: Conversation,
        candidates: Sequence[Candidate],
        client: Client,
        options: TurnOptions = TurnOptions(),
    ) -> None:
        self.conversation = conversation
        self.candidates = tuple(candidates)
        self.current = self.candidates[0]
        self.usage = TurnUsage()
        self._agent = agent
        self._client = client
        self._options = options
        self._context: RunContext[Any] | None = None
        self._steered = _Steered()
        self._over = False

    async def notify(self, stream: str, data: dict[str, Any]) -> None:
        """Tell the gateway what is going on (``_gateway/event``)."""
        told = {"sessionId": self.conversation.session_id, "stream": stream, "data": data}
        await self._client.notify("_gateway/event", told)

    def model(self) -> Model:
        """Return the model that the run is made with."""
        return self.candidates[0].model

    def capabilities(self) -> list[AbstractCapability[Any]]:
        """Return what takes part in every request of the run."""
        return [Hooks(self)]

    def begun(self, context: RunContext[Any]) -> None:
        """Take the run's own queue of messages, and give it those that came before it."""
        self._context = context
        early, self._steered.early = self._steered.early, []
        for content in early:
            self._enqueue(context, content)

    def answered(self, response: ModelResponse) -> None:
        """Take note of a response of :attr:`current`."""
        self.usage.add(self.current, response)

    def steer(self, content: list[UserContent]) -> bool:
        """Give the turn one more message of the user, before its next request; whether it was taken.

        A turn that would end takes another request for it. One that is broken off leaves the message
        in the conversation, for the next turn.
        """
        waiting = len(self._steered.early) + len(self._steered.waiting)
        if self._over or waiting >= MAX_STEERED:
            return False
        if self._context is None:
            self._steered.early.append(content)
            return True
        try:
            return self._enqueue(self._context, content)
        except UserError:
            return False

    async def permitted(self, what: Permission) -> bool:
        """Ask the gateway's operator; what was allowed always in this session is not asked again."""
        key = (str(what.raw_input.get("command")), str(what.raw_input.get("cwd")))
        if key in self.conversation.allowed:
            return True
        call = {
            "toolCallId": what.tool_call_id,
            "title": what.title,
            "kind": "execute",
            "status": "pending",
            "rawInput": what.raw_input,
        }
        params = {
            "sessionId": self.conversation.session_id,
            "toolCall": call,
            "options": PERMISSION_OPTIONS,
        }
        try:
            answer = await self._client.ask("session/request_permission", params)
        except RpcError:
            return False
        match answer:
            case {"outcome": {"outcome": "selected", "optionId": "allow_always"}}:
                self.conversation.allow(key)
                return True
            case {"outcome": {"outcome": "selected", "optionId": "allow_once"}}:
                return True
        return False

    async def run(self, content: list[UserContent]) -> dict[str, Any]:
        """Run it, streaming the answer; return the answer to the prompt. Raises RpcError."""
        options = self._options
        alive = asyncio.create_task(self._live())
        try:
            async with self._agent.run_stream_events(
                content,
                deps=self,
                message_history=self.conversation.messages(),
                instructions=options.instructions,
                model=self.model(),
                model_settings=options.settings,
                toolsets=options.toolsets,
                capabilities=self.capabilities(),
                usage_limits=UsageLimits(request_limit=options.max_requests),
            ) as events:
                return await self._watch(events)
        except asyncio.CancelledError as cancelled:
            state = RunCancelled.from_cancellation(cancelled)
            self._keep(state.new_messages() if state is not None else [])
            return {"stopReason": "cancelled"}
        except RpcError:
            raise
        except Exception as error:
            raise provider_error(
                error,
                provider=self.current.provider,
                model=self.current.id,
                secrets=options.secrets,
            ) from error
        finally:
            self._over = True
            alive.cancel()

    async def _live(self) -> None:
        """Show that this process lives, however long a model thinks or a tool works without a word."""
        while True:
            await asyncio.sleep(ALIVE_S)
            told = {"sessionId": self.conversation.session_id}
            await self._client.notify("_gateway/alive", told)

    async def _watch(self, events: AgentRunEvents[str]) -> dict[str, Any]:
        try:
            async for event in events:
                await self._report(event)
        except UsageLimitExceeded:
            self._keep(events.new_messages())
            return self._answer("max_turn_requests")
        except Exception:
            messages = _new_messages(events)
            tools = any(
                isinstance(part, ToolReturnPart) for each in messages for part in each.parts
            )
            if tools or self._steered.early or self._steered.waiting:
                # What tools have done stays done, and what was accepted stays said.
                self._keep(messages)
            raise
        messages = events.new_messages()
        self._keep(messages)
        response = messages[-1]
        reason = response.finish_reason if isinstance(response, ModelResponse) else None
        return self._answer(STOP_REASONS.get(reason or "", "end_turn"))

    async def _report(self, event: Any) -> None:
        match event:
            case PartStartEvent(part=TextPart(content=text)):
                await self._say("agent_message_chunk", text)
            case PartDeltaEvent(delta=TextPartDelta(content_delta=text)):
                await self._say("agent_message_chunk", text)
            case PartStartEvent(part=ThinkingPart(content=text)):
                await self._say("agent_thought_chunk", text)
            case PartDeltaEvent(delta=ThinkingPartDelta(content_delta=thought)):
                await self._say("agent_thought_chunk", thought or "")
            case FunctionToolCallEvent(part=call):
                await self._client.update(self.conversation.session_id, call_report(call))
            case FunctionToolResultEvent(part=result):
                await self._client.update(self.conversation.session_id, result_report(result))
            case EnqueuedMessagesEvent(enqueue_id=id_):
                self._steered.waiting.pop(id_, None)
            case _:
                pass

    async def _say(self, kind: str, text: str) -> None:
        if text:
            await self._client.update(self.conversation.session_id, chunk(kind, text))

    def _enqueue(self, context: RunContext[Any], content: list[UserContent]) -> bool:
        id_ = context.enqueue(*content)
        if id_ is not None:
            self._steered.waiting[id_] = content
        return id_ is not None

    def _keep(self, messages: Sequence[ModelMessage]) -> None:
        """Remember the turn as far as it went, and what it was told but had no time to heed."""
        kept = [each for each in messages if not isinstance(each, ModelResponse) or each.parts]
        missed = [*self._steered.early, *self._steered.waiting.values()]
        for content in missed if kept else []:
            kept.append(ModelRequest(parts=[UserPromptPart(content=content)]))
        self.conversation.add(kept)

    def _answer(self, stop_reason: str) -> dict[str, Any]:
        meta = {
            "usage": self.usage.shape(),
            "provider": self.current.provider,
            "model": self.current.id,
        }
        return {"stopReason": stop_reason, "_meta": {"gateway": meta}}


class Hooks(AbstractCapability[Any]):
    """What the turn itself has to do around every request."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn

    async def before_run(self, ctx: RunContext[Any]) -> None:
        """Take the queue of messages."""
        self._turn.begun(ctx)

    async def after_model_request(
        self,
        ctx: RunContext[Any],
        *,
        request_context: ModelRequestContext,
        response: ModelResponse,
    ) -> ModelResponse:
        """Count the response."""
        self._turn.answered(response)
        return response


def _new_messages(events: AgentRunEvents[str]) -> list[ModelMessage]:
    """Return what a run that failed had come to; nothing if it had not begun."""
    try:
        return events.new_messages()
    except UserError:
        return []
