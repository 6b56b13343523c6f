"""One run at a time in a session; the others wait in order, boundedly many."""

from __future__ import annotations

from collections import deque


class LaneFull(Exception):
    """As many runs wait in the session as may wait."""


class Lanes:
    """The lanes of all sessions. A lane exists only while a run is in it."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        """How many runs may wait behind the one that goes."""
        self._lanes: dict[str, deque[str]] = {}

    def __len__(self) -> int:
        return len(self._lanes)

    def busy(self, key: str) -> bool:
        """Whether a run goes in this session."""
        return key in self._lanes

    def runs(self, key: str) -> tuple[str, ...]:
        """Return the runs of a session, the one that goes first."""
        return tuple(self._lanes.get(key, ()))

    def enter(self, key: str, run_id: str, *, anyway: bool = False, ahead: bool = False) -> bool:
        """Put a run in its lane; return whether it may go at once.

        :param ahead: whether it stands right behind the run that goes. It ends that one, so there is room
            for one more than the depth says.

        Raises LaneFull, but not for a run that was accepted before (``anyway``).
        """
        lane = self._lanes.get(key)
        if lane is None:
            self._lanes[key] = deque((run_id,))
            return True
        if len(lane) > self.depth + ahead and not anyway:
            raise LaneFull(key)
        if ahead:
            lane.insert(1, run_id)
        else:
            lane.append(run_id)
        return False

    def leave(self, key: str, run_id: str) -> str | None:
        """Take a run out of its lane; return the run that may go now, if that changed."""
        lane = self._lanes.get(key)
        if lane is None or run_id not in lane:
            return None
        first = lane[0] == run_id
        lane.remove(run_id)
        if not lane:
            del self._lanes[key]
            return None
        return lane[0] if first else None
