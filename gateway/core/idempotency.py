"""The window of idempotency keys: the same key gives the same run, also while it runs and afterwards.

A key is remembered until its time to live after the *end* of its run; an entry whose run goes on is
never evicted, since a retry would start a second run. The same key with other content is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from gateway.core.registry import Registry
from gateway.core.run import RunOutcome


@dataclass(slots=True)
class Claim:
    """One remembered key. ``outcome`` is None while its run goes on."""

    fingerprint: str
    run_id: str
    outcome: RunOutcome | None = None


class Answer(Enum):
    """What a claim of a key found."""

    NEW = "new"
    SAME = "same"
    CONFLICT = "conflict"


class IdempotencyWindow:
    """Claims by idempotency key."""

    def __init__(self, *, maximum: int, ttl_s: float) -> None:
        self.claims: Registry[Claim] = Registry(
            "idempotency",
            maximum=maximum,
            ttl_s=ttl_s,
            in_use=lambda claim: claim.outcome is None,
        )

    def claim(self, key: str, fingerprint: str, run_id: str, now: float) -> tuple[Answer, Claim]:
        """Claim a key for a run, or find who has it. Raises RegistryFull when all entries run."""
        held = self.claims.get(key)
        if held is not None:
            return (Answer.SAME if held.fingerprint == fingerprint else Answer.CONFLICT), held
        claim = Claim(fingerprint, run_id)
        self.claims.put(key, claim, now)
        return Answer.NEW, claim

    def adopt(self, key: str, fingerprint: str, run_id: str, now: float) -> None:
        """Hold the key of a run that was accepted by an earlier process, however many keys are held."""
        self.claims.put_anyway(key, Claim(fingerprint, run_id), now)

    def settle(self, key: str, outcome: RunOutcome, now: float) -> None:
        """The key's run ended: its time to live starts now."""
        claim = self.claims.get(key)
        if claim is not None:
            claim.outcome = outcome
            self.claims.touch(key, now)

    def release(self, key: str) -> None:
        """Forget a key whose run never came to be, so that the client may try again."""
        self.claims.pop(key)
