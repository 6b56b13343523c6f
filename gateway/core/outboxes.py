"""What waits in all outboxes together, and who gives when that is too much.

Requirements. Many slow clients must not cost more than one number says, however much each of them may
hold; who keeps up must not pay for who does not.

Design. One counter that every outbox adds to, so that a frame costs one addition. Only when it is over
its maximum somebody looks who holds most: they shed what is droppable, then the largest are closed. A
relief frees a sixteenth of the maximum, so the search is paid for by as many bytes that were queued.

Rejected: a share for each connection (nearly all wait for nothing, and few could use what is there), a
queue ordered by size (work for every frame, for what should never happen).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import Final, Protocol, TypeVar

RELIEF: Final = 16
"""A relief frees the maximum divided by this."""


class _Outbox(Protocol):
    @property
    def held(self) -> int:
        """Bytes that are kept for its client."""

    def shed(self, size: int) -> int:
        """Shed droppable frames."""


class _Holder(Protocol):
    @property
    def outbox(self) -> _Outbox:
        """What waits for it."""


H = TypeVar("H", bound=_Holder)


class Outboxes:
    """The bytes that all outboxes hold."""

    __slots__ = ("held", "max_bytes")

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held = 0

    @property
    def full(self) -> bool:
        """Whether somebody has to give."""
        return self.held > self.max_bytes

    def relieve(self, holders: Iterable[H]) -> Iterator[H]:
        """Shed droppable frames of those who hold most, then yield who has to be closed, largest first.

        The caller closes (and clears the outbox of) each one before it asks for the next.
        """
        enough = self.max_bytes - self.max_bytes // RELIEF
        size = attrgetter("outbox.held")
        largest = sorted((h for h in holders if h.outbox.held), key=size, reverse=True)
        for holder in largest:
            if self.held <= enough:
                return
            holder.outbox.shed(self.held - enough)
        for holder in sorted(largest, key=size, reverse=True):
            if self.held <= enough:
                return
            yield holder
