"""Which model to ask next after a failure: a pure function of the policy and of what happened so far.

A chain is a sequence of candidates in the order of preference, each with one or more keys. A request is
tried on one candidate and key after the other until one answers, or until :func:`next_attempt` says that
there is nothing left to try within the time the policy gives. Times are seconds of one monotonic clock
that the caller reads; nothing here waits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway.core.cooldown import CooldownPolicy, Cooldowns, Failure

MIN_ATTEMPT_S = 0.5
"""With less time than this left, no further attempt begins."""
DETAIL_CHARS = 240
MESSAGE_CHARS = 1_000

_OF_KEY = frozenset({Failure.AUTH, Failure.BILLING, Failure.RATE_LIMIT})
"""Failures that say nothing about another key of the same model."""
_KEY_OUT = frozenset({Failure.AUTH, Failure.BILLING})
_CANDIDATE_OUT = frozenset(
    {
        Failure.MODEL_NOT_FOUND,
        Failure.REJECTED,
        Failure.CONTEXT_OVERFLOW,
        Failure.REFUSAL,
        Failure.UNKNOWN,
    }
)
"""The same request would fail in the same way again."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How much is tried, and for how long."""

    attempts_per_key: int = 2
    """Attempts of one request with one key of one candidate."""
    first_token_s: float = 60.0
    """How long one attempt may take until the answer begins."""
    budget_s: float = 150.0
    """How long all attempts of one request may take until an answer begins; time in which an answer
    was streaming does not count."""
    longest_wait_s: float = 20.0
    """How long a request waits at most for the end of a rest."""
    failover_refusal: bool = False
    """Whether a model's refusal is put to the next model."""
    cooldown: CooldownPolicy = field(default_factory=CooldownPolicy)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model of the chain. ``window`` is its context window in tokens, if known."""

    name: str
    keys: tuple[str, ...] = ("",)
    window: int | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """A failed attempt. ``detail`` is what the provider said, free of secrets."""

    candidate: str
    key: str
    failure: Failure
    detail: str = ""


@dataclass(frozen=True, slots=True)
class NextAttempt:
    """Try ``candidate`` with ``key`` after ``delay_s``, for at most ``timeout_s`` until the answer begins."""

    candidate: str
    key: str
    delay_s: float
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Shorten:
    """Shorten the conversation, then ask again: no other model is needed for it."""


@dataclass(frozen=True, slots=True)
class Exhausted:
    """Nothing is left to try. ``failure`` is the preferred model's, ``reasons`` one for each candidate."""

    failure: Failure
    reasons: tuple[str, ...]
    out_of_time: bool = False

    @property
    def message(self) -> str:
        """Why each candidate failed, in at most MESSAGE_CHARS characters."""
        if len(self.reasons) == 1:
            return self.reasons[0][:MESSAGE_CHARS]
        late = ", and the time is up" if self.out_of_time else ""
        head = f"all {len(self.reasons)} models failed{late}: "
        return (head + "; ".join(self.reasons))[:MESSAGE_CHARS]


Decision = NextAttempt | Shorten | Exhausted


def ordered(candidates: Sequence[Candidate], preferred: str | None) -> tuple[Candidate, ...]:
    """Return the chain with the preferred candidate first; the others stay, in their order."""
    first = [each for each in candidates if each.name == preferred]
    return (*first, *(each for each in candidates if each.name != preferred))


def next_attempt(
    policy: Policy,
    candidates: Sequence[Candidate],
    history: Sequence[Attempt],
    cooldowns: Cooldowns,
    *,
    now: float,
    waited_s: float = 0.0,
    can_shorten: bool = False,
) -> Decision:
    """Return what to do next for one request.

    ``history`` has the request's failed attempts, oldest first, each already noted in ``cooldowns``;
    ``waited_s`` is the time it has taken so far without an answer streaming; ``can_shorten`` says that
    the conversation can still be shortened. Candidates must have different names.
    """
    left = policy.budget_s - waited_s
    last = history[-1].failure if history else None
    if last is Failure.CANCELLED or (last is Failure.REFUSAL and not policy.failover_refusal):
        return _exhausted(candidates, history, cooldowns, now)
    if last is Failure.CONTEXT_OVERFLOW and can_shorten:
        return Shorten()
    options = _options(policy, candidates, history, cooldowns)
    if left < MIN_ATTEMPT_S:
        return _exhausted(candidates, history, cooldowns, now, out_of_time=bool(options))
    option = _choose(options, now)
    delay = 0.0 if option is None or option.probe else max(0.0, option.ready_at - now)
    if option is None or delay > min(left - MIN_ATTEMPT_S, policy.longest_wait_s):
        return _exhausted(candidates, history, cooldowns, now, out_of_time=option is not None)
    fresh = {each.candidate for each in options if not each.tries} | {option.candidate}
    timeout = min(policy.first_token_s, (left - delay) / len(fresh))
    return NextAttempt(option.candidate, option.key, delay, timeout)


