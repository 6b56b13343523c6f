"""The words that wake devices: stored, and told to everybody who listens."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger

from gateway.app.context import Caller
from gateway.app.hub import Hub
from gateway.core import voicewake
from gateway.core.events import Event
from gateway.interfaces import IClock, IConnection, IStore

SETTING = "voicewake"

ROUTING = {
    "config": {
        "version": 1,
        "defaultTarget": {"mode": "current"},
        "routes": (),
        "updatedAtMs": 0,
    }
}
"""Every word wakes the session that a device is at: there is nothing to route by yet."""


class VoiceWake:
    """The triggers. They are read from the store once."""

    _log = Logger()

    def __init__(self, *, clock: IClock, store: IStore, hub: Hub) -> None:
        self._clock = clock
        self._store = store
        self._hub = hub
        self._triggers: tuple[str, ...] | None = None
        self._busy = DeferredLock()
        """Held while the store reads or writes them: what is read must not replace what was written since."""

    async def triggers(self) -> tuple[str, ...]:
        """Return the words. Raises StoreError."""
        if self._triggers is not None:
            return self._triggers
        async with self._busy:
            return await self._read()

    async def _read(self) -> tuple[str, ...]:
        if self._triggers is None:  # somebody else may have asked first
            self._triggers = voicewake.decoded(await self._store.get_setting(SETTING))
        return self._triggers

    async def set(self, triggers: list[str]) -> tuple[str, ...]:
        """Replace the words and tell everybody; return them as they are kept. Raises StoreError."""
        kept = voicewake.normal(triggers)
        data = voicewake.encoded(kept, self._clock.now_ms())
        async with self._busy:
            self._triggers = None  # a change that fails may have been stored all the same
            await self._store.update_setting(SETTING, lambda _: data)
            self._triggers = kept
            event = _changed(kept)
            self._hub.broadcast(event)
            for connection in self._hub.connections:
                if connection.caller.is_node:
                    connection.deliver_direct(event)
        return kept

    def greet(self, connection: IConnection) -> None:
        """Tell a node that has come what to listen for, as soon as that is known."""
        caller: Caller = connection.caller
        if caller.is_node:
            telling = Deferred.fromCoroutine(self._tell(connection))
            telling.addErrback(self._not_told, caller.conn_id)

    async def _tell(self, connection: IConnection) -> None:
        connection.deliver_direct(_changed(await self.triggers()))
        connection.deliver_direct(Event("voicewake.routing.changed", ROUTING, v3=None))

    def _not_told(self, failure: Any, conn_id: str) -> None:
        self._log.warn(
            "the wake words were not told conn={conn}: {error}",
            conn=conn_id,
            error=failure.getErrorMessage(),
        )


def _changed(triggers: tuple[str, ...]) -> Event:
    return Event("voicewake.changed", {"triggers": triggers})
