"""An async iterator that is filled by callbacks: bounded, for one reader, in either event loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from gateway.client.errors import ClientError
from gateway.client.loop import MakeWaiter, Waiter

T = TypeVar("T")


class Feed(Generic[T]):
    """Items for one reader, in order.

    A reader that lags finds neighbours joined by ``merge``; where that does not help and ``limit``
    items wait, the oldest are dropped, and ``gap(count)`` makes the item that says so.
    """

    def __init__(
        self,
        make_waiter: MakeWaiter,
        *,
        limit: int,
        merge: Callable[[T, T], T | None] | None = None,
        gap: Callable[[int], T] | None = None,
        on_close: Callable[[Feed[T]], None] | None = None,
    ) -> None:
        self._make_waiter = make_waiter
        self._items: deque[T] = deque()
        self._limit = limit
        self._merge = merge
        self._gap = gap
        self._on_close = on_close
        self._dropped = 0
        self._ended = False
        self._error: ClientError | None = None
        self._waiter: Waiter | None = None

    def push(self, item: T) -> None:
        """Add an item; after the end it is ignored."""
        if self._ended:
            return
        if self._items and self._merge and (merged := self._merge(self._items[-1], item)):
            self._items[-1] = merged
        else:
            self._items.append(item)
        if len(self._items) > self._limit:
            self._items.popleft()
            self._dropped += 1
        self._wake()

    def end(self, error: ClientError | None = None) -> None:
        """End the iteration after what is there; with an error, by raising it."""
        if not self._ended:
            self._ended = True
            self._error = error
            self._wake()

    def close(self) -> None:
        """Stop taking items in, from the reader's side; what is there can still be read."""
        self.end()
        if self._on_close is not None:
            self._on_close(self)

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.resolve(None)

    def __aiter__(self) -> Feed[T]:
        return self

    async def __anext__(self) -> T:
        """Return the next item. Raises the error of the end, once everything before it was read."""
        while not self._items:
            if self._ended:
                error, self._error = self._error, None
                raise error or StopAsyncIteration
            if self._waiter is not None:
                raise RuntimeError("two readers of one feed")
            self._waiter = self._make_waiter(self._cancelled)
            await self._waiter.awaitable
        if self._dropped and self._gap is not None:
            dropped, self._dropped = self._dropped, 0
            return self._gap(dropped)
        return self._items.popleft()

    def _cancelled(self) -> None:
        self._waiter = None
