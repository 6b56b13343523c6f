"""The answers of invocations that have ended, for those who ask again with the same key."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from gateway.core.invocation import End, Outcome, ended


@dataclass(slots=True)
class Remembered:
    """How an invocation ended, and what it was."""

    fingerprint: str
    node_id: str
    command: str
    outcome: Outcome
    ended_at: float


class NodeAnswers:
    """Ended invocations by key, the oldest first; a Sweepable.

    Of what is too much to keep only the answer goes, the oldest one first: that there was one stays known,
    so that a command is not run twice.
    """

    name = "node-answers"

    def __init__(self, *, maximum: int, max_bytes: int, ttl_s: float) -> None:
        self._maximum = maximum
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._entries: dict[str, Remembered] = {}
        self._weighty: deque[Remembered] = deque()
        """Those whose answer takes room, the oldest first; some may be gone from the entries."""
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> Remembered | None:
        """Return how the invocation with a key ended."""
        return self._entries.get(key)

    def put(self, key: str, entry: Remembered) -> None:
        """Remember an end as the newest."""
        self._forget(key)
        while len(self._entries) >= self._maximum:
            self._forget(next(iter(self._entries)))
        self._entries[key] = entry
        if entry.outcome.size:
            self.bytes += entry.outcome.weight
            self._weighty.append(entry)
        while self.bytes > self._max_bytes:
            self._lighten(self._weighty.popleft())
        self._trim()

    def sweep(self, now: float) -> int:
        """Forget what is older than its time; return how many that were."""
        before = len(self._entries)
        while self._entries:
            key, oldest = next(iter(self._entries.items()))
            if oldest.ended_at + self._ttl_s > now:
                break
            self._forget(key)
        self._trim()
        return before - len(self._entries)

    def _forget(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._lighten(entry)

    def _lighten(self, entry: Remembered) -> None:
        if entry.outcome.size:
            self.bytes -= entry.outcome.weight
            entry.outcome = ended(End.NOT_KEPT, entry.command)

    def _trim(self) -> None:
        while self._weighty and not self._weighty[0].outcome.size:
            self._weighty.popleft()
