"""Who is not authenticated yet: counted per address and in all, from the first byte on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gateway.core.access import is_local_address
from gateway.core.attempts import canonical_address


class Strangers:
    """Connections that are not authenticated yet, counted per canonical address.

    A connection is counted from when it is accepted, whether it sends anything or not, and counts as
    one however its protocol changes meanwhile.
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
        self._per_address = per_address
        self._loopback = loopback
        self._maximum = maximum
        self._shared = shared
        self._addresses: dict[Any, str] = {}
        self._counts: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._addresses)

    def enter(self, connection: Any, address: str) -> bool:
        """Count a connection; return False if its address, or all together, have too many already."""
        limit = self._loopback if self._shared(address) else self._per_address
        key = canonical_address(address)
        if len(self._addresses) >= self._maximum or self._counts.get(key, 0) >= limit:
            return False
        self._addresses[connection] = key
        self._counts[key] = self._counts.get(key, 0) + 1
        return True

    def leave(self, connection: Any) -> None:
        """The connection is authenticated, or gone."""
        key = self._addresses.pop(connection, None)
        if key is not None:
            self._counts[key] -= 1
            if not self._counts[key]:
                del self._counts[key]


def unlimited() -> Strangers:
    """Return what counts and refuses nobody."""
    return Strangers(per_address=1_000_000, loopback=1_000_000)
