"""What was used, told to clients: by day, by model, by session. The database adds it up."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from msgspec import structs

from gateway.app.days import Days
from gateway.core import usageshapes as shapes
from gateway.core.transcript import text_of
from gateway.interfaces import IStore
from gateway.model import LatencySum, Message, Session, UsageQuery, UsageSum

MAX_SESSIONS = 1000
"""Sessions that are counted, and that can be listed."""

MAX_PARTS = 5000
"""Parts (a day and a model of a session) that are told of the listed sessions, the newest ones."""

MAX_POINTS = 200
"""Runs in the curve of a session, the newest ones."""

MAX_LOG_CHARS = 2000
"""A message in the log of a session is cut to so many characters."""

EVER_MS = 2**53


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which usage somebody asks for."""

    days: Days
    agent_id: str | None = None
    session_key: str | None = None

    def query(self, **more: Any) -> UsageQuery:
        """Return the query for it."""
        return UsageQuery(
            since_ms=self.days.since_ms,
            until_ms=self.days.until_ms,
            days=self.days.spans,
            agent_id=self.agent_id,
            session_keys=() if self.session_key is None else (self.session_key,),
            **more,
        )


class UsageReports:
    """Reads what was used."""

    def __init__(self, store: IStore) -> None:
        self._store = store

    async def first_ms(self) -> int | None:
        """Return when the first run ended whose usage is known."""
        sums = await self._sum(UsageQuery(since_ms=0, until_ms=EVER_MS))
        return sums[0].first_at_ms if sums else None

    async def cost(self, wanted: Wanted) -> dict[str, Any]:
        """Return the totals of a range, and of each day."""
        sums = await self._sum(wanted.query(by=("day",)))
        return {
            "days": wanted.days.count,
            "daily": shapes.daily(sums, wanted.days.name),
            "totals": shapes.totals(sums),
        }

    async def sessions(self, wanted: Wanted, *, limit: int, family: bool) -> dict[str, Any]:
        """Return the totals of a range in every way, and of ``limit`` sessions, the last used first.

        With ``family`` all that was under a key is one session, else each session id is.
        """
        days = wanted.days
        everything = await self._sum(wanted.query(by=("day", "agent", "provider", "model")))
        latency: tuple[LatencySum, ...] = await self._store.sum_latency(wanted.query())
        daily: tuple[LatencySum, ...] = await self._store.sum_latency(wanted.query(by=("day",)))
        wholes = await self._sum(
            wanted.query(by=("key" if family else "session",), limit=MAX_SESSIONS)
        )
        rows = await self._rows(wanted, wholes[:limit], family)
        aggregates = shapes.aggregates(everything, latency, daily, days.name)
        aggregates["sessionCount"] = len(wholes)
        aggregates["longestSessionDurationMs"] = max(
            (each.last_at_ms - each.first_at_ms for each in wholes), default=0
        )
        aggregates["byCreator"] = []
        aggregates["costDaily"] = shapes.daily(everything, days.name)
        return {
            "startDate": days.first.isoformat(),
            "endDate": days.last.isoformat(),
            "sessions": rows,
            "totals": shapes.totals(everything),
            "aggregates": aggregates,
        }

    async def timeseries(self, session: Session) -> list[dict[str, Any]]:
        """Return the newest runs of a session as points of a curve, oldest first."""
        everything = UsageQuery(
            since_ms=0,
            until_ms=EVER_MS,
            session_keys=(session.key,),
            session_id=session.session_id,
        )
        newest = await self._sum(structs.replace(everything, by=("run",), limit=MAX_POINTS))
        return shapes.points(newest[::-1], await self._sum(everything))

    async def logs(self, session: Session, limit: int) -> list[dict[str, Any]]:
        """Return the newest messages of a session, oldest first, with what they used."""
        messages: tuple[Message, ...] = await self._store.list_messages(
            session.session_id, limit=limit
        )
        return [_entry(message) for message in messages]

    async def _rows(
        self, wanted: Wanted, wholes: tuple[UsageSum, ...], family: bool
    ) -> list[dict[str, Any]]:
        keys = tuple(dict.fromkeys(each.session_key or "" for each in wholes))
        if not keys:
            return []
        query = wanted.query(
            by=("key" if family else "session", "day", "provider", "model"), limit=MAX_PARTS
        )
        parts: defaultdict[tuple[str | None, str | None], list[UsageSum]] = defaultdict(list)
        for part in await self._sum(structs.replace(query, session_keys=keys)):
            parts[part.session_key, part.session_id].append(part)
        known = {key: await self._store.get_session(key) for key in keys}
        name = wanted.days.name
        return [
            shapes.session_usage(
                each,
                known[each.session_key or ""],
                parts[each.session_key, each.session_id],
                name,
            )
            for each in wholes
        ]

    async def _sum(self, query: UsageQuery) -> tuple[UsageSum, ...]:
        sums: tuple[UsageSum, ...] = await self._store.sum_usage(query)
        return sums


def _entry(message: Message) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "timestamp": message.timestamp_ms,
        "role": message.role,
        "content": text_of(message.content)[:MAX_LOG_CHARS],
    }
    usage = message.meta.get("usage")
    if isinstance(usage, dict):
        entry["tokens"] = usage.get("totalTokens", 0)
        cost = usage.get("cost")
        if isinstance(cost, dict):
            entry["cost"] = cost.get("total", 0)
    return entry
