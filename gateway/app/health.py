"""The health snapshot: made every minute, sent to everybody, answered from the cache in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from gateway.app.agents import Agent, AgentDirectory
from gateway.app.hub import Hub
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

    def state_version(self) -> dict[str, int]:
        """Return the versions that ride on presence and health events."""
        return {"presence": self.presence_version(), "health": self.version}

    async def refresh(self) -> None:
        """Make a new snapshot and send it to everybody."""
        started = self._clock.seconds()
        page: SessionPage = await self._store.find_sessions(SessionQuery(limit=RECENT))
        now_ms = self._clock.now_ms()
        sessions = _sessions(page, now_ms)
        snapshot = {
            "ok": True,
            "ts": now_ms,
            "durationMs": round((self._clock.seconds() - started) * 1000),
            "channels": {},
            "channelOrder": [],
            "channelLabels": {},
            "heartbeatSeconds": 0,
            "defaultAgentId": self._agents.default_id,
            "agents": [self._agent(agent, sessions) for agent in self._agents],
            "sessions": sessions,
        }
        self.snapshot = msgspec.Raw(encode(snapshot))
        self.version += 1
        self._hub.broadcast(Event("health", self.snapshot, state_version=self.state_version()))

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


def _sessions(page: SessionPage, now_ms: int) -> dict[str, Any]:
    return {
        "path": "store",
        "count": page.total,
        "recent": [_recent(session, now_ms) for session in page.sessions],
    }


def _recent(session: Session, now_ms: int) -> dict[str, Any]:
    return {
        "key": session.key,
        "updatedAt": session.updated_at_ms,
        "age": max(0, now_ms - session.updated_at_ms),
    }
