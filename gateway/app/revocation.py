"""Ending what was let in on rights that are gone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from twisted.logger import Logger

from gateway.app.hub import Hub
from gateway.errors import CloseCause, CloseCode
from gateway.interfaces import IConnection
from gateway.model import Principal, Role

Meant = Callable[[Principal], bool]
"""Whether somebody has lost the rights that it came in by."""


class Watch:
    """A connection that is being decided on: whether what the decision rests on was taken meanwhile."""

    __slots__ = ("digest", "gone", "new_secret")

    def __init__(self, digest: str | None) -> None:
        self.digest = digest
        """Of the device token it comes in by."""
        self.gone = False
        self.new_secret = False
        """Whether the shared credential was changed."""


class Revocations:
    """Closes open connections whose rights were taken away, and lets nobody in on a decision before that.

    Call it after the store has written what was taken, without waiting in between. Whoever decides on a
    connection holds a :meth:`watch` from before it asks the store until the connection is entered.
    """

    _log = Logger()

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._watches: dict[str | None, set[Watch]] = {}
        """By device."""
        self._listeners: list[Callable[[Meant], None]] = []
        self._node_listeners: list[Callable[[str], None]] = []

    def add_listener(self, listener: Callable[[Meant], None]) -> None:
        """Call a function with whom rights are taken from, for what they left behind.

        A token that died for a newer one of its device takes no rights from anybody.
        """
        self._listeners.append(listener)

    def add_node_listener(self, listener: Callable[[str], None]) -> None:
        """Call a function with the id of each device that is no node any more, for what waits for it."""
        self._node_listeners.append(listener)

    @contextmanager
    def watch(self, device_id: str | None, digest: str | None = None) -> Iterator[Watch]:
        """Hear of everything that is taken from a device, until the end of the ``with``."""
        watch = Watch(digest)
        of_device = self._watches.setdefault(device_id, set())
        of_device.add(watch)
        try:
            yield watch
        finally:
            of_device.discard(watch)
            if not of_device:
                del self._watches[device_id]

    def device(self, device_id: str) -> None:
        """A device was removed: close all of its connections."""
        self._close(lambda principal: principal.device_id == device_id, device_id)
        self._no_node(device_id)

    def role(self, device_id: str, role: str, *, renewed: bool = False) -> None:
        """A role of a device was removed, or its tokens revoked or rotated: close its connections as that.

        :param renewed: whether the device still has the role, by another token.
        """
        self._close(
            lambda principal: principal.device_id == device_id and principal.role == role, device_id
        )
        if role == Role.NODE and not renewed:
            self._no_node(device_id)

    def tokens(self, device_id: str, digests: Iterable[str]) -> None:
        """Single tokens of a device died: close the connections that came in by them.

        Who came in by the shared credential, and was given such a token for later, stays.
        """
        for digest in digests:
            for watch in self._watches.get(device_id, ()):
                watch.gone |= watch.digest == digest
            for connection in self._hub.of_token(digest):
                principal = connection.caller.principal
                if principal.device_id == device_id and principal.by_token:
                    self._end(connection, CloseCause.CLIENT_INVALIDATED, "device removed")

    def in_use(self, device_id: str) -> dict[str, int]:
        """Return the digests of a device's tokens that open connections have.

        Each with 2 where one would be closed with it, and 1 where it was only given to one.
        """
        found: dict[str, int] = {}
        for connection in self._hub.of_device(device_id):
            principal = connection.caller.principal
            digest = principal.token_digest
            if digest is not None:
                found[digest] = max(found.get(digest, 0), 2 if principal.by_token else 1)
        return found

    def shared(self, method: str) -> None:
        """The shared credential changed: close the connections that came in by it."""
        for of_device in self._watches.values():
            for watch in of_device:
                watch.new_secret = True
        self._tell(lambda principal: principal.auth_method == method)
        for connection in self._hub.connections:
            if connection.caller.principal.auth_method == method:
                self._end(connection, CloseCause.GATEWAY_AUTH_ROTATED, "gateway auth changed")

    def _close(self, meant: Meant, device_id: str) -> None:
        for watch in self._watches.get(device_id, ()):
            watch.gone = True
        self._tell(meant)
        self._end_all(device_id, meant)

    def _no_node(self, device_id: str) -> None:
        for listener in self._node_listeners:
            listener(device_id)

    def _tell(self, meant: Meant) -> None:
        for listener in self._listeners:
            listener(meant)

    def _end_all(self, device_id: str, meant: Meant) -> None:
        for connection in self._hub.of_device(device_id):
            if meant(connection.caller.principal):
                self._end(connection, CloseCause.CLIENT_INVALIDATED, "device removed")

    def _end(self, connection: IConnection, cause: CloseCause, reason: str) -> None:
        """Close one; whatever goes wrong with it, the others are closed too."""
        try:
            connection.close(cause, CloseCode.AUTHORITY_REVOKED, reason)
        except Exception:
            self._log.failure("conn={conn} was not closed", conn=connection.conn_id)
