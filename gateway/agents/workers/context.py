"""Keeps a conversation within the model's window: older turns become a summary.

It is done before a request that would be too long, and after one that the model found too long; in the
middle of a turn as well. The plan is :mod:`gateway.core.compaction`'s.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic_ai.exceptions import ModelContextWindowExceededError
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, UserPromptPart
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.usage import RequestUsage

from gateway.agents.llmpolicy import ContextConfig
from gateway.agents.workers.conversation import SUMMARY_HEAD, Conversation
from gateway.agents.workers.faults import overflow_sizes
from gateway.agents.workers.models import Candidate
from gateway.agents.workers.transcript import (
    cut_results,
    message_units,
    overhead_units,
    piece,
)
from gateway.core.compaction import SAFETY, Estimator, Impossible, Limits, Plan, fits, plan

MAX_RESERVE = 8_192
MAX_RESULT = 1_000
"""Most tokens that are left of a tool result which is cut."""
GIVEN_UP = "it was shortened as often as allowed; start anew with /reset, or use a model with a larger window"

Notify = Callable[[str, dict[str, Any]], Awaitable[None]]
Summarise = Callable[[Sequence[ModelMessage], int, Candidate], Awaitable[str]]
"""Returns a summary of messages, of at most so many tokens, made for a candidate's window."""


@dataclass(frozen=True, slots=True)
class Compacted:
    """What became of a conversation; sizes are estimates in tokens."""

    summary: str
    kept_messages: int
    tokens_before: int
    tokens_after: int

    def shape(self) -> dict[str, Any]:
        """Return it as the gateway is told."""
        return {
            "summary": self.summary,
            "keptMessages": self.kept_messages,
            "tokensBefore": self.tokens_before,
            "tokensAfter": self.tokens_after,
        }


