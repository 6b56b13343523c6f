"""Bounded registries: a cap, a time to live and a gauge, swept by one timer each.

Every map of live state is one of these. Eviction never removes an entry that is in use, and a sweep
removes *every* expired entry before it looks at the cap. Times are seconds of the steady clock, so that an
entry lives as long as it should however the wall clock is set meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Generic, Protocol, TypeVar

V = TypeVar("V")


class Sweepable(Protocol):
    """A bounded registry that one timer sweeps."""

    name: str

    def sweep(self, now: float) -> int:
        """Remove what has expired, then what is over the maximum; return how many were removed."""


class RegistryFull(Exception):
    """The registry holds as many entries in use as it may."""


class Registry(Generic[V]):
    """Entries by key, oldest first.

    ``in_use(value)`` protects an entry from expiry and eviction. Its clock for expiry starts at the
    last :meth:`put` or :meth:`touch` (so: at completion, not at registration, if touched then).
    """

    __slots__ = ("_entries", "_in_use", "maximum", "name", "ttl_s")

    def __init__(
        self,
        name: str,
        *,
        maximum: int,
        ttl_s: float | None = None,
        in_use: Callable[[V], bool] = lambda _value: False,
    ) -> None:
        self.name = name
        self.maximum = maximum
        self.ttl_s = ttl_s
        self._in_use = in_use
        self._entries: dict[str, tuple[float, V]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[V]:
        return iter([value for _, value in self._entries.values()])

    def get(self, key: str) -> V | None:
        """Return the entry, expired or not."""
        entry = self._entries.get(key)
        return None if entry is None else entry[1]

    def fresh(self, key: str, now: float) -> V | None:
        """Return the entry unless its time is over: what a sweep would leave, without one."""
        entry = self._entries.get(key)
        if entry is None or (self.ttl_s is not None and entry[0] <= now - self.ttl_s):
            return None
        return entry[1]

    def put(self, key: str, value: V, now: float) -> None:
        """Add or replace an entry as the newest. Raises RegistryFull, and then holds what it held."""
        if key in self._entries:
            del self._entries[key]
        else:
            excess = len(self._entries) + 1 - self.maximum
            victims = self._oldest(excess)
            if len(victims) < excess:
                raise RegistryFull(f"{self.name} holds {len(self._entries)} entries in use")
            for victim in victims:
                del self._entries[victim]
        self._entries[key] = (now, value)

    def put_anyway(self, key: str, value: V, now: float) -> None:
        """Add or replace an entry as the newest, beyond the maximum if need be.

        For what is in use already; the next sweep removes others in its place.
        """
        self._entries.pop(key, None)
        self._entries[key] = (now, value)

    def touch(self, key: str, now: float) -> None:
        """Start the entry's time to live anew and make it the newest."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._entries[key] = (now, entry[1])

    def pop(self, key: str) -> V | None:
        """Remove and return an entry."""
        entry = self._entries.pop(key, None)
        return None if entry is None else entry[1]

    def pop_oldest(self) -> V | None:
        """Remove and return the oldest entry, in use or not."""
        key = next(iter(self._entries), None)
        return None if key is None else self.pop(key)

    def sweep(self, now: float) -> int:
        """Remove every expired entry, then the oldest while over the maximum; return how many."""
        before = len(self._entries)
        if self.ttl_s is not None:
            limit = now - self.ttl_s
            expired = [
                key
                for key, (stamp, value) in self._entries.items()
                if stamp <= limit and not self._in_use(value)
            ]
            for key in expired:
                del self._entries[key]
        for key in self._oldest(len(self._entries) - self.maximum):
            del self._entries[key]
        return before - len(self._entries)

    def _oldest(self, count: int) -> list[str]:
        """Return the ``count`` oldest keys that are not in use, or as many as there are."""
        free = (key for key, (_, value) in self._entries.items() if not self._in_use(value))
        return list(islice(free, max(count, 0)))
