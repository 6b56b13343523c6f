"""One request on its way through a chain of models: attempts, one after the other, and what is told of them.

What follows a failure is decided by :mod:`gateway.core.failover`; here it is done.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, Protocol

from pydantic_ai.exceptions import (
    ContentFilterError,
    ModelContextWindowExceededError,
    UserError,
)
from pydantic_ai.messages import (
    ModelMessage,
    ModelResponse,
    ModelResponseStreamEvent,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
)
from pydantic_ai.models import ModelRequestParameters, StreamedResponse
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import RunContext
from pydantic_ai.usage import RequestUsage

from gateway.agents.workers.faults import EmptyAnswer, Fault, StreamCut, classify
from gateway.agents.workers.llm_errors import ChainExhausted
from gateway.agents.workers.models import Candidate
from gateway.core import failover
from gateway.core.cooldown import Cooldowns

Notify = Callable[[str, dict[str, Any]], Awaitable[None]]


MAX_ANSWER_CHARS = 4_000_000
"""What one answer may have of text, thoughts and arguments of tool calls, in all."""


class Restarted(PartStartEvent):
    """What was streamed of this request's answer before is void; the answer begins anew."""


class Context(Protocol):
    """Keeps a conversation within the window of the model that it goes to."""

    async def fit(
        self, messages: list[ModelMessage], parameters: ModelRequestParameters, candidate: Candidate
    ) -> list[ModelMessage]:
        """Return what to send. Raises an error that counts as an overflow if nothing fits."""

    @property
    def can_shorten(self) -> bool:
        """Whether :meth:`shorten` may still be called in this turn."""

    async def shorten(self, candidate: Candidate, error: BaseException) -> str | None:
        """Shorten after the model refused the size; return None, or why it is no shorter now."""

    def measured(self, candidate: Candidate, usage: RequestUsage) -> None:
        """Learn how many tokens the request had that was answered."""


@dataclass
class Shared:
    """What outlives a turn: what rests, and how times are taken.

    :ivar seconds: a monotonic clock.
    :ivar jitter: a number from 0 to 1, another each time.
    """

    policy: failover.Policy
    cooldowns: Cooldowns
    idle_s: float = 60.0
    secrets: Sequence[str] = ()
    seconds: Callable[[], float] = time.monotonic
    jitter: Callable[[], float] = random.random
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    finishing: set[str] = field(default_factory=set)
    """Models known to end each answer with a reason: one without has been cut off."""


@dataclass
class Chain:
    """The candidates of a turn, the first choice first, and who is told what becomes of a request.

    :ivar chosen: called with the candidate that a request goes to, before each attempt.
    :ivar spent: called with what an attempt that broke off has cost.
    """

    candidates: tuple[Candidate, ...]
    shared: Shared
    notify: Notify
    chosen: Callable[[Candidate], None]
    spent: Callable[[Candidate, ModelResponse], None] | None = None
    context: Context | None = None


