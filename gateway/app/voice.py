"""Spoken input: a node's transcript becomes a turn, once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.logger import Logger

from gateway.app.agents import AgentDirectory
from gateway.app.context import Caller
from gateway.app.runs import Runs, Turn
from gateway.core.sessionkey import agent_of, is_malformed
from gateway.core.transcript import user_content
from gateway.core.voice import TranscriptDedupe, fingerprint
from gateway.errors import GatewayError
from gateway.interfaces import IClock, IEntropy
from gateway.model import Message, RunRequest

MAX_CHARS = 20_000


class Voice:
    """Turns ``voice.transcript`` events into runs; an Sweepable."""

    _log = Logger()
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

    def sweep(self, now_ms: int) -> int:
        """Remove every expired transcript, then the oldest over the maximum; return how many."""
        return self.dedupe.sweep(now_ms, self._runs.busy)

    async def transcript(self, caller: Caller, payload: Mapping[str, Any]) -> str | None:
        """Start a turn for a transcript; return its run's id, or None where it is ignored.

        Ignored: no text, more than 20,000 characters, a repeat, an agent that does not exist.
        """
        text = payload.get("text")
        text = text.strip() if isinstance(text, str) else ""
        key = self._session_key(payload.get("sessionKey"))
        if not text or len(text) > MAX_CHARS or key is None:
            return None
        now_ms = self._clock.now_ms()
        reservation = self.dedupe.reserve(key, fingerprint(payload, text), now_ms, self._runs.busy)
        if reservation is None:
            return None
        run_id = f"voice-{self._entropy.uuid4()}"
        turn = Turn(
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
                timestamp_ms=now_ms,
                run_id=run_id,
            ),
            fingerprint=run_id,
            origin="voice",
            actor=caller.principal.actor,
            conn_id=caller.conn_id,
        )
        try:
            await self._runs.start(turn)
        except GatewayError:
            # The slot is free again, so the device's next try is not taken for a repeat.
            self.dedupe.forget(reservation)
            raise
        return run_id

    def _session_key(self, given: object) -> str | None:
        keys = self._agents.keys
        if not isinstance(given, str) or not given.strip():
            return keys.main_session()
        key = keys.canonical(given)
        known = not is_malformed(key) and self._agents.get(agent_of(key, keys)) is not None
        return key if known else None
