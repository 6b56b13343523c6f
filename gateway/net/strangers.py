"""Who is not authenticated yet: counted per address and in all, from the first byte on.

Requirements. No address has more places than its limit, and all together no more than theirs. However many
hold a place and say nothing, somebody new from elsewhere comes in.

Design. When all places are taken, an address that has more of them than the newcomer's gives its oldest one
to it; who comes from an address that has as many as any is refused. An address that many clients share is
weighed by how much of its own, larger limit it takes. What addresses weigh is kept in levels, so that the
heaviest is found without a search: a flood calls this for each socket it opens.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any, Final

from gateway.core.access import is_local_address
from gateway.core.attempts import canonical_address

ASKED: Final = 8
"""Most of an address's oldest connections that are asked to give way to a newcomer."""


class _Line:
    """The connections of one address, the oldest first."""

    __slots__ = ("limit", "members", "weight")

    def __init__(self) -> None:
        self.members: dict[Any, None] = {}
        self.limit = 1
        self.weight = 0


class Strangers:
    """Connections that are not authenticated yet, counted per canonical address.

    A connection is counted from when it is accepted, whether it sends anything or not, and counts as
    one however its protocol changes meanwhile. Its ``give_way()`` ends it and returns True, or returns
    False where it is served just now.
    """

    def __init__(
        self,
        *,
        per_address: int,
        loopback: int,
        maximum: int = 1_000_000,
        shared: Callable[[str], bool] = is_local_address,
    ) -> None:
        """``shared`` says of an address that many clients have it: loopback, and trusted proxies."""
        # No address can have more than all: what it weighs is how much it takes of what there is.
        self._per_address = min(per_address, maximum)
        self._loopback = min(loopback, maximum)
        self.maximum = maximum
        self._shared = shared
        self._addresses: dict[Any, str] = {}
        self._lines: dict[str, _Line] = {}
        self._levels: dict[int, dict[str, None]] = {}
        """The addresses of each weight."""
        self._heaviest = 0

    def __len__(self) -> int:
        return len(self._addresses)

    def has_room(self, address: str) -> bool:
        """Return whether one more of an address would be taken in."""
        line, limit = self._lines.get(canonical_address(address)), self._limit(address)
        count = 0 if line is None else len(line.members)
        if count >= limit:
            return False
        return len(self) < self.maximum or self._heaviest > self._weight(count + 1, limit)

    def enter(self, connection: Any, address: str) -> bool:
        """Count a connection; return False if its address, or all together, have too many already."""
        if not self.has_room(address) or (len(self) >= self.maximum and not self._make_room()):
            return False
        key = canonical_address(address)
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = _Line()
        line.members[connection] = None
        line.limit = self._limit(address)
        self._addresses[connection] = key
        self._weigh(key, line)
        return True

    def leave(self, connection: Any) -> None:
        """The connection is authenticated, or gone."""
        key = self._addresses.pop(connection, None)
        if key is not None:
            line = self._lines[key]
            del line.members[connection]
            self._weigh(key, line)
            if not line.members:
                del self._lines[key]

    def _limit(self, address: str) -> int:
        return self._loopback if self._shared(address) else self._per_address

    def _weight(self, count: int, limit: int) -> int:
        return -(-count * self._per_address // limit)

    def _weigh(self, key: str, line: _Line) -> None:
        """Put an address where it belongs after it has got or lost a connection."""
        before, line.weight = line.weight, self._weight(len(line.members), line.limit)
        if before == line.weight:
            return
        if before:
            level = self._levels[before]
            del level[key]
            if not level:
                del self._levels[before]
        if line.weight:
            self._levels.setdefault(line.weight, {})[key] = None
        self._heaviest = max(self._heaviest, line.weight)
        while self._heaviest and self._heaviest not in self._levels:
            self._heaviest -= 1

    def _make_room(self) -> bool:
        line = self._lines[next(iter(self._levels[self._heaviest]))]
        for connection in list(islice(line.members, ASKED)):
            if connection.give_way():
                self.leave(connection)
                return True
        return False


def unlimited() -> Strangers:
    """Return what counts and refuses nobody."""
    return Strangers(per_address=1_000_000, loopback=1_000_000)