class ChainRequest:
    """One request on its way through the chain."""

    def __init__(
        self,
        chain: Chain,
        messages: list[ModelMessage],
        settings: ModelSettings | None,
        parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None,
    ) -> None:
        self._chain = chain
        self._shared = chain.shared
        self._messages = messages
        self._settings = settings
        self._parameters = parameters
        self._run_context = run_context
        self._history: list[failover.Attempt] = []
        self._waited = 0.0
        self._since = self._shared.seconds()
        self._error: BaseException | None = None
        self._may_shorten = True
        self._stack = AsyncExitStack()
        self._events: AsyncIterator[ModelResponseStreamEvent] | None = None
        self._first: ModelResponseStreamEvent | None = None
        self._last_step: tuple[Candidate, Fault] | None = None
        self.candidate = chain.candidates[0]
        self.stream: StreamedResponse | None = None

    async def begin(self) -> None:
        """Try until an answer begins. Raises ChainExhausted, or what the only candidate raised."""
        while True:
            decision = self._decide()
            match decision:
                case failover.Shorten():
                    await self._shorten()
                    continue
                case failover.Exhausted():
                    await self._give_up(decision)
            await self._attempt(decision)
            if self._first is not None:
                return

    async def events(self) -> AsyncIterator[ModelResponseStreamEvent]:
        """The events of the answer, begun anew as often as it breaks off."""
        while True:
            assert self._events is not None
            assert self._first is not None
            yield self._first
            try:
                async for event in self._paced(self._events):
                    yield event
                self._complete()
            except Exception as error:
                await self._failed(error)
                yield Restarted(index=0, part=TextPart(content=""))
                await self.begin()
                continue
            await self._succeeded()
            return

    async def close(self) -> None:
        """Let go of the connection."""
        stack, self._stack = self._stack, AsyncExitStack()
        self._events = None
        await stack.aclose()

    def _decide(self) -> failover.Decision:
        shared, context = self._shared, self._chain.context
        now = shared.seconds()
        known = self._known()
        return failover.next_attempt(
            shared.policy,
            [known[name] for name in dict.fromkeys(known)],
            self._history,
            shared.cooldowns,
            now=now,
            waited_s=self._waited + (now - self._since),
            can_shorten=self._may_shorten and context is not None and context.can_shorten,
        )

    def _known(self) -> dict[str, failover.Candidate]:
        keys: dict[str, list[str]] = {}
        windows: dict[str, int | None] = {}
        for each in self._chain.candidates:
            keys.setdefault(each.spec.ref, []).append(key_name(each))
            windows[each.spec.ref] = each.context_window
        return {
            name: failover.Candidate(name, tuple(names), windows[name])
            for name, names in keys.items()
        }

    async def _attempt(self, decision: failover.NextAttempt) -> None:
        self.candidate = next(
            each
            for each in self._chain.candidates
            if each.spec.ref == decision.candidate and key_name(each) == decision.key
        )
        await self._tell_step("next_fallback", decision.candidate)
        if decision.delay_s:
            await self._shared.sleep(decision.delay_s)
        self._chain.chosen(self.candidate)
        messages = self._messages
        try:
            if self._chain.context is not None:
                began = self._shared.seconds()
                messages = await self._chain.context.fit(messages, self._parameters, self.candidate)
                self._since += self._shared.seconds() - began
            async with asyncio.timeout(decision.timeout_s):
                await self._open(messages)
        except Exception as error:
            await self._failed(error)
            return
        self._waited += self._shared.seconds() - self._since
        told = {"phase": "model", "provider": self.candidate.provider, "model": self.candidate.id}
        await self._chain.notify("lifecycle", told)

    async def _open(self, messages: list[ModelMessage]) -> None:
        model = self.candidate.model
        prepared = model.prepare_messages(messages, self._parameters)
        self.stream = await self._stack.enter_async_context(
            model.request_stream(prepared, self._settings, self._parameters, self._run_context)
        )
        self._events = aiter(self.stream)
        try:
            self._first = await anext(self._events)
        except StopAsyncIteration:
            self._complete()
            raise EmptyAnswer("the model gave no answer") from None

    async def _paced(
        self, events: AsyncIterator[ModelResponseStreamEvent]
    ) -> AsyncIterator[ModelResponseStreamEvent]:
        size = 0
        while True:
            try:
                async with asyncio.timeout(self._shared.idle_s):
                    event = await anext(events)
            except StopAsyncIteration:
                return
            size += _size(event)
            if size > MAX_ANSWER_CHARS:
                raise EmptyAnswer(f"the answer has more than {MAX_ANSWER_CHARS} characters")
            yield event

    def _complete(self) -> None:
        """Raise for an answer that is none."""
        assert self.stream is not None
        response = self.stream.get()
        model = self.candidate.model.model_name
        empty = not any(not isinstance(part, TextPart) or part.content for part in response.parts)
        if response.finish_reason == "content_filter" and (
            empty or self._shared.policy.failover_refusal
        ):
            raise ContentFilterError("the provider's filter ended the answer")
        ref, reason = (
            self.candidate.spec.ref,
            (response.provider_details or {}).get("finish_reason"),
        )
        if reason:
            self._shared.finishing.add(ref)
        elif ref in self._shared.finishing:
            raise StreamCut(model, "the stream ended before the answer did")
        if empty:
            raise EmptyAnswer("the model gave no answer")

    async def _succeeded(self) -> None:
        assert self.stream is not None
        self._shared.cooldowns.answered(self.candidate.spec.ref, key_name(self.candidate))
        if self._chain.context is not None:
            self._chain.context.measured(self.candidate, self.stream.usage)
        if self._last_step is not None:
            await self._tell_step("succeeded", self.candidate.spec.ref)

    async def _failed(self, error: Exception) -> None:
        """Note a failed attempt."""
        if isinstance(error, UserError):
            raise error
        shared, candidate = self._shared, self.candidate
        fault = classify(error, shared.secrets)
        if self._first is not None:  # it was streaming
            self._since = shared.seconds()
            if self.stream is not None and self._chain.spent is not None:
                self._chain.spent(candidate, self.stream.get())
        self._first = None
        self._error = error
        shared.cooldowns.note(
            candidate.spec.ref,
            key_name(candidate),
            fault.failure,
            now=shared.seconds(),
            retry_after_s=fault.retry_after_s,
            jitter=shared.jitter(),
        )
        self._history.append(
            failover.Attempt(candidate.spec.ref, key_name(candidate), fault.failure, fault.detail)
        )
        self._last_step = (candidate, fault)
        with suppress(Exception):  # what a broken connection says at its end adds nothing
            await self.close()

    async def _shorten(self) -> None:
        context, error = self._chain.context, self._error
        assert context is not None
        assert error is not None
        began = self._shared.seconds()
        advice = await context.shorten(self.candidate, error)
        # If it is shorter, the same model is asked again: its failure was the conversation's.
        attempt = self._history.pop()
        if advice is None:
            self._last_step = None
        else:
            self._may_shorten = False
            self._history.append(replace(attempt, detail=advice))
            name = self.candidate.model.model_name
            self._error = ModelContextWindowExceededError(name, advice)
            self._error.__cause__ = error
        self._since += self._shared.seconds() - began

    async def _give_up(self, decision: failover.Exhausted) -> NoReturn:
        if self._last_step is not None and len(self._known()) > 1:
            await self._tell_step("chain_exhausted", None)
        if self._error is not None and len(decision.reasons) == 1:
            raise self._error
        first = self._chain.candidates[0]
        raise ChainExhausted(
            decision.message, decision.failure, first.provider, first.id
        ) from self._error

    async def _tell_step(self, outcome: str, to: str | None) -> None:
        if self._last_step is None:
            return
        candidate, fault = self._last_step
        step: dict[str, Any] = {
            "phase": "fallback_step",
            "fallbackStepType": "fallback_step",
            "fallbackStepFromModel": candidate.spec.ref,
            "fallbackStepFromFailureReason": fault.failure.reason,
            "fallbackStepChainPosition": len(self._history),
            "fallbackStepFinalOutcome": outcome,
        }
        if fault.detail:
            step["fallbackStepFromFailureDetail"] = fault.detail
        if to is not None:
            step["fallbackStepToModel"] = to
        await self._chain.notify("lifecycle", step)


def _size(event: ModelResponseStreamEvent) -> int:
    if not isinstance(event, PartDeltaEvent):
        return 0
    delta: Any = event.delta
    args = getattr(delta, "args_delta", None)
    text = args if isinstance(args, str) else getattr(delta, "content_delta", None)
    return len(text or "")


def key_name(candidate: Candidate) -> str:
    """Return what stands for a candidate's key: not the key, and the same for no other model's."""
    return f"{candidate.spec.ref}#{candidate.key}"
