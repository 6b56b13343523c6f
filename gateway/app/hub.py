"""The hub: who is connected, who listens to what, and the one way an event is sent to many.

An event is encoded once per protocol version before anybody's number is taken. Who sees it follows
from the event table and the caller's scopes (default deny), from subscriptions where the event is
targeted, and from the capability ``session-scoped-events``, by which a client asks to hear only of
sessions it watches.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from twisted.logger import Logger

from gateway.app.context import Caller
from gateway.core.events import Event
from gateway.errors import InvalidRequest, Unavailable
from gateway.interfaces import IConnection
from gateway.metrics import Metrics

MAX_WATCHED_SESSIONS = 500
"""How many sessions one connection may watch by ``sessions.messages.subscribe``."""

SESSION_SCOPED = "session-scoped-events"
_SCOPED_EVENTS = frozenset({"agent", "chat", "session.tool"})


class Hub:
    """All authenticated connections and their subscriptions."""

    _log = Logger()

    def __init__(self, metrics: Metrics, *, maximum: int, per_principal: int = 0) -> None:
        self._metrics = metrics
        self._maximum = maximum
        self._per_principal = per_principal
        self._connections: dict[str, IConnection] = {}
        self._followers: set[str] = set()
        self._watched: dict[str, set[str]] = {}

    def __len__(self) -> int:
        return len(self._connections)

    @property
    def connections(self) -> list[IConnection]:
        """Every authenticated connection, oldest first."""
        return list(self._connections.values())

    def get(self, conn_id: str) -> IConnection | None:
        """Return a connection that is still there."""
        return self._connections.get(conn_id)

    def add(self, connection: IConnection) -> None:
        """Take in an authenticated connection. Raises Unavailable when there are too many."""
        if len(self._connections) >= self._maximum:
            raise Unavailable("too many connections", retryable=True, retry_after_ms=5000)
        caller: Caller = connection.caller
        if (
            self._per_principal
            and not caller.peer.local
            and self._held(caller) >= self._per_principal
        ):
            raise Unavailable("too many connections of this principal", retryable=True)
        self._connections[connection.conn_id] = connection
        self._metrics.connection_opened(caller.principal.role.value, caller.protocol)

    def _held(self, caller: Caller) -> int:
        actor = caller.principal.actor
        return sum(c.caller.principal.actor == actor for c in self._connections.values())

    def remove(self, connection: IConnection) -> bool:
        """Forget a connection and its subscriptions; return whether it was there."""
        if self._connections.pop(connection.conn_id, None) is None:
            return False
        self._followers.discard(connection.conn_id)
        self._watched.pop(connection.conn_id, None)
        caller: Caller = connection.caller
        self._metrics.connection_ended(caller.principal.role.value, caller.protocol)
        return True

    def follow_sessions(self, conn_id: str) -> None:
        """Send this connection the events of all sessions: changed rows, messages, tools."""
        if conn_id in self._connections:
            self._followers.add(conn_id)

    def watch(self, conn_id: str, session_key: str) -> None:
        """Send this connection the messages of one session."""
        if conn_id not in self._connections:
            return
        keys = self._watched.setdefault(conn_id, set())
        if session_key not in keys and len(keys) >= MAX_WATCHED_SESSIONS:
            raise InvalidRequest(f"a connection may watch at most {MAX_WATCHED_SESSIONS} sessions")
        keys.add(session_key)

    def unwatch(self, conn_id: str, session_key: str) -> None:
        """End :meth:`watch`."""
        keys = self._watched.get(conn_id)
        if keys is not None:
            keys.discard(session_key)
            if not keys:
                del self._watched[conn_id]

    def watches(self, conn_id: str, session_key: str) -> bool:
        """Whether a connection watches a session by its key."""
        return session_key in self._watched.get(conn_id, ())

    def broadcast(self, event: Event) -> None:
        """Send an event to every connection that may see it."""
        name = event.spec.name
        self._send(event, [c for c in self._connections.values() if name in c.caller.events])

    def broadcast_session(self, event: Event, session_key: str) -> None:
        """Send an event of a session to every connection that may see it and wants this session."""
        name = event.spec.name
        scoped = name in _SCOPED_EVENTS
        audience = []
        for connection in self._connections.values():
            caller: Caller = connection.caller
            if name not in caller.events:
                continue
            if (
                scoped
                and SESSION_SCOPED in caller.caps
                and not self.watches(connection.conn_id, session_key)
            ):
                continue
            audience.append(connection)
        self._send(event, audience)

    def send_to(self, event: Event, conn_ids: Iterable[str]) -> None:
        """Send an event to some connections, as far as they are there and may see it."""
        name = event.spec.name
        found = (self._connections.get(conn_id) for conn_id in conn_ids)
        self._send(event, [c for c in found if c is not None and name in c.caller.events])

    def session_followers(self, session_key: str, *, watched: bool) -> set[str]:
        """Return who follows all sessions or (``watched``) this one."""
        followers = set(self._followers)
        if watched:
            followers.update(c for c, keys in self._watched.items() if session_key in keys)
        return followers

    def _send(self, event: Event, audience: list[IConnection]) -> None:
        versions = {connection.protocol for connection in audience}
        # Encoded before any number is taken: what can't be encoded touches no sequence.
        skipped = {version for version in versions if event.parts(version) is None}
        for connection in audience:
            if connection.protocol not in skipped:
                connection.deliver(event)

    def close_all(self, cause: Any, code: int, reason: str) -> None:
        """Close every connection."""
        for connection in self.connections:
            connection.close(cause, code, reason)
