"""The hub: who is connected, who listens to what, and the one way an event is sent to many.

An event is encoded once per protocol version before anybody's number is taken. Who sees it follows
from the event table and the caller's scopes (default deny), from subscriptions where the event is
targeted, and from the capability ``session-scoped-events``, by which a client asks to hear only of
sessions it watches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from twisted.logger import Logger

from gateway.app.context import Caller
from gateway.core.attempts import canonical_address
from gateway.core.events import Event
from gateway.errors import InvalidRequest, Unavailable
from gateway.interfaces import IConnection
from gateway.metrics import Metrics

MAX_WATCHED_SESSIONS = 500
"""How many sessions one connection may watch by ``sessions.messages.subscribe``."""

MAX_COPIED_SESSIONS = 100
"""Of how many sessions one node may have copies by ``chat.subscribe``."""

SESSION_SCOPED = "session-scoped-events"
_SCOPED_EVENTS = frozenset({"agent", "chat", "session.tool"})


class _Audience:
    """The connections that may see one event, by protocol version."""

    __slots__ = ("plain", "scoped")

    def __init__(self, name: str, connections: Iterable[IConnection]) -> None:
        self.plain: dict[int, list[IConnection]] = {}
        self.scoped: list[IConnection] = []
        """Those that want it only of the sessions they watch."""
        narrow = name in _SCOPED_EVENTS
        for connection in connections:
            caller: Caller = connection.caller
            if name not in caller.events:
                continue
            if narrow and SESSION_SCOPED in caller.caps:
                self.scoped.append(connection)
            else:
                self.plain.setdefault(connection.protocol, []).append(connection)


class Hub:
    """All authenticated connections and their subscriptions."""

    _log = Logger()

    def __init__(self, metrics: Metrics, *, maximum: int, per_principal: int = 0) -> None:
        self._metrics = metrics
        self._maximum = maximum
        self._per_principal = per_principal
        self._connections: dict[str, IConnection] = {}
        self._devices: dict[str, dict[str, IConnection]] = {}
        """The connections of each device, by their id."""
        self._tokens: dict[str, dict[str, IConnection]] = {}
        """Who stands on a device token, by its digest."""
        self._held: dict[str, int] = {}
        """Connections that count against their principal's budget, by actor."""
        self._audiences: dict[str, _Audience] = {}
        """Who may see an event, by its name; found again whenever a connection comes or goes."""
        self._followers: set[str] = set()
        self._watched: dict[str, set[str]] = {}
        self._with_approvals: dict[str, set[str]] = {}
        """Of the watched sessions those whose approvals are wanted."""
        self._copied: dict[str, dict[str, IConnection]] = {}
        """Who has copies of the events of a session, by its key and the connection's id."""
        self._copies_of: dict[str, set[str]] = {}
        """Of which sessions a connection has copies."""

    def __len__(self) -> int:
        return len(self._connections)

    @property
    def connections(self) -> list[IConnection]:
        """Every authenticated connection, oldest first."""
        return list(self._connections.values())

    def get(self, conn_id: str) -> IConnection | None:
        """Return a connection that is still there."""
        return self._connections.get(conn_id)

    def of_device(self, device_id: str) -> list[IConnection]:
        """Return the connections of one device, oldest first."""
        return list(self._devices.get(device_id, {}).values())

    def of_token(self, digest: str) -> list[IConnection]:
        """Return the connections that came in by a device token, oldest first."""
        return list(self._tokens.get(digest, {}).values())

    def add(self, connection: IConnection) -> None:
        """Take in an authenticated connection. Raises Unavailable when there are too many."""
        if len(self._connections) >= self._maximum:
            raise Unavailable("too many connections", retryable=True, retry_after_ms=5000)
        caller: Caller = connection.caller
        actor = self._budgeted(caller)
        if actor is not None:
            held = self._held.get(actor, 0)
            if held >= self._per_principal:
                raise Unavailable("too many connections of this principal", retryable=True)
            self._held[actor] = held + 1
        self._connections[connection.conn_id] = connection
        for index, key in self._indexes(caller):
            index.setdefault(key, {})[connection.conn_id] = connection
        self._audiences.clear()
        self._metrics.connection_opened(caller.principal.role.value, caller.protocol)

    def _indexes(self, caller: Caller) -> Iterator[tuple[dict[str, dict[str, IConnection]], str]]:
        """Yield each index that a connection is in, and its key there."""
        principal = caller.principal
        if principal.device_id is not None:
            yield self._devices, principal.device_id
        if principal.token_digest is not None and principal.by_token:
            yield self._tokens, principal.token_digest

    def _budgeted(self, caller: Caller) -> str | None:
        """Return whose budget a connection counts against; None for local ones and without budgets.

        A device has one, and so has a user that the proxy names. Who only shares the credential has one
        for each address: one client must not use up the places of all others.
        """
        if not self._per_principal or caller.peer.local:
            return None
        principal = caller.principal
        if principal.device_id is not None:
            return principal.device_id
        return f"{principal.actor}:{principal.user or canonical_address(caller.peer.address)}"

    def remove(self, connection: IConnection) -> bool:
        """Forget a connection and its subscriptions; return whether it was there."""
        if self._connections.pop(connection.conn_id, None) is None:
            return False
        self._audiences.clear()
        self._followers.discard(connection.conn_id)
        self._watched.pop(connection.conn_id, None)
        self._with_approvals.pop(connection.conn_id, None)
        for key in tuple(self._copies_of.get(connection.conn_id, ())):
            self.stop_copying(connection.conn_id, key)
        caller: Caller = connection.caller
        for index, key in self._indexes(caller):
            del index[key][connection.conn_id]
            if not index[key]:
                del index[key]
        actor = self._budgeted(caller)
        if actor is not None:
            self._held[actor] -= 1
            if not self._held[actor]:
                del self._held[actor]
        self._metrics.connection_ended(caller.principal.role.value, caller.protocol)
        return True

    def follow_sessions(self, conn_id: str) -> None:
        """Send this connection the events of all sessions: changed rows, messages, tools."""
        if conn_id in self._connections:
            self._followers.add(conn_id)

    def watch(self, conn_id: str, session_key: str, *, approvals: bool = False) -> None:
        """Send this connection the messages of one session, and of its approvals if they are wanted."""
        if conn_id not in self._connections:
            return
        keys = self._watched.setdefault(conn_id, set())
        if session_key not in keys and len(keys) >= MAX_WATCHED_SESSIONS:
            raise InvalidRequest(f"a connection may watch at most {MAX_WATCHED_SESSIONS} sessions")
        keys.add(session_key)
        if approvals:
            self._with_approvals.setdefault(conn_id, set()).add(session_key)

    def unwatch(self, conn_id: str, session_key: str) -> None:
        """End :meth:`watch`."""
        keys = self._watched.get(conn_id)
        if keys is not None:
            keys.discard(session_key)
            if not keys:
                del self._watched[conn_id]
        wanted = self._with_approvals.get(conn_id)
        if wanted is not None:
            wanted.discard(session_key)
            if not wanted:
                del self._with_approvals[conn_id]

    def watches(self, conn_id: str, session_key: str) -> bool:
        """Whether a connection watches a session by its key."""
        return session_key in self._watched.get(conn_id, ())

    def approval_watchers(self, session_key: str) -> list[str]:
        """Return the connections that want to hear of the approvals of a session."""
        return [conn for conn, keys in self._with_approvals.items() if session_key in keys]

    def copy_to(self, conn_id: str, session_key: str) -> None:
        """Send this connection copies of the events of one session, whatever its scopes; without numbers.

        Raises InvalidRequest when it has copies of too many.
        """
        connection = self._connections.get(conn_id)
        if connection is None:
            return
        keys = self._copies_of.setdefault(conn_id, set())
        if session_key not in keys and len(keys) >= MAX_COPIED_SESSIONS:
            raise InvalidRequest(f"a node may subscribe to at most {MAX_COPIED_SESSIONS} sessions")
        keys.add(session_key)
        self._copied.setdefault(session_key, {})[conn_id] = connection

    def stop_copying(self, conn_id: str, session_key: str) -> None:
        """End :meth:`copy_to`."""
        keys = self._copies_of.get(conn_id, set())
        if session_key not in keys:
            return
        keys.discard(session_key)
        if not keys:
            del self._copies_of[conn_id]
        receivers = self._copied[session_key]
        del receivers[conn_id]
        if not receivers:
            del self._copied[session_key]

    def broadcast(self, event: Event) -> None:
        """Send an event to every connection that may see it."""
        audience = self._audience(event.spec.name)
        self._send(event, [*audience.plain.items(), *_by_version(audience.scoped)])

    def broadcast_where(self, event: Event, wanted: Callable[[Caller], bool]) -> None:
        """Send an event to every connection that may see it and whose caller is ``wanted``."""
        name = event.spec.name
        chosen = [
            connection
            for connection in self._connections.values()
            if name in connection.caller.events and wanted(connection.caller)
        ]
        self._send(event, _by_version(chosen))

    def broadcast_session(self, event: Event, session_key: str) -> None:
        """Send an event of a session to every connection that may see it and wants this session."""
        audience = self._audience(event.spec.name)
        if session_key in self._copied:
            self._send_copies(event, self._copied[session_key])
        if not audience.scoped:
            self._send(event, audience.plain.items())
            return
        watching = [c for c in audience.scoped if self.watches(c.conn_id, session_key)]
        self._send(event, [*audience.plain.items(), *_by_version(watching)])

    def send_to(self, event: Event, conn_ids: Iterable[str], session_key: str) -> None:
        """Send an event of a session to some connections, as far as they are there and may see it."""
        name = event.spec.name
        chosen = []
        for connection in filter(None, map(self._connections.get, conn_ids)):
            caller: Caller = connection.caller
            scoped = name in _SCOPED_EVENTS and SESSION_SCOPED in caller.caps
            if name in caller.events and (
                not scoped or self.watches(connection.conn_id, session_key)
            ):
                chosen.append(connection)
        self._send(event, _by_version(chosen))

    def _audience(self, name: str) -> _Audience:
        found = self._audiences.get(name)
        if found is None:
            found = self._audiences[name] = _Audience(name, self._connections.values())
        return found

    def session_followers(self, session_key: str, *, watched: bool) -> set[str]:
        """Return who follows all sessions or (``watched``) this one."""
        followers = set(self._followers)
        if watched:
            followers.update(c for c, keys in self._watched.items() if session_key in keys)
        return followers

    def _send_copies(self, event: Event, receivers: dict[str, IConnection]) -> None:
        for connection in list(receivers.values()):
            try:
                connection.deliver_direct(event)
            except Exception:
                self._not_delivered(event, connection)

    def _send(self, event: Event, audience: Iterable[tuple[int, Sequence[IConnection]]]) -> None:
        # Encoded before any number is taken: what can't be encoded touches no sequence.
        ready = [group for version, group in audience if event.parts(version) is not None]
        for group in ready:
            for connection in group:
                try:
                    connection.deliver(event)
                except Exception:
                    self._not_delivered(event, connection)

    def _not_delivered(self, event: Event, connection: IConnection) -> None:
        self._log.failure(
            "event {event} was not delivered conn={conn}",
            event=event.spec.name,
            conn=connection.conn_id,
        )


def _by_version(connections: Iterable[IConnection]) -> list[tuple[int, list[IConnection]]]:
    groups: dict[int, list[IConnection]] = {}
    for connection in connections:
        groups.setdefault(connection.protocol, []).append(connection)
    return list(groups.items())
