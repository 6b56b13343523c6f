"""The health snapshot: made every minute, sent to everybody, answered from the cache in between.

Everybody may know that the gateway is well. Which sessions there are is for those who may read: session
keys name people.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from gateway.app.agents import Agent, AgentDirectory
from gateway.app.context import Caller
from gateway.app.hub import Hub
from gateway.core.access import READ
from gateway.core.events import Event
from gateway.core.frames import encode
from gateway.interfaces import IClock, IStore
from gateway.model import Session, SessionPage, SessionQuery

RECENT = 5
REFRESH_S = 60.0


class Health:
    """The last snapshot, already encoded, and its version."""

    def __init__(self, *, clock: IClock, store: IStore, hub: Hub, agents: AgentDirectory) -> None:
        self._clock = clock
        self._store = store
        self._hub = hub
        self._agents = agents
        self.presence_version: Callable[[], int] = int
        """Set by the composition root: the presence list's version."""
        self.version = 0
        self.snapshot = msgspec.Raw(b"{}")
        """As those see it who may read."""
        self.reduced = msgspec.Raw(b"{}")
        """As everybody else sees it."""
        self._made = (b"{}", b"{}")
        """Both forms without the state of the event loop, which is newer than they are."""
        self._event_loop = b""
        self.event_loop: dict[str, Any] | None = None
        """How late the event loop is, where something watches it (protocol: health, version 4)."""

    def seen_by(self, caller: Caller) -> msgspec.Raw:
        """Return the snapshot as a caller may see it."""
        return self.snapshot if READ in caller.scopes else self.reduced

    def state_version(self) -> dict[str, int]:
        """Return the versions that ride on presence and health events."""
        return {"presence": self.presence_version(), "health": self.version}

    def tell_event_loop(self, state: dict[str, Any]) -> None:
        """Take in how the event loop does; whoever asks from now on is told."""
        self.event_loop = state
        self._event_loop = b',"eventLoop":' + encode(state)
        if self.version:
            self._put_together()

    async def refresh(self) -> None:
        """Make a new snapshot and send it to everybody."""
        started = self._clock.seconds()
        whole: SessionPage = await self._store.find_sessions(SessionQuery(limit=RECENT))
        pages: dict[str, SessionPage] = {}
        agents = tuple(self._agents)
        for agent in agents:
            query = SessionQuery(limit=RECENT, agent_id=agent.agent_id)
            pages[agent.agent_id] = await self._store.find_sessions(query)
        now_ms = self._clock.now_ms()
        duration_ms = round((self._clock.seconds() - started) * 1000)

        def encoded(*, recent: bool) -> bytes:
            snapshot = {
                "ok": True,
                "ts": now_ms,
                "durationMs": duration_ms,
                "channels": {},
                "channelOrder": [],
                "channelLabels": {},
                "heartbeatSeconds": 0,
                "defaultAgentId": self._agents.default_id,
                "agents": [
                    self._agent(agent, _sessions(pages[agent.agent_id], now_ms, recent=recent))
                    for agent in agents
                ],
                "sessions": _sessions(whole, now_ms, recent=recent),
            }
            return encode(snapshot)

        self._made = encoded(recent=True), encoded(recent=False)
        self.version += 1
        self._put_together()
        self._broadcast()

    def _put_together(self) -> None:
        """Put the state of the loop into what is answered; nothing else is encoded again."""
        self.snapshot, self.reduced = (
            msgspec.Raw(made[:-1] + self._event_loop + b"}") for made in self._made
        )

    def _broadcast(self) -> None:
        version = self.state_version()
        full = Event("health", self.snapshot, state_version=version)
        self._hub.broadcast_where(full, lambda caller: READ in caller.scopes)
        reduced = Event("health", self.reduced, state_version=version)
        self._hub.broadcast_where(reduced, lambda caller: READ not in caller.scopes)

    def _agent(self, agent: Agent, sessions: dict[str, Any]) -> dict[str, Any]:
        return {
            "agentId": agent.agent_id,
            "name": agent.name,
            "isDefault": agent.agent_id == self._agents.default_id,
            "heartbeat": {
                "enabled": False,
                "every": "0m",
                "everyMs": None,
                "prompt": "",
                "target": "none",
                "ackMaxChars": 0,
            },
            "sessions": sessions,
        }


def _sessions(page: SessionPage, now_ms: int, *, recent: bool) -> dict[str, Any]:
    shown = page.sessions if recent else ()
    return {
        "path": "store",
        "count": page.total,
        "recent": [_recent(session, now_ms) for session in shown],
    }


def _recent(session: Session, now_ms: int) -> dict[str, Any]:
    return {
        "key": session.key,
        "updatedAt": session.updated_at_ms,
        "age": max(0, now_ms - session.updated_at_ms),
    }
