"""Turns of a call that are over: what still comes of them is late.

Requirements
    A provider numbers, or names, the turns of a call. A transcript of a turn that another one has taken
    the place of must not become a turn of the agent: it would answer what nobody asks any more.

Design
    A token belongs to a call, and the call to a session. Numbers have an order of their own: what is
    lower than the highest that was accepted is late. Names have none, so their order is that of their
    first acceptance: once another name was accepted, the earlier one is over. The name of a turn that was
    never accepted can't be told from a new one's, and is one. Without a call there is nothing to
    compare: two calls may both begin at 1.

    A token counts once the turn that it came with was accepted, and for five minutes after the last
    acceptance in its call. At most 200 calls are known at any moment, the newest; of each the last 32
    names.

Rejected
    Times as an order: providers resend with new ones. Fencing by the session alone: a device that
    calls anew would be mute for five minutes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.core.voice import bounded_key, first_number, first_text

RETENTION_MS = 300_000
MAX_CALLS = 200
MAX_NAMES = 32


@dataclass(frozen=True, slots=True)
class TurnToken:
    """Which turn of which call a transcript belongs to: a number or a name, never both."""

    call: str
    number: int | None = None
    name: str | None = None


def turn_token(payload: Mapping[str, object]) -> TurnToken | None:
    """Return the token of a ``voice.transcript`` payload; None if it has none, or names no call.

    The call is ``providerCallId`` or ``callId``; the number ``generation`` or ``turn``; the name
    ``turnToken`` or ``turnId``. A number goes before a name. They are read as those of fingerprints are.
    """
    call = first_text(payload, "providerCallId", "callId")
    if call is None:
        return None
    number = first_number(payload, "generation", "turn")
    if number is not None:
        return TurnToken(bounded_key(call), number=number)
    name = first_text(payload, "turnToken", "turnId")
    return None if name is None else TurnToken(bounded_key(call), name=bounded_key(name))


@dataclass(slots=True)
class _Call:
    at_ms: int
    number: int | None = None
    names: tuple[str, ...] = ()
    """Those that were accepted, in that order; all but the last are over."""


class TurnFence:
    """Knows which turns are over. Pure: the caller brings the time (ms of any one clock)."""

    def __init__(self, *, maximum: int = MAX_CALLS) -> None:
        self._maximum = maximum
        self._calls: dict[tuple[str, str], _Call] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def admits(self, session_key: str, token: TurnToken | None, now_ms: int) -> bool:
        """Whether a transcript is not late."""
        call = None if token is None else self._calls.get((session_key, token.call))
        if token is None or call is None or not _lives(call, now_ms):
            return True
        if token.number is not None:
            return call.number is None or token.number >= call.number
        return token.name not in call.names[:-1]

    def accepted(self, session_key: str, token: TurnToken | None, now_ms: int) -> None:
        """The turn of a transcript that was admitted has started: the earlier ones of its call are over."""
        if token is None:
            return
        key = (session_key, token.call)
        call = self._calls.pop(key, None)
        if call is None or not _lives(call, now_ms):
            call = _Call(now_ms)
        call.at_ms = now_ms
        if token.number is not None:
            call.number = token.number
        elif token.name is not None and token.name not in call.names:
            call.names = (*call.names, token.name)[-MAX_NAMES:]
        while len(self._calls) >= self._maximum:
            del self._calls[next(iter(self._calls))]
        self._calls[key] = call

    def sweep(self, now_ms: int) -> int:
        """Forget the calls of which nothing was accepted for long; return how many there were."""
        ended = [key for key, call in self._calls.items() if not _lives(call, now_ms)]
        for key in ended:
            del self._calls[key]
        return len(ended)


def _lives(call: _Call, now_ms: int) -> bool:
    return abs(now_ms - call.at_ms) <= RETENTION_MS
