"""Summaries in a transcript: where an agent that starts afresh begins to read.

The transcript stays complete. A summary is a message of it, which says in its meta what is still to be read
as it was said: the messages from ``keptFrom`` on, and those of the runs that had not ended (``openRuns``),
wherever they stand.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import msgspec

from gateway.core.provenance import with_source
from gateway.core.transcript import SUMMARY_KIND, is_summary
from gateway.core.usage import MAX_TOKENS
from gateway.interfaces import IClock, IEntropy, IStore
from gateway.model import Compaction, Message, Session

LOOK_BACK = 200
"""How far before ``keptFrom`` the messages of a run are looked for that had not ended."""

MAX_SUMMARY_CHARS = 256 * 1024
MAX_OPEN_RUNS = 1000


class Summaries:
    """Reads histories, and writes summaries into transcripts."""

    def __init__(
        self,
        *,
        clock: IClock,
        entropy: IEntropy,
        store: IStore,
        announce: Callable[[Session], None],
    ) -> None:
        """Make it; ``announce`` is told of each session that was summarised."""
        self._clock = clock
        self._entropy = entropy
        self._store = store
        self._announce = announce

    async def history(
        self, session_id: str, limit: int, unfinished: Collection[str]
    ) -> tuple[Message, ...]:
        """Return the newest ``limit`` messages of the turns that are over, oldest first.

        Where the conversation was shortened the newest summary is the first of them, and what it stands for
        is left out.
        """
        if limit <= 0:
            return ()
        summary: Message | None = await self._store.newest_summary(session_id)
        if summary is None:
            newest = await self._newest(session_id, limit, unfinished, None)
            return tuple(map(with_source, newest))
        rest = await self._newest(session_id, limit - 1, unfinished, summary)
        return (summary, *map(with_source, rest))

    async def note(
        self,
        key: str,
        session_id: str,
        compaction: Compaction,
        unfinished: Collection[str],
        *,
        began_ms: int | None = None,
        revision: str | None = None,
        drop_binding: bool = False,
    ) -> Message | None:
        """Write a summary into the transcript of a session; None if it began anew meanwhile.

        :param unfinished: the runs whose messages are no history yet, the one that goes included.
        :param began_ms: what came later into the transcript the agent has not seen.
        :param revision: the session's lifecycle revision, where that is known from before.
        :param drop_binding: whether the agent is to start afresh.
        """
        session: Session | None = await self._store.get_session(key)
        if session is None or session.session_id != session_id:
            return None
        meta = await self._place(session_id, max(0, compaction.kept_messages), unfinished, began_ms)
        counts = {"tokensBefore": compaction.tokens_before, "tokensAfter": compaction.tokens_after}
        told = {name: count for name, count in counts.items() if _is_count(count)}
        message = Message(
            message_id=self._entropy.uuid4(),
            role="system",
            content=[{"type": "text", "text": _storable(compaction.summary)}],
            timestamp_ms=self._clock.now_ms(),
            meta={"kind": SUMMARY_KIND, **told, **meta},
        )
        known = session.lifecycle_revision if revision is None else revision

        def change(current: Session | None) -> Session | None:
            if current is None or current.lifecycle_revision != known:
                return None
            return msgspec.structs.replace(
                current,
                compactions=current.compactions + 1,
                context_tokens=told.get("tokensAfter", current.context_tokens),
                agent_session=None if drop_binding else current.agent_session,
                updated_at_ms=message.timestamp_ms,
            )

        stored: Session | None = await self._store.update_session(key, change, append=[message])
        if stored is None or stored.lifecycle_revision != known:
            return None
        self._announce(stored)
        return message

    async def held(self, session_id: str, limit: int, unfinished: Collection[str]) -> int:
        """Return how many messages stand after, or were kept by, the newest summary; at most ``limit``."""
        summary: Message | None = await self._store.newest_summary(session_id)
        return len(await self._newest(session_id, limit, unfinished, summary))

    async def first_kept(self, session_id: str, summary: Message) -> str | None:
        """Return the id of the first message that is still read as it was said."""
        kept = await self._newest(session_id, LOOK_BACK * 5, (), summary)
        return kept[0].message_id if kept else None

    async def _place(
        self,
        session_id: str,
        kept: int,
        unfinished: Collection[str],
        began_ms: int | None,
    ) -> dict[str, Any]:
        """Return which messages stay as they are, for the meta of a summary."""
        earlier: Message | None = await self._store.newest_summary(session_id)
        found = await self._newest(session_id, kept + 1, unfinished, earlier, began_ms)
        open_runs = set(unfinished)
        kept_from, before = _place_of(earlier)
        if len(found) > kept:
            kept_from = max(kept_from, found.pop(0).seq + 1)
        else:
            open_runs |= before  # nothing was summarised that was not before
        open_runs |= {m.run_id for m in found if m.run_id is not None and m.seq < kept_from}
        return {
            "keptMessages": len(found),
            "keptFrom": kept_from,
            "openRuns": sorted(open_runs)[:MAX_OPEN_RUNS],
        }

    async def _newest(
        self,
        session_id: str,
        wanted: int,
        unfinished: Collection[str],
        summary: Message | None,
        began_ms: int | None = None,
    ) -> list[Message]:
        """Return the newest messages that are history since a summary, oldest first."""
        kept_from, open_runs = _place_of(summary)
        lowest = kept_from - (LOOK_BACK if open_runs else 0)

        def counts(message: Message) -> bool:
            if message.run_id in unfinished or is_summary(message):
                return False
            if message.run_id is None and began_ms is not None and message.timestamp_ms > began_ms:
                return False
            return message.seq >= kept_from or message.run_id in open_runs

        found: list[Message] = []
        before: int | None = None
        while len(found) < wanted:
            limit = wanted - len(found) + len(unfinished)
            page: Sequence[Message] = await self._store.list_messages(
                session_id, limit=limit, before_seq=before
            )
            found[:0] = [message for message in page if counts(message)]
            if len(page) < limit or page[0].seq <= lowest:
                break
            before = page[0].seq
        return found[-wanted:] if wanted else []


def _place_of(summary: Message | None) -> tuple[int, frozenset[str]]:
    meta = {} if summary is None else summary.meta
    kept_from, runs = meta.get("keptFrom"), meta.get("openRuns")
    return (
        kept_from if isinstance(kept_from, int) else 1,
        frozenset(run for run in runs if isinstance(run, str))
        if isinstance(runs, list)
        else frozenset(),
    )


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_TOKENS


def _storable(text: str) -> str:
    return text[:MAX_SUMMARY_CHARS].encode("utf-8", "replace").decode()
