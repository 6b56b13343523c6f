"""Spoken input: a node's transcript becomes a turn, once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import DeferredLock

from gateway.app.agents import AgentDirectory
from gateway.app.context import Caller
from gateway.app.runs import Runs
from gateway.app.turn import Turn
from gateway.core.sessionkey import agent_of, is_malformed
from gateway.core.transcript import user_content
from gateway.core.voice import Fingerprint, TranscriptDedupe, fingerprint
from gateway.interfaces import IClock, IEntropy
from gateway.model import Message, RunRequest

MAX_CHARS = 20_000
MAX_KEY_CHARS = 1024


class Voice:
    """Turns ``voice.transcript`` events into runs; a Sweepable."""

    name = "voice"

    def __init__(
        self,
        *,
        clock: IClock,
        entropy: IEntropy,
        runs: Runs,
        agents: AgentDirectory,
        dedupe: TranscriptDedupe,
    ) -> None:
        self._clock = clock
        self._entropy = entropy
        self._runs = runs
        self._agents = agents
        self.dedupe = dedupe
        self._deciding: dict[str, DeferredLock] = {}
        """One lock for each session with a transcript that is being decided."""

    def __len__(self) -> int:
        return len(self.dedupe)

    def sweep(self, now: float) -> int:
        """Remove every expired transcript, then the oldest over the maximum; return how many."""
        return self.dedupe.sweep(round(now * 1000), self._runs.busy)

    async def transcript(self, caller: Caller, payload: Mapping[str, Any]) -> str | None:
        """Start a turn for a transcript; return its run's id, or None where it is ignored.

        Ignored: no text, more than 20,000 characters, a repeat, an agent that does not exist. Raises
        as :meth:`gateway.app.runs.Runs.start`.
        """
        text = payload.get("text")
        text = text.strip() if isinstance(text, str) else ""
        key = self._session_key(payload.get("sessionKey"))
        if not text or len(text) > MAX_CHARS or key is None:
            return None
        mark = fingerprint(payload, text)
        turn = self._turn(caller, key, text)
        # One after the other within a session: a transcript that is refused must not have cost a
        # later one, which looked like its repeat, its turn.
        lock = self._deciding.setdefault(key, DeferredLock())
        try:
            async with lock:
                return await self._decide(turn, mark)
        finally:
            if not lock.locked:
                self._deciding.pop(key, None)

    async def _decide(self, turn: Turn, mark: Fingerprint) -> str | None:
        key, arrived_ms = turn.request.session_key, round(self._clock.seconds() * 1000)
        reservation = self.dedupe.reserve(key, mark, arrived_ms, self._runs.busy)
        if reservation is None:
            return None
        try:
            await self._runs.start(turn)
        except Exception:
            # The slot is free again, so the device's next try is not taken for a repeat.
            self.dedupe.forget(reservation)
            raise
        return turn.request.run_id

    def _turn(self, caller: Caller, key: str, text: str) -> Turn:
        run_id = f"voice-{self._entropy.uuid4()}"
        return Turn(
            request=RunRequest(
                run_id=run_id,
                session_key=key,
                session_id="",
                agent_id=agent_of(key, self._agents.keys),
                text=text,
                thinking="low",
            ),
            message=Message(
                message_id=self._entropy.uuid4(),
                role="user",
                content=user_content(text),
                timestamp_ms=self._clock.now_ms(),
                run_id=run_id,
            ),
            fingerprint=run_id,
            origin="voice",
            actor=caller.principal.actor,
            conn_id=caller.conn_id,
        )

    def _session_key(self, given: object) -> str | None:
        keys = self._agents.keys
        if not isinstance(given, str) or not given.strip():
            return keys.main_session()
        if len(given) > MAX_KEY_CHARS:
            return None
        key = keys.canonical(given)
        known = not is_malformed(key) and self._agents.get(agent_of(key, keys)) is not None
        return key if known else None
