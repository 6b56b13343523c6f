"""Makes a summary of messages by asking the models for one, or by leaving out where none gives one."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from typing import Any

from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, UserPromptPart
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.settings import ModelSettings

from gateway.agents.llmpolicy import ContextConfig
from gateway.agents.workers.attempts import Chain, Shared
from gateway.agents.workers.chain import ChainModel
from gateway.agents.workers.context import Sizes
from gateway.agents.workers.models import Candidate
from gateway.agents.workers.transcript import as_text, chunks, cut_bytes, middle_out

MAX_CHUNKS = 6
"""A conversation that takes more requests than this to read is thinned out first."""
CHARS_PER_TOKEN = 3
WINDOW_UNKNOWN = 16_000
"""The window, in tokens, that a summary is made for where nobody knows the model's."""
TASK = (
    "You shorten conversations. Write a summary of the conversation below that lets an assistant "
    "go on with it: what the user wants, facts, names, numbers and file names that matter, "
    "decisions, what was done and found, what is still open. No introduction, no comment; at most "
    "{words} words."
)
CUT = "[Older messages were left out here; this is what remains of them.]\n"


class Summariser:
    """Asks the models of a turn, the one that answers it first."""

    def __init__(
        self,
        candidates: Sequence[Candidate],
        shared: Shared,
        config: ContextConfig,
        sizes: Sizes,
        *,
        spent: Callable[[Candidate, ModelResponse], None],
        instructions: str | None = None,
    ) -> None:
        self._candidates = candidates
        self._shared = shared
        self._config = config
        self._sizes = sizes
        self._spent = spent
        self._instructions = instructions
        self._asked = candidates[0]

    async def summarise(
        self, messages: Sequence[ModelMessage], tokens: int, candidate: Candidate
    ) -> str:
        """Return a summary of at most about ``tokens``. It never fails: without a model it leaves out."""
        most = max(40, self._sizes.estimator(candidate).units(tokens))
        try:
            async with asyncio.timeout(self._config.summary_s):
                text = await self._ask(messages, tokens, candidate)
        except Exception as error:
            print(f"no summary could be made: {type(error).__name__}", file=sys.stderr)
            text = ""
        return cut_bytes(text.strip() or leave_out(messages, most), most)

    async def _ask(
        self, messages: Sequence[ModelMessage], tokens: int, candidate: Candidate
    ) -> str:
        window = self._sizes.window(candidate) or WINDOW_UNKNOWN
        size = max(200, (window - 2 * tokens - len(TASK) // CHARS_PER_TOKEN) * 2)
        parts = chunks(as_text(messages, size // 2), size)
        if len(parts) > MAX_CHUNKS:
            most = max(60, size * MAX_CHUNKS // max(1, len(messages)) // 2)
            parts = chunks(as_text(messages, most), size)[-MAX_CHUNKS:]
        ordered = (candidate, *(each for each in self._candidates if each is not candidate))
        chain = ChainModel(Chain(ordered, self._shared, _silent, self._chose, spent=self._spent))
        summary = ""
        for part in parts:
            before = f"[Summary of what was before]\n{summary}\n\n" if summary else ""
            summary = await self._one(chain, before + part, tokens)
            summary = middle_out(summary, tokens * CHARS_PER_TOKEN)
        return summary

    async def _one(self, chain: ChainModel, text: str, tokens: int) -> str:
        task = TASK.format(words=max(20, tokens // 2))
        if self._instructions:
            task += f" Mind this above all: {self._instructions[:2000]}"
        prompt = f"{task}\n\n<conversation>\n{text}\n</conversation>"
        request = ModelRequest(parts=[UserPromptPart(content=prompt)])
        settings = ModelSettings(max_tokens=tokens)
        response = await chain.request([request], settings, ModelRequestParameters())
        self._spent(self._asked, response)
        return response.text or ""

    def _chose(self, candidate: Candidate) -> None:
        self._asked = candidate


def leave_out(messages: Sequence[ModelMessage], most: int) -> str:
    """Return what is left of messages if each is cut: the newest, in at most ``most`` characters."""
    lines: list[str] = []
    left = most - len(CUT)
    for line in reversed(as_text(messages, max(20, most // 6))):
        left -= len(line) + 1
        if left < 0:
            break
        lines.append(line)
    return (CUT + "\n".join(reversed(lines)))[:most]


async def _silent(stream: str, data: dict[str, Any]) -> None:
    """Take no note: what a summary goes through is no event of the run."""