@dataclass(frozen=True, slots=True)
class _Option:
    candidate: str
    key: str
    tries: int
    """Failures of this request that speak against it."""
    position: int
    ready_at: float
    probe: bool
    """Cooling down by our own guess alone, and not tried by this request: better asked than waited for."""


def _options(
    policy: Policy,
    candidates: Sequence[Candidate],
    history: Sequence[Attempt],
    cooldowns: Cooldowns,
) -> list[_Option]:
    tries: dict[tuple[str, str], int] = {}
    against: dict[str, int] = {}
    dead_keys: set[str] = set()
    dead_candidates: set[str] = set()
    for attempt in history:
        spot = (attempt.candidate, attempt.key)
        tries[spot] = tries.get(spot, 0) + 1
        if attempt.failure not in _OF_KEY:
            against[attempt.candidate] = against.get(attempt.candidate, 0) + 1
        if attempt.failure in _KEY_OUT:
            dead_keys.add(attempt.key)
        if attempt.failure in _CANDIDATE_OUT:
            dead_candidates.add(attempt.candidate)
    too_small = _overflowed_window(candidates, history)
    options: list[_Option] = []
    for position, candidate in enumerate(candidates):
        if candidate.name in dead_candidates or (
            too_small and candidate.window and candidate.window <= too_small
        ):
            continue
        for key in candidate.keys:
            tried = tries.get((candidate.name, key), 0)
            if (key and key in dead_keys) or tried >= policy.attempts_per_key:
                continue
            until, firm = cooldowns.until(candidate.name, key)
            bad = max(tried, against.get(candidate.name, 0))
            probe = not firm and not bad
            options.append(_Option(candidate.name, key, bad, position, until, probe))
    return options


def _choose(options: Sequence[_Option], now: float) -> _Option | None:
    """Return what is ready and speaks least against, else what to probe, else what is ready soonest."""
    ready = [option for option in options if option.ready_at <= now]
    if ready:
        return min(ready, key=lambda option: (option.tries, option.position))
    probes = [option for option in options if option.probe]
    if probes:
        return min(probes, key=lambda option: option.position)
    return min(options, key=lambda option: (option.ready_at, option.position), default=None)


def _overflowed_window(candidates: Sequence[Candidate], history: Sequence[Attempt]) -> int:
    windows = {each.name: each.window or 0 for each in candidates}
    return max(
        (
            windows.get(attempt.candidate, 0)
            for attempt in history
            if attempt.failure is Failure.CONTEXT_OVERFLOW
        ),
        default=0,
    )


def _exhausted(
    candidates: Sequence[Candidate],
    history: Sequence[Attempt],
    cooldowns: Cooldowns,
    now: float,
    *,
    out_of_time: bool = False,
) -> Exhausted:
    last: dict[str, Attempt] = {attempt.candidate: attempt for attempt in history}
    final = history[-1].failure if history else None
    if final in (Failure.CANCELLED, Failure.REFUSAL):
        attempt = history[-1]
        return Exhausted(attempt.failure, (_reason(attempt),))
    failures: list[Failure] = []
    reasons: list[str] = []
    for candidate in candidates:
        attempt_ = last.get(candidate.name)
        if attempt_ is not None:
            failures.append(attempt_.failure)
            reasons.append(_reason(attempt_))
            continue
        noted = cooldowns.noted(candidate.name, candidate.keys, now)
        if noted is not None:
            failures.append(noted[0])
            reasons.append(f"{candidate.name}: {noted[0].text}, again in {noted[1]:.0f} s")
        else:
            reasons.append(f"{candidate.name}: not tried")
    kind = failures[0] if failures else Failure.UNKNOWN
    return Exhausted(kind, tuple(reasons), out_of_time)


def _reason(attempt: Attempt) -> str:
    detail = " ".join(attempt.detail.split())[:DETAIL_CHARS]
    return f"{attempt.candidate}: {attempt.failure.text}" + (f" ({detail})" if detail else "")
