"""A run as the user of a client sees it: an async iterator over the answer, with an abort handle."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Protocol

from gateway.client.chat import RunEnded, RunEvent, merge_text
from gateway.client.errors import ClientError
from gateway.client.feed import Feed
from gateway.client.loop import Loop
from gateway.model import Position


class Reader(Protocol):
    """The client that a run belongs to, as far as a run needs it."""

    def abort_run(self, run: Run) -> Awaitable[Any]:
        """Ask the gateway to stop a run."""

    def drop_run(self, run: Run) -> None:
        """Read a run no more."""

    def position_of(self, run: Run) -> Position | None:
        """How far the log of a run was read."""


class Run:
    """One turn, as ``Client.chat`` started it or ``Client.follow`` found it.

    Iterate once: :class:`~gateway.client.chat.TextDelta` (now and then a ``TextReplaced``), then
    exactly one :class:`~gateway.client.chat.RunEnded`. A slow reader gets fewer, larger deltas. Raises
    RequestFailed where the message was refused, RunLost where nobody knows what became of it, and what
    ended the connection where the client does not come back.
    """

    def __init__(self, loop: Loop, reader: Reader, run_id: str, session_key: str) -> None:
        self.run_id = run_id
        self.session_key = session_key
        self._reader = reader
        self._feed: Feed[RunEvent] = Feed(
            loop.waiter, limit=2, merge=merge_text
        )  # one text, one end

    @property
    def position(self) -> Position | None:
        """Where to go on with ``Client.follow``, in another process even; ``None`` if not known.

        It stands after what was received, which may be more than what was iterated over.
        """
        return self._reader.position_of(self)

    def __aiter__(self) -> Run:
        return self

    async def __anext__(self) -> RunEvent:
        """Return the next event of the answer."""
        return await self._feed.__anext__()

    async def result(self) -> RunEnded:
        """Read to the end and return it. Raises what the iteration raises."""
        async for event in self:
            if isinstance(event, RunEnded):
                return event
        raise RuntimeError("the end of this run has been read already")

    def abort(self) -> Awaitable[Any]:
        """Ask the gateway to stop the run; its end still comes as an event."""
        return self._reader.abort_run(self)

    def close(self) -> None:
        """Read no further; the run itself goes on."""
        self._feed.end()
        self._reader.drop_run(self)

    # From here on: for the client.

    def said(self, events: list[RunEvent]) -> None:
        """Take in what the run told; its end ends the iteration."""
        for event in events:
            self._feed.push(event)
            if isinstance(event, RunEnded):
                self._feed.end()

    def lost(self, error: ClientError) -> None:
        """End the iteration with an error."""
        self._feed.end(error)
