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
from gateway.agents.workers.attempts import Restarted
from gateway.agents.workers.content import Paragraphs, chunk
from gateway.agents.workers.context import Compacted
from gateway.agents.workers.conversation import Conversation
from gateway.agents.workers.llm_errors import provider_error
from gateway.agents.workers.models import Candidate
from gateway.agents.workers.recovery import Recovery
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
    recovery: Recovery | None = None
    """What passes requests on and shortens the conversation; without it the first model is all there is."""
    notice: str | None = None
    """What people should know of the model that was asked for."""


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
        self._calls: dict[str, int] = {}
        self._over = False
        self._said = 0
        self._apart = Paragraphs()

    async def notify(self, stream: str, data: dict[str, Any]) -> None:
        """Tell the gateway what is going on (``_gateway/event``)."""
        told = {"sessionId": self.conversation.session_id, "stream": stream, "data": data}
        await self._client.notify("_gateway/event", told)

    def model(self) -> Model:
        """Return the model that the run is made with."""
        recovery = self._options.recovery
        if recovery is None:
            return self.candidates[0].model
        return recovery.model(
            self.conversation,
            self.candidates,
            notify=self.notify,
            compacted=self.compacted,
            chosen=self.choose,
            spent=self.usage.add,
        )

    def choose(self, candidate: Candidate) -> None:
        """Take note of the candidate that the request goes to now."""
        self.current = candidate

    async def compacted(self, done: Compacted) -> None:
        """Tell the gateway what the conversation became (``_gateway/compacted``)."""
        told = {"sessionId": self.conversation.session_id, **done.shape()}
        await self._client.notify("_gateway/compacted", told)

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
            "toolCallId": self._call_id(what.tool_call_id),
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
            if options.notice is not None:
                await self.notify("notice", {"kind": "model", "text": options.notice})
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
            begun = state.new_messages() if state is not None else []
            self._keep(begun or [ModelRequest(parts=[UserPromptPart(content=content)])])
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
            case Restarted():
                await self._take_back()
            case PartStartEvent(part=TextPart(content=text), index=index):
                self._begin(index)
                await self._say("agent_message_chunk", text)
            case PartDeltaEvent(delta=TextPartDelta(content_delta=text)):
                await self._say("agent_message_chunk", text)
            case PartStartEvent(part=ThinkingPart(content=text), index=index):
                self._begin(index)
                await self._say("agent_thought_chunk", text)
            case PartDeltaEvent(delta=ThinkingPartDelta(content_delta=thought)):
                await self._say("agent_thought_chunk", thought or "")
            case PartStartEvent(index=index):
                self._begin(index)
            case FunctionToolCallEvent(part=call):
                self._apart.tool()
                self._calls[call.tool_call_id] = self._calls.get(call.tool_call_id, 0) + 1
                report = call_report(call, self._call_id(call.tool_call_id))
                await self._client.update(self.conversation.session_id, report)
            case FunctionToolResultEvent(part=result):
                report = result_report(result, self._call_id(result.tool_call_id))
                await self._client.update(self.conversation.session_id, report)
            case EnqueuedMessagesEvent(enqueue_id=id_):
                self._steered.waiting.pop(id_, None)
                self._apart.steered()
            case _:
                pass

    def _begin(self, index: int) -> None:
        """Take note of a part of an answer; the first one begins the answer to another request."""
        if index == 0:
            self._said = 0
            self._apart.request()

    async def _take_back(self) -> None:
        """Tell the gateway to forget the text of the request that begins anew."""
        if self._said:
            await self.notify("assistant", {"takeBack": self._said})
        self._said = 0
        self._apart.taken_back()

    def _call_id(self, id_: str) -> str:
        """Return what clients know a call by: models that number the calls of each response repeat ids."""
        number = self._calls.get(id_, 1)
        return id_ if number == 1 else f"{id_}-{number}"

    async def _say(self, kind: str, text: str) -> None:
        if text and kind == "agent_message_chunk":
            text = self._apart.before() + text
            self._said += len(text)
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
        for content in missed:
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