@dataclass
class Sizes:
    """What was learned of models' windows and of the size of texts; it outlives turns."""

    windows: dict[str, int] = field(default_factory=dict)
    estimators: dict[str, Estimator] = field(default_factory=dict)

    def estimator(self, candidate: Candidate) -> Estimator:
        """Return the one of a model."""
        return self.estimators.setdefault(candidate.spec.ref, Estimator())

    def window(self, candidate: Candidate) -> int | None:
        """Return a model's window in tokens: what its provider said, or what is configured or known."""
        return self.windows.get(candidate.spec.ref) or candidate.context_window

    def limits(self, candidate: Candidate, config: ContextConfig, overhead: int) -> Limits | None:
        """Return what a request to a model has to fit into, or None if nobody knows."""
        window = self.window(candidate)
        if window is None:
            return None
        reserve = config.reserve_tokens or candidate.spec.max_tokens
        reserve = min(reserve or min(MAX_RESERVE, window // 5), window // 2)
        return Limits(
            window=window,
            reserve=reserve,
            overhead=overhead,
            summary=min(config.summary_tokens, window // 4),
            result=min(MAX_RESULT, max(20, window // 20)),
            target=config.target,
        )


class ContextKeeper:
    """Keeps one turn's conversation within the window (:class:`gateway.agents.workers.chain.Context`)."""

    def __init__(
        self,
        conversation: Conversation,
        config: ContextConfig,
        sizes: Sizes,
        summarise: Summarise,
        *,
        notify: Notify,
        compacted: Callable[[Compacted], Awaitable[None]],
    ) -> None:
        self._conversation = conversation
        self._config = config
        self._sizes = sizes
        self._summarise = summarise
        self._notify = notify
        self._compacted = compacted
        self._view: list[ModelMessage] | None = None
        self._seen = 0
        self._past = len(conversation.messages())
        self._attempts = 0
        self._refused = False
        self._parameters = ModelRequestParameters()
        self._sent: list[ModelMessage] = []

    @property
    def can_shorten(self) -> bool:
        """Whether the turn may shorten its conversation once more."""
        return self._config.compaction and self._attempts < self._config.attempts

    async def fit(
        self, messages: list[ModelMessage], parameters: ModelRequestParameters, candidate: Candidate
    ) -> list[ModelMessage]:
        """Return what to send to a candidate. Raises ModelContextWindowExceededError if nothing fits."""
        self._parameters = parameters
        view = self._sent = self._follow(messages)
        limits = self._limits(view, candidate)
        while limits is not None and self.can_shorten:
            pieces = self._pieces(view, candidate)
            if fits(pieces, limits):
                break
            made = plan(pieces, limits)
            if isinstance(made, Impossible):
                if made.least / SAFETY > limits.room and not self._may_be_larger(candidate):
                    name = candidate.model.model_name
                    raise ModelContextWindowExceededError(name, made.message)
                break  # the estimate may be too high: the model will tell
            await self._carry_out(made, limits, candidate)
            view = self._sent = self._view or view
        return view

    def _may_be_larger(self, candidate: Candidate) -> bool:
        """Whether a window that a server told in an earlier turn may have grown since: it is asked then."""
        return not self._refused and candidate.spec.ref in self._sizes.windows

    async def shorten(self, candidate: Candidate, error: BaseException) -> str | None:
        """Shorten after a model refused the size. Return None, or the advice if that can not be."""
        self._refused = True
        if not self.can_shorten:
            return GIVEN_UP
        view = self._sent
        limits = self._learn(view, candidate, error)
        made = plan(self._pieces(view, candidate), limits)
        if isinstance(made, Impossible):
            return made.message
        await self._carry_out(made, limits, candidate)
        return None

    def measured(self, candidate: Candidate, usage: RequestUsage) -> None:
        """Learn how many tokens the request had that was answered."""
        self._sizes.estimator(candidate).measured(self._units(self._sent), usage.input_tokens)
        learned = self._sizes.windows.get(candidate.spec.ref)
        if learned is not None and usage.input_tokens > learned:
            del self._sizes.windows[candidate.spec.ref]

    async def compact(self, candidate: Candidate) -> Compacted | None:
        """Put all but the last turn into a summary because somebody asks; None if that saves nothing."""
        view = self._conversation.messages()
        turns = self._conversation.turns
        kept = range(len(view) - len(turns[-1]) if turns else 0, len(view))
        pieces = self._pieces(view, candidate)
        before = sum(each.tokens for each in pieces)
        after = sum(pieces[n].tokens for n in kept)
        room = before - after - 1
        window = self._sizes.window(candidate)
        limits = self._sizes.limits(candidate, self._config, 0) or Limits(
            window=window or 2 * before, reserve=0, summary=self._config.summary_tokens
        )
        summary = min(limits.summary, room)
        if len(turns) < 2 or summary < 1:
            return None
        made = Plan(tuple(kept), False, before, after + summary)
        limits = Limits(window=limits.window, reserve=limits.reserve, summary=summary)
        self._view = view
        return await self._carry_out(made, limits, candidate, will_retry=False)

    def _follow(self, messages: list[ModelMessage]) -> list[ModelMessage]:
        """Return the run's messages with what was shortened in the place of what it stands for."""
        if self._view is None or len(messages) < self._seen:
            self._view = list(messages)
        else:
            self._view = [*self._view, *messages[self._seen :]]
        self._seen = len(messages)
        return self._view

    def _pieces(self, view: Sequence[ModelMessage], candidate: Candidate) -> list[Any]:
        estimator = self._sizes.estimator(candidate)
        return [piece(message, estimator) for message in view]

    def _units(self, view: Sequence[ModelMessage]) -> int:
        return overhead_units(view, self._parameters) + sum(message_units(each) for each in view)

    def _limits(self, view: Sequence[ModelMessage], candidate: Candidate) -> Limits | None:
        overhead = self._sizes.estimator(candidate).tokens(overhead_units(view, self._parameters))
        return self._sizes.limits(candidate, self._config, overhead)

    def _learn(
        self, view: Sequence[ModelMessage], candidate: Candidate, error: BaseException
    ) -> Limits:
        """Take in what an overflow says of the window and of the estimate."""
        asked, window = overflow_sizes(error)
        estimator = self._sizes.estimator(candidate)
        all_units = self._units(view)
        if window is not None:
            self._sizes.windows[candidate.spec.ref] = window
        known = self._sizes.window(candidate)
        if asked is not None:
            estimator.measured(all_units, asked)
        elif known is not None and estimator.tokens(all_units) <= known:
            # It took the request for smaller than it is.
            estimator.measured(all_units, round(known * SAFETY))
        if known is None:
            # Nobody says how large the window is: smaller than this request.
            self._sizes.windows[candidate.spec.ref] = max(1, estimator.tokens(all_units))
        limits = self._limits(view, candidate)
        assert limits is not None
        return limits

    async def _carry_out(
        self, made: Plan, limits: Limits, candidate: Candidate, *, will_retry: bool = True
    ) -> Compacted:
        self._attempts += 1
        view = self._view
        assert view is not None
        await self._notify("compaction", {"phase": "start"})
        kept_set = set(made.kept)
        gone = [message for n, message in enumerate(view) if n not in kept_set]
        summary = await self._summarise(gone, limits.summary, candidate) if gone else ""
        kept = [view[n] for n in made.kept]
        if made.cut_results:
            most = self._sizes.estimator(candidate).units(limits.result)
            kept = [cut_results(message, most) for message in kept]
        kept_messages = self._replace_past(made.kept, kept, summary)
        head = [ModelRequest(parts=[UserPromptPart(content=SUMMARY_HEAD + summary)])]
        self._view = [*head, *kept] if gone else kept
        self._past = len(self._conversation.messages())
        after = sum(each.tokens for each in self._pieces(self._view, candidate)) + limits.overhead
        done = Compacted(summary, kept_messages, made.before + limits.overhead, after)
        end = {"tokensBefore": done.tokens_before, "tokensAfter": done.tokens_after}
        await self._notify("compaction", {"phase": "end", "willRetry": will_retry, **end})
        if gone:
            await self._compacted(done)
        return done

    def _replace_past(
        self, indexes: Sequence[int], kept: Sequence[ModelMessage], summary: str
    ) -> int:
        """Put what is kept of earlier turns into the conversation; return how many messages that are."""
        at = dict(zip(indexes, kept, strict=True))
        position = self._past - sum(len(turn) for turn in self._conversation.turns)
        turns: list[list[ModelMessage]] = []
        for turn in self._conversation.turns:
            if position in at:
                turns.append([at.get(position + n, each) for n, each in enumerate(turn)])
            position += len(turn)
        if summary:
            self._conversation.compact(summary, len(turns))
        self._conversation.turns[:] = turns
        return sum(1 + any(map(_says, turn)) for turn in turns)


def _says(message: ModelMessage) -> bool:
    return isinstance(message, ModelResponse) and any(
        isinstance(part, TextPart) and part.content for part in message.parts
    )
