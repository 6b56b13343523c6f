"""Requests for runs that are still being looked at: an abort must find them too.

Between the arrival of a request and the run that it makes the store is asked this and that. A client
that aborts right after it has sent would be told that there is nothing to abort, and the run would go.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class _Request:
    __slots__ = ("doomed", "held", "session_key")

    def __init__(self, session_key: str) -> None:
        self.session_key = session_key
        self.held = 0
        self.doomed: str | None = None


class Coming:
    """The requests that are looked at, by run. Bounded by what connections may have in work at once."""

    def __init__(self) -> None:
        self._requests: dict[str, _Request] = {}

    def __len__(self) -> int:
        return len(self._requests)

    @contextmanager
    def expected(self, run_id: str, session_key: str) -> Iterator[None]:
        """Know of a run while its request is looked at; a repeat of the request is the same run."""
        request = self._requests.setdefault(run_id, _Request(session_key))
        request.held += 1
        try:
            yield
        finally:
            request.held -= 1
            if not request.held:
                del self._requests[run_id]

    def session_of(self, run_id: str) -> str | None:
        """Return the session that a run is coming to."""
        request = self._requests.get(run_id)
        return None if request is None else request.session_key

    def doom(self, run_id: str, stop_reason: str) -> bool:
        """Have a run end as soon as it is accepted; return whether it is coming."""
        request = self._requests.get(run_id)
        if request is None:
            return False
        request.doomed = request.doomed or stop_reason
        return True

    def to(self, session_key: str) -> list[str]:
        """Return the runs that are coming to a session."""
        return [run for run, each in self._requests.items() if each.session_key == session_key]

    def doomed(self, run_id: str) -> str | None:
        """Return why a run is to end at once, None if it is not."""
        request = self._requests.get(run_id)
        return None if request is None else request.doomed
