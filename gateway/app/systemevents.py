"""System events: what an agent is told in front of the next message of a session.

They are kept in memory, for a day, and stand in the transcript of a session that exists, for people to see.
A gateway that starts anew tells agents nothing of what was noted before, and neither does a session that was
reset or deleted: what was noted belonged to the conversation that ended.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import msgspec

from gateway.app.sessions import Sessions
from gateway.core.registry import Registry
from gateway.core.systemevents import EVENT_KIND, MAX_TEXT_CHARS, told
from gateway.interfaces import IClock, IEntropy, IStore
from gateway.model import InputProvenance, Message, Session

MAX_PER_SESSION = 20
TTL_S = 86_400.0


class _Noted(NamedTuple):
    """A text that waits, and the node that told it (empty: none did)."""

    by: str
    text: str


class SystemEvents:
    """What waits for the next turn of each session; a Sweepable."""

    name = "system-events"

    def __init__(
        self,
        *,
        clock: IClock,
        entropy: IEntropy,
        store: IStore,
        sessions: Sessions,
        maximum: int,
    ) -> None:
        self._clock = clock
        self._entropy = entropy
        self._store = store
        self._sessions = sessions
        self._waiting: Registry[tuple[_Noted, ...]] = Registry(
            self.name, maximum=maximum, ttl_s=TTL_S
        )

    def __len__(self) -> int:
        return len(self._waiting)

    def sweep(self, now: float) -> int:
        """Forget what nobody asked for in a day; return of how many sessions."""
        return self._waiting.sweep(now)

    async def note(self, key: str, text: str, source: str, *, by: str = "") -> None:
        """Tell the agent of a session something with its next turn; 20 texts wait.

        One more takes the place of the oldest text of who has most of them, so that nobody drives out what
        others have noted. The same text twice in a row is told once. Raises StoreError, and then it is told
        all the same.

        :param key: canonical.
        :param source: what it comes from, such as ``exec`` or ``system-event``.
        :param by: the id of the node that tells it, empty for an operator.
        """
        noted = _Noted(by, text[:MAX_TEXT_CHARS])
        waiting = self._waiting.get(key) or ()
        if waiting[-1:] == (noted,):
            return
        self._waiting.put(key, _bounded([*waiting, noted]), self._clock.seconds())
        session: Session | None = await self._store.get_session(key)
        if session is None:
            return  # it does not come to be by what is told of it
        provenance = InputProvenance(kind="internal_system", source_tool=source)
        meta: dict[str, Any] = {
            "kind": EVENT_KIND,
            "provenance": msgspec.to_builtins(provenance),
        }
        message = Message(
            message_id=self._entropy.uuid4(),
            role="system",
            content=[{"type": "text", "text": noted.text}],
            timestamp_ms=self._clock.now_ms(),
            meta=meta,
        )
        stored = await self._store.append_messages(session.session_id, [message])
        self._sessions.announce_messages(key, session.agent_id, stored)

    def forget(self, key: str) -> None:
        """Drop what waits for a session: its conversation has ended."""
        self._waiting.pop(key)

    def take(self, key: str) -> str | None:
        """Return what is put in front of the next message of a session; it is told once."""
        return told([noted.text for noted in self._waiting.pop(key) or ()])


def _bounded(waiting: list[_Noted]) -> tuple[_Noted, ...]:
    """Return the texts without the one that is too many, if one is."""
    if len(waiting) > MAX_PER_SESSION:
        counts = Counter(noted.by for noted in waiting)
        most = max(counts.values())
        waiting.remove(next(noted for noted in waiting if counts[noted.by] == most))
    return tuple(waiting)
