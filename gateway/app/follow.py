"""Following runs by position: what a client lacks of a log, then every event as it comes.

Requirements. Whatever a client has missed, and whatever happens while that is read, it gets each event of
a log once and in order, or is told that some are gone. A client that does not read costs no memory here.

Design. A follow is a cursor: an epoch and the number of the last event sent. It is ``live`` while its
cursor stands at the end of a run that goes on and its connection takes what it is sent; then each new
event is encoded once for all of them. Otherwise it catches up: it reads page by page from its cursor,
waits where the connection is busy, and is live again when a look finds nothing behind the cursor: that
look and the change are one step, so no event can come between them. The log itself is the buffer for what
happens meanwhile, and a cursor can neither skip nor repeat. Of the follows of one connection one reads at
a time: two pages at once might be more than it can take, and one of them looks whether it is busy.

Where the log has a hole, or goes on in another epoch, the client is sent an event that does not follow
the one before: it then asks again, and is answered with a gap and a snapshot.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.internet.task import deferLater
from twisted.logger import Logger

from gateway.app.hub import Hub
from gateway.app.logreader import EVENT_BYTES, Hole, LogReader, LogView
from gateway.app.logshapes import Reading, Wish, end_of, put_off, run_event, shown
from gateway.core.resume import Standing, Status, standing
from gateway.core.run import RunOutput
from gateway.errors import InvalidRequest, StoreError, Unavailable
from gateway.interfaces import IClock, IConnection
from gateway.metrics import Metrics
from gateway.model import Position, RunEvent

MAX_FOLLOWED: Final = 200
"""Runs that one connection may follow."""

MAX_FOLLOWS: Final = 100_000
"""Follows of all connections together."""

PAGE_EVENTS: Final = 100
PAGE_BYTES: Final = 256 * 1024
"""What a follow that catches up is sent before others get their turn."""

ANSWER_BYTES: Final = 4 * 1024 * 1024
"""Bytes of events in an answer; what is beyond follows as events, or with the next read."""

BUSY_S: Final = 0.05
"""When a connection that was busy is looked at again."""

RETRY_S: Final = 1.0
"""When a store that failed is asked again, and a run that nobody drives yet is looked for."""


class Follow:
    """One run as one connection follows it."""

    __slots__ = ("connection", "epoch", "reading", "run_id", "seq", "turn")

    def __init__(
        self, connection: IConnection, run_id: str, position: Position, turn: DeferredLock
    ) -> None:
        self.connection, self.run_id = connection, run_id
        self.epoch = position.epoch
        self.seq = position.seq
        """The number of the last event sent."""
        self.turn = turn
        """Held by that follow of the connection which reads."""
        self.reading: Deferred[None] | None = None
        """Its catching up, while it does."""


class Follows:
    """All follows: a listener of :class:`gateway.app.runs.Runs`, registered behind its log."""

    name = "follows"
    _log = Logger()

    def __init__(self, *, clock: IClock, hub: Hub, reader: LogReader, metrics: Metrics) -> None:
        self._clock = clock
        self._hub = hub
        self._reader = reader
        self._metrics = metrics
        self._follows: dict[str, dict[str, Follow]] = {}
        """By connection and run."""
        self._live: dict[str, dict[str, Follow]] = {}
        """Those that are live, by run and connection."""
        self._count = 0

    def __len__(self) -> int:
        return self._count

    # -- what clients ask

    async def read(self, wish: Wish) -> dict[str, Any]:
        """Return the events behind a position. Raises Unavailable."""
        return (await self._answer(wish, ANSWER_BYTES)).answer

    async def follow(self, conn_id: str, wishes: Iterable[Wish]) -> list[dict[str, Any]]:
        """Return what :meth:`read` does for each run, and send the connection what comes after.

        What is asked for stands for a follow of the same run before it. The events come after the
        answer, if that is sent at once. Raises Unavailable, and InvalidRequest for too many.
        """
        answers: list[dict[str, Any]] = []
        positions: dict[str, Position] = {}
        room = ANSWER_BYTES
        for wish in wishes:
            self.unfollow(conn_id, wish.run_id)
            reading = await self._answer(wish, room)
            if reading.size > room and answers:
                reading = put_off(wish, reading)
            room = max(0, room - reading.size)
            answers.append(reading.answer)
            if reading.position is not None:
                positions[wish.run_id] = reading.position
        self._enter(conn_id, positions)
        return answers

    def unfollow(self, conn_id: str, run_id: str) -> bool:
        """Follow a run no more; return whether it was followed."""
        follow = self._follows.get(conn_id, {}).get(run_id)
        if follow is None:
            return False
        self._end(follow)
        return True

    # -- what happens

    def left(self, conn_id: str) -> None:
        """A connection is gone, and what it followed with it."""
        for follow in list(self._follows.get(conn_id, {}).values()):
            self._end(follow)

    def sweep(self, now: float) -> int:
        """Drop what connections that are gone have left; return how much that was: nothing."""
        gone = [conn_id for conn_id in self._follows if self._hub.get(conn_id) is None]
        before = self._count
        for conn_id in gone:
            self.left(conn_id)
        return before - self._count

    def __call__(self, output: RunOutput) -> None:
        """Send one output to those who follow its run and stand right before it."""
        live = self._live.get(output.run.run_id)
        if live is None:
            return
        run, seq, event = output.run, output.seq, None
        for follow in tuple(live.values()):
            if follow.seq >= seq or not self._is_followed(follow):
                continue  # sending to one can end another
            if follow.seq != seq - 1 or follow.epoch != run.epoch or follow.connection.waiting:
                self._catch_up(follow)
                continue
            event = event or run_event(run.run_id, run.epoch, output)
            follow.seq = seq
            follow.connection.deliver_direct(event)
            if output.outcome is not None:
                self._end(follow)

    # -- answering

    async def _answer(self, wish: Wish, max_bytes: int) -> Reading:
        """Answer a wish with so many bytes of events. Raises Unavailable."""
        try:
            reading = await self._read(wish, max_bytes)
        except StoreError as error:
            self._log.warn("run {run} was not read: {error}", run=wish.run_id, error=error)
            text = "the store failed; try again"
            raise Unavailable(text, retryable=True, retry_after_ms=1000) from error
        self._metrics.log_read(str(reading.answer["status"]))
        return reading

    async def _read(self, wish: Wish, max_bytes: int) -> Reading:
        view = await self._reader.view(wish.run_id)
        if view is None:
            return Reading({"runId": wish.run_id, "status": Status.UNKNOWN, "events": []})
        status, seq = standing(wish.after, view.epoch, view.first_seq, view.last_seq)
        evicted, size = view.first_seq - 1, 0
        events: tuple[RunEvent, ...] = ()
        if status is Status.REPLAY and max_bytes:
            try:
                events = await self._reader.page(view, seq, wish.limit, max_bytes)
            except Hole as hole:
                evicted = hole.through
                view = await self._reader.view(wish.run_id) or view  # as far as it is now
                status, seq = Standing(Status.GAP, view.last_seq)
        seq = events[-1].seq if events else seq
        answer: dict[str, Any] = {
            "runId": wish.run_id,
            "status": status,
            "epoch": view.epoch,
            "events": [shown(event) for event in events],
            "next": {"epoch": view.epoch, "seq": seq},
        }
        if status is Status.GAP:
            text = await self._reader.text_of(view)
            answer["evictedThrough"] = evicted
            answer["snapshot"] = {"text": text, "state": view.state.value}
            size = len(text) if text.isascii() else 4 * len(text)
        size += sum(len(event.data) + EVENT_BYTES for event in events)
        over = view.state.terminal and seq >= view.last_seq
        return Reading(answer, None if over else Position(epoch=view.epoch, seq=seq), size)

    # -- following

    def _enter(self, conn_id: str, positions: Mapping[str, Position]) -> None:
        """Follow runs from positions on, all of them or none."""
        connection = self._hub.get(conn_id)
        if connection is None:
            return  # it left meanwhile
        followed = self._follows.get(conn_id, {})
        more = len(positions.keys() - followed.keys())
        if len(followed) + more > MAX_FOLLOWED:
            raise InvalidRequest(f"a connection may follow at most {MAX_FOLLOWED} runs")
        if self._count + more > MAX_FOLLOWS:
            raise Unavailable("too many runs are followed", retryable=True, retry_after_ms=5000)
        turn = next((follow.turn for follow in followed.values()), None) or DeferredLock()
        for run_id, position in positions.items():
            self.unfollow(conn_id, run_id)  # what another request asked for meanwhile
            follow = Follow(connection, run_id, position, turn)
            self._follows.setdefault(conn_id, {})[run_id] = follow
            self._count += 1
            if not self._go_live(follow):
                self._catch_up(follow)

    def _go_live(self, follow: Follow) -> bool:
        """Make a follow live if it stands at the end of a run that goes on; return whether it does."""
        view = self._reader.live(follow.run_id)
        if view is None or (view.epoch, view.last_seq) != (follow.epoch, follow.seq):
            return False
        self._live.setdefault(follow.run_id, {})[follow.connection.conn_id] = follow
        return True

    def _end(self, follow: Follow) -> None:
        """Follow no more. It may have ended already, by the end of its connection."""
        if not self._is_followed(follow):
            return
        self._not_live(follow)
        reading, follow.reading = follow.reading, None
        if reading is not None:
            reading.cancel()
        conn_id = follow.connection.conn_id
        followed = self._follows[conn_id]
        del followed[follow.run_id]
        self._count -= 1
        if not followed:
            del self._follows[conn_id]

    def _is_followed(self, follow: Follow) -> bool:
        return self._follows.get(follow.connection.conn_id, {}).get(follow.run_id) is follow

    def _not_live(self, follow: Follow) -> None:
        live = self._live.get(follow.run_id, {})
        if live.pop(follow.connection.conn_id, None) is not None and not live:
            del self._live[follow.run_id]

    # -- catching up

    def _catch_up(self, follow: Follow) -> None:
        self._not_live(follow)
        follow.reading = Deferred.fromCoroutine(self._carry_on(follow))
        follow.reading.addErrback(lambda failure: failure.trap(CancelledError) and None)
        follow.reading.addErrback(
            lambda failure: self._log.failure(
                "following run {run} failed conn={conn}",
                failure=failure,
                run=follow.run_id,
                conn=follow.connection.conn_id,
            )
        )

    async def _carry_on(self, follow: Follow) -> None:
        """Send what lies behind the cursor, page by page, until it is live or the log has ended."""
        pause: float | None = 0.0
        failing = False
        while pause is not None:
            if pause:
                await self._sleep(pause)
            async with follow.turn:
                await self._sleep(0)
                while follow.connection.waiting:
                    await self._sleep(BUSY_S)
                try:
                    pause, events = await self._next_page(follow)
                    failing = False
                except StoreError as error:
                    if not failing:  # once, not every second
                        text = "run {run} was not read: {error}"
                        self._log.warn(text, run=follow.run_id, error=error)
                    pause, events, failing = RETRY_S, (), True
                self._send(follow, events)
            if not self._is_followed(follow):
                return
        follow.reading = None
        if not self._go_live(follow):
            self._end(follow)

    def _sleep(self, seconds: float) -> Deferred[None]:
        return deferLater(self._clock, seconds, lambda: None)

    def _send(self, follow: Follow, events: Iterable[RunEvent]) -> None:
        # Sending may end the connection and with it the follow, which must not cancel what is running.
        reading, follow.reading = follow.reading, None
        for event in events:
            follow.epoch, follow.seq = event.epoch, event.seq
            follow.connection.deliver_direct(run_event(event.run_id, event.epoch, event))
        follow.reading = reading

    async def _next_page(self, follow: Follow) -> tuple[float | None, Sequence[RunEvent]]:
        """Return the next events, and after how long to look for more; None if there is nothing left."""
        view = await self._reader.view(follow.run_id)
        if view is None:
            return None, ()
        if view.epoch != follow.epoch or view.last_seq < follow.seq:
            return await self._break(follow, view)
        if view.last_seq == follow.seq:
            # What nobody drives is about to be ended, or driven again.
            return None if view.live or view.state.terminal else RETRY_S, ()
        try:
            return 0.0, await self._reader.page(view, follow.seq, PAGE_EVENTS, PAGE_BYTES)
        except Hole:
            return await self._break(follow, view)

    async def _break(
        self, follow: Follow, view: LogView
    ) -> tuple[float | None, Sequence[RunEvent]]:
        """Go on behind what is missing, with the last event there is: by it the client sees the hole."""
        if not view.live and not view.state.terminal:
            return RETRY_S, ()
        events: Sequence[RunEvent] = ()
        try:
            if view.last_seq:  # else the first event will tell
                events = await self._reader.page(view, view.last_seq - 1, 1, PAGE_BYTES)
        except Hole:
            events = () if view.outcome is None else (end_of(view, view.outcome),)
        follow.epoch, follow.seq = view.epoch, view.last_seq
        return 0.0, events
