"""What is known of connections: those that are open, and a bounded history of those that ended.

Requirements. Whoever asks why a client has gone must find the answer without a log file; a flood of
refused connections must not push out those of authenticated clients; the memory is bounded, whatever
peers send. Nothing here that the close line of the log does not tell.

Design. An ended connection is kept as JSON text, the form in which it is answered: small, and of a
known size. Who was authenticated and who was not are two rings. What is open is asked of whoever has
the connections, when somebody wants to know, so that it costs a connection nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from heapq import merge
from itertools import islice
from typing import Any, Final, NamedTuple, Self

from gateway.core.frames import encode
from gateway.core.registry import Registry
from gateway.interfaces import IClock
from gateway.limits import LimitsConfig

MAX_ENTRY_BYTES: Final = 4096
"""Largest entry; in a larger one every text is cut."""

_CUTS: Final = (120, 60, 30, 15)
"""Characters to which the texts of an entry are cut, one after the other, until it fits."""

Found = tuple[list[Any], int]
"""Connections as they are answered, the newest first, and how many there are in all."""

OpenConnections = Callable[[int, str], Found]
"""From (limit, beginning of an id) to the open connections."""


class _Entry(NamedTuple):
    conn_id: str
    order: int
    data: bytes


class Ledger:
    """The connections of a gateway.

    :ivar opened: tells of the open ones; none until somebody who has them is given.
    """

    def __init__(self, clock: IClock, *, maximum: int, ttl_s: float) -> None:
        self._clock = clock
        self._known: Registry[_Entry] = Registry("connections-closed", maximum=maximum, ttl_s=ttl_s)
        self._strangers: Registry[_Entry] = Registry(
            "connections-refused", maximum=maximum, ttl_s=ttl_s
        )
        self._count = 0
        self.opened: OpenConnections = lambda limit, prefix: ([], 0)

    @classmethod
    def of(cls, limits: LimitsConfig, clock: IClock) -> Self:
        """Return the ledger that a configuration asks for."""
        ttl_s = limits.closed_connections_ttl_s
        return cls(clock, maximum=limits.closed_connections_max, ttl_s=ttl_s)

    @property
    def rings(self) -> tuple[Registry[_Entry], Registry[_Entry]]:
        """The ended connections that were authenticated, and the others."""
        return self._known, self._strangers

    def add(self, conn_id: str, facts: Mapping[str, Any], *, authenticated: bool) -> None:
        """Keep what is known of a connection that ended. Raises EncodeFailed where that is no JSON."""
        data = encode(facts)
        for characters in _CUTS:
            if len(data) > MAX_ENTRY_BYTES:
                data = encode(_cut(facts, characters))
        self._count += 1
        ring = self._known if authenticated else self._strangers
        ring.put(conn_id, _Entry(conn_id, self._count, data), self._clock.seconds())

    def closed(self, limit: int, prefix: str = "") -> list[bytes]:
        """Return ended connections as JSON texts, the newest first: those whose id begins like that."""
        newest_first = (reversed([*ring]) for ring in self.rings)
        merged = merge(*newest_first, key=lambda entry: -entry.order)
        found = (entry.data for entry in merged if entry.conn_id.startswith(prefix))
        return list(islice(found, limit))


def _cut(value: Any, characters: int) -> Any:
    if isinstance(value, Mapping):
        return {name: _cut(each, characters) for name, each in value.items()}
    return value[:characters] if isinstance(value, str) else value
