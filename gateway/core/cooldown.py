"""How a model can fail, and how long a model or a key then rests. Pure: the caller brings time and chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

MAX_NOTES = 1_024
"""More places than a chain has; the notes that expire first are dropped over it."""


class Failure(StrEnum):
    """Why an attempt failed; each value but the last three is a reason that version 4 clients know."""

    RATE_LIMIT = "rate_limit"
    BILLING = "billing"
    OVERLOADED = "overloaded"
    SERVER_ERROR = "server_error"
    TIMEOUT = "timeout"
    AUTH = "auth"
    MODEL_NOT_FOUND = "model_not_found"
    CONTEXT_OVERFLOW = "context_overflow"
    REJECTED = "format"
    EMPTY_RESPONSE = "empty_response"
    UNKNOWN = "unknown"
    CONNECTION = "connection"
    REFUSAL = "refusal"
    CANCELLED = "cancelled"

    @property
    def text(self) -> str:
        """What to tell people."""
        return _TEXTS[self]

    @property
    def reason(self) -> str:
        """The nearest reason that version 4 clients know."""
        return _REASONS.get(self, self.value)


_TEXTS = {
    Failure.RATE_LIMIT: "the provider's rate limit is reached",
    Failure.BILLING: "the provider's quota is used up",
    Failure.OVERLOADED: "the provider is overloaded",
    Failure.SERVER_ERROR: "the provider failed",
    Failure.TIMEOUT: "the provider did not answer in time",
    Failure.AUTH: "the provider refuses the key",
    Failure.MODEL_NOT_FOUND: "the provider has no such model or address",
    Failure.CONTEXT_OVERFLOW: "the conversation is too long",
    Failure.REJECTED: "the provider refuses the request",
    Failure.EMPTY_RESPONSE: "the model gave no usable answer",
    Failure.UNKNOWN: "the agent failed",
    Failure.CONNECTION: "the provider can not be reached",
    Failure.REFUSAL: "the provider refused to answer",
    Failure.CANCELLED: "cancelled",
}
_REASONS = {
    Failure.CONNECTION: "server_error",
    Failure.REFUSAL: "unclassified",
    Failure.CANCELLED: "unclassified",
}


@dataclass(frozen=True, slots=True)
class CooldownPolicy:
    """How long a place rests after a failure, in seconds."""

    first_s: float = 2.0
    """After the first of a row of failures; it doubles with each further one."""
    most_s: float = 60.0
    longest_s: float = 3_600.0
    """The longest rest a provider may ask for with Retry-After."""
    key_s: float = 600.0
    """For a key that was refused, or whose quota is used up, and for a model that is not there."""


@dataclass(frozen=True, slots=True)
class _Note:
    until: float
    firm: bool
    failure: Failure
    streak: int


class Cooldowns:
    """What rests until when: a key of a candidate, a key everywhere, or a candidate with all its keys.

    A rest is firm if the provider asked for it; otherwise it is our own guess, which may be overridden.
    """

    def __init__(self, policy: CooldownPolicy | None = None) -> None:
        self._policy = policy or CooldownPolicy()
        self._notes: dict[tuple[str, str], _Note] = {}

    def __len__(self) -> int:
        return len(self._notes)

    def note(
        self,
        candidate: str,
        key: str,
        failure: Failure,
        *,
        now: float,
        retry_after_s: float | None = None,
        jitter: float = 0.5,
    ) -> None:
        """Note a failed attempt. ``jitter`` (0 to 1) spreads the ends, never before what was asked."""
        place = _place(candidate, key, failure)
        if place is None:
            return
        before = self._notes.get(place)
        streak = before.streak + 1 if before else 1
        rest, firm = self._rest(failure, streak, retry_after_s)
        factor = 1 + 0.1 * jitter if firm else 0.75 + 0.5 * jitter
        until = now + rest * factor
        if before is not None and before.firm and before.until > until:
            until, firm = before.until, True
        self._notes[place] = _Note(until, firm, failure, streak)
        while len(self._notes) > MAX_NOTES:
            del self._notes[min(self._notes, key=lambda each: self._notes[each].until)]

    def answered(self, candidate: str, key: str) -> None:
        """Forget what was noted against a candidate and key that answered."""
        for place in ((candidate, key), (candidate, "*"), ("*", key)):
            self._notes.pop(place, None)

    def until(self, candidate: str, key: str) -> tuple[float, bool]:
        """Return the end of the longest rest that concerns the place, and whether any such is firm."""
        found = self._concerning(candidate, key)
        if not found:
            return (float("-inf"), False)
        return max(note.until for note in found), any(note.firm for note in found)

    def noted(
        self, candidate: str, keys: Sequence[str], now: float
    ) -> tuple[Failure, float] | None:
        """Return why a candidate rests and for how many seconds yet, or None if one of its keys is ready."""
        found = [self._concerning(candidate, key) for key in keys]
        ends = [max(notes, key=lambda note: note.until) for notes in found if notes]
        if len(ends) < len(found) or not ends:
            return None
        first = min(ends, key=lambda note: note.until)
        return (first.failure, first.until - now) if first.until > now else None

    def _concerning(self, candidate: str, key: str) -> list[_Note]:
        places = ((candidate, key), (candidate, "*"), ("*", key))
        return [self._notes[place] for place in places if place in self._notes]

    def _rest(self, failure: Failure, streak: int, asked: float | None) -> tuple[float, bool]:
        policy = self._policy
        if failure in (Failure.AUTH, Failure.BILLING, Failure.MODEL_NOT_FOUND):
            return policy.key_s, False
        if asked is not None and asked > 0:
            return min(asked, policy.longest_s), True
        return min(policy.first_s * 2 ** min(streak - 1, 30), policy.most_s), False


def _place(candidate: str, key: str, failure: Failure) -> tuple[str, str] | None:
    match failure:
        case (
            Failure.CANCELLED
            | Failure.REFUSAL
            | Failure.CONTEXT_OVERFLOW
            | Failure.REJECTED
            | Failure.UNKNOWN
        ):
            return None  # it says nothing about the next request
        case Failure.AUTH | Failure.BILLING if key:
            return ("*", key)
        case Failure.RATE_LIMIT | Failure.AUTH | Failure.BILLING:
            return (candidate, key)
        case _:
            return (candidate, "*")
