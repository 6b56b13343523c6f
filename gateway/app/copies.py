"""Copies for nodes: a node hears of the sessions that it subscribed to, and of no others.

Nodes see no broadcast that needs a scope, since they have none. By the node events ``chat.subscribe`` and
``chat.unsubscribe`` a node asks for direct copies, without numbers, of what is broadcast of a session
(``agent``, ``chat``). A subscription is the connection's and ends with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gateway.app.agents import AgentDirectory
from gateway.app.context import Caller
from gateway.app.hub import Hub
from gateway.app.nodeevents import ignored
from gateway.core.sessionkey import is_malformed

MAX_KEY_CHARS: Final = 1024


class ChatCopies:
    """The node events ``chat.subscribe`` and ``chat.unsubscribe``: ``{sessionKey}``."""

    def __init__(self, hub: Hub, agents: AgentDirectory) -> None:
        self._hub = hub
        self._agents = agents

    async def subscribe(
        self, caller: Caller, payload: Mapping[str, Any]
    ) -> Mapping[str, Any] | None:
        """Send copies of a session's events from now on. Raises InvalidRequest for too many sessions."""
        key = self._key(payload)
        if key is None:
            return ignored("invalid_payload")
        self._hub.copy_to(caller.conn_id, key)
        return None

    async def unsubscribe(
        self, caller: Caller, payload: Mapping[str, Any]
    ) -> Mapping[str, Any] | None:
        """Send no more copies of a session's events."""
        key = self._key(payload)
        if key is None:
            return ignored("invalid_payload")
        self._hub.stop_copying(caller.conn_id, key)
        return None

    def _key(self, payload: Mapping[str, Any]) -> str | None:
        given = payload.get("sessionKey")
        text = given.strip() if isinstance(given, str) else ""
        if not text or len(text) > MAX_KEY_CHARS or is_malformed(text):
            return None
        return self._agents.keys.canonical(text)
