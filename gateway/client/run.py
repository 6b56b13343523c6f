"""A run as the user of a client sees it: an async iterator over the answer, with an abort handle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from gateway.client.chat import ChatReader, RunEnded, RunEvent, merge_text
from gateway.client.errors import ClientError
from gateway.client.feed import Feed


class Run:
    """One turn, as ``Client.chat`` started it.

    Iterate once: :class:`~gateway.client.chat.TextDelta` (now and then a ``TextReplaced``), then
    exactly one :class:`~gateway.client.chat.RunEnded`. A refused message raises RequestFailed, a lost
    connection ConnectionLost. A slow reader gets fewer, larger deltas.
    """

    def __init__(
        self,
        run_id: str,
        session_key: str,
        *,
        abort: Callable[[Run], Deferred[Any]],
        over: Callable[[Run], None],
    ) -> None:
        self.run_id = run_id
        self.session_key = session_key
        self._reader = ChatReader()
        self._feed: Feed[RunEvent] = Feed(limit=2, merge=merge_text)  # one text, one end
        self._abort = abort
        self._over = over

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

    def abort(self) -> Deferred[Any]:
        """Ask the gateway to stop the run; its end still comes as an event."""
        return self._abort(self)

    def answered(self, payload: Any) -> None:
        """Take in the answer to ``chat.send``."""
        self._push(self._reader.answer(payload))

    def refused(self, failure: Failure) -> None:
        """Take in that ``chat.send`` failed."""
        assert isinstance(failure.value, ClientError)
        self.lost(failure.value)

    def event(self, payload: dict[str, Any]) -> None:
        """Take in a ``chat`` event of this run."""
        self._push(self._reader.event(payload))

    def lost(self, error: ClientError) -> None:
        """End the iteration with an error."""
        self._feed.end(error)
        self._over(self)

    def _push(self, events: list[RunEvent]) -> None:
        for event in events:
            self._feed.push(event)
        if self._reader.ended:
            self._feed.end()
            self._over(self)
