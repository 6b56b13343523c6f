"""Work that needs a session to itself: it takes a place in the session's lane, as a run does.

What waits for a place is in the lane; who cancels, or lets go, leaves it, and the next one goes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from twisted.internet.defer import Deferred, fail

from gateway.core.lanes import LaneFull, Lanes
from gateway.errors import GatewayError, Unavailable


class Hold:
    """A session held: no run of it goes until it is released."""

    def __init__(self, release: Callable[[], None]) -> None:
        self.stopped = False
        """Whether somebody wanted the work to end."""
        self._release: Callable[[], None] | None = release
        self._stop: Callable[[], object] | None = None

    def stopped_by(self, stop: Callable[[], object]) -> None:
        """Have ``stop`` called, once, if somebody wants the work to end."""
        self._stop = stop

    def stop(self) -> bool:
        """End the work that the session is held for; return whether that can be done."""
        stop, self._stop = self._stop, None
        if stop is None:
            return False
        self.stopped = True
        stop()
        return True

    def release(self) -> None:
        """Let the next one go. Idempotent."""
        release, self._release, self._stop = self._release, None, None
        if release is not None:
            release()


@dataclass(frozen=True, slots=True)
class _Place:
    hold: Hold
    waiting: Deferred[Hold]


class Holds:
    """The places that are no runs', in all lanes. As many as the lanes may hold."""

    def __init__(self, lanes: Lanes, go_on: Callable[[str], None]) -> None:
        """Make it empty; ``go_on`` is called with a session whose first place may be another's now."""
        self._lanes = lanes
        self._go_on = go_on
        self._places: dict[str, _Place] = {}

    def __len__(self) -> int:
        return len(self._places)

    def hold(self, session_key: str, hold_id: str) -> Deferred[Hold]:
        """Return the session once it is free; cancel to wait no more.

        Fails with Unavailable where too many wait already.
        """

        def leave() -> None:
            del self._places[hold_id]
            self._lanes.leave(session_key, hold_id)
            self._go_on(session_key)

        hold = Hold(leave)
        place = _Place(hold, Deferred(lambda _: hold.release()))
        try:
            first = self._lanes.enter(session_key, hold_id)
        except LaneFull:
            return fail(Unavailable("too many messages wait in this session", retryable=True))
        self._places[hold_id] = place
        if first:
            self.reached(hold_id)
        return place.waiting

    def reached(self, place_id: str) -> bool:
        """Give a place that is first in its lane to who waits for it; return whether it is one of these."""
        place = self._places.get(place_id)
        if place is not None and not place.waiting.called:
            place.waiting.callback(place.hold)
        return place is not None

    def stop(self, session_key: str) -> list[str]:
        """End the work that a session is held for, where that can be ended; return its id."""
        first = self._lanes.runs(session_key)[:1]
        place = self._places.get(first[0]) if first else None
        return [*first] if place is not None and place.hold.stop() else []

    def dismiss(self, error: GatewayError) -> None:
        """Tell everybody who waits that it is in vain."""
        for place in list(self._places.values()):
            if not place.waiting.called:
                place.hold.release()
                place.waiting.errback(error)
