"""The demo agent: it needs no key and says the user's words back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Annotated, TypeVar

from msgspec import Meta
from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall
from twisted.plugin import IPlugin
from zope.interface import implementer

from gateway.config import AgentConfig
from gateway.errors import BackendError
from gateway.interfaces import (
    BackendEnvironment,
    IAgentBackend,
    IAgentBackendFactory,
    IClock,
    IRunSink,
)
from gateway.model import ModelInfo, RunRequest, RunResult, Usage

MAX_TOKENS = 1_000_000
WORDS_PER_TURN = 1000
"""Without a delay, so many words make one increment and one turn of the reactor."""

Outcome = TypeVar("Outcome")

_PIECES = re.compile(r"\S+\s*|\s+")


class DemoConfig(AgentConfig, frozen=True):
    """An agent that says the user's words back."""

    word_delay_ms: Annotated[int, Meta(ge=0, le=60_000)] = 20
    """Pause between two words of the answer, in milliseconds; 0 sends them all at once."""


@implementer(IAgentBackend)
class DemoBackend(Service):
    """Streams the message back, byte for byte, word by word; the white space stays with the word before.

    A message that consists of one of these directives does something else:

    ``/tokens N``
        streams ``word0 word1 … word<N-1>``, N from 1 to 1,000,000.
    ``/error TEXT``
        fails with TEXT.
    ``/hang``
        never ends by itself; only an abort or a timeout ends it.

    A run has at most one pending call on the clock, and none once it is cancelled.
    """

    reruns = True

    def __init__(self, config: DemoConfig, clock: IClock) -> None:
        self._delay = config.word_delay_ms / 1000
        self._clock = clock
        self._going: set[Deferred[RunResult]] = set()
        self.models = (ModelInfo(id="demo", name="Demo (echo)", provider="demo"),)

    def ready(self) -> bool:
        """Whether it was started."""
        return bool(self.running)

    def stopService(self) -> None:
        """Cancel the runs that still go."""
        super().stopService()  # type: ignore[no-untyped-call]
        for done in tuple(self._going):
            done.cancel()

    def start(self, request: RunRequest, sink: IRunSink) -> Deferred[RunResult]:
        """Answer one message. Fails with BackendError for ``/error`` and for a bad ``/tokens``."""
        command, _, argument = request.text.strip().partition(" ")
        match command, argument.strip():
            case "/hang", "":
                return self._track(Deferred())
            case "/error", text:
                return fail(BackendError(text or "the demo agent was asked to fail"))
            case "/tokens", number:
                if not re.fullmatch("[0-9]{1,7}", number) or not 1 <= int(number) <= MAX_TOKENS:
                    return fail(BackendError(f"/tokens wants a number from 1 to {MAX_TOKENS}"))
                pieces = _tokens(int(number))
            case _:
                pieces = (match[0] for match in _PIECES.finditer(request.text))
        reply = _Reply(pieces, sink, len(request.text.split()), self._delay, self._clock)
        reply.step()
        return self._track(reply.done)

    def _track(self, done: Deferred[RunResult]) -> Deferred[RunResult]:
        self._going.add(done)
        return done.addBoth(self._ended, done)

    def _ended(self, result: Outcome, done: Deferred[RunResult]) -> Outcome:
        self._going.discard(done)
        return result


class _Reply:
    """One answer on its way."""

    def __init__(
        self, pieces: Iterator[str], sink: IRunSink, words_in: int, delay: float, clock: IClock
    ) -> None:
        self.done: Deferred[RunResult] = Deferred(self._cancel)
        self._pieces = pieces
        self._next = next(pieces, None)
        self._sink = sink
        self._words_in = words_in
        self._words_out = 0
        self._delay = delay
        self._clock = clock
        self._call: IDelayedCall | None = None

    def step(self) -> None:
        """Send what is due; arm the next step, or end."""
        self._call = None
        due = self._take(1 if self._delay else WORDS_PER_TURN)
        if due:
            self._words_out += sum(1 for piece in due if not piece.isspace())
            try:
                self._sink.text("".join(due))
            except Exception:
                self.done.errback()
        if self.done.called:
            return  # by the sink: it failed, or its owner cancelled the run
        if self._next is None:
            usage = Usage(input_tokens=self._words_in, output_tokens=self._words_out)
            self.done.callback(RunResult(usage=usage, provider="demo", model="demo"))
        else:
            self._call = self._clock.callLater(self._delay, self.step)

    def _take(self, count: int) -> list[str]:
        taken = [] if self._next is None else [self._next, *islice(self._pieces, count - 1)]
        self._next = next(self._pieces, None)
        return taken

    def _cancel(self, _: Deferred[RunResult]) -> None:
        if self._call is not None:
            self._call.cancel()
            self._call = None


def _tokens(count: int) -> Iterator[str]:
    last = count - 1
    return (f"word{index}" if index == last else f"word{index} " for index in range(count))


@implementer(IPlugin, IAgentBackendFactory)
class DemoFactory:
    """Makes demo agents: ``backend = "demo"``."""

    name = "demo"
    summary = "Says your words back; needs no key."
    config_type = DemoConfig

    def make(self, config: DemoConfig, environment: BackendEnvironment) -> IAgentBackend:
        """Make a demo agent on the injected clock."""
        return DemoBackend(config, environment.clock)
