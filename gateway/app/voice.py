"""Spoken input: a node's transcript becomes a turn, once."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from twisted.internet.defer import DeferredLock

from gateway.app.context import Caller
from gateway.app.nodes import node_id
from gateway.app.nodeturns import SPOKEN_BY, NodeTurns, text_of
from gateway.app.runs import Runs
from gateway.app.turn import Turn
from gateway.core.run import RunOutput
from gateway.core.turnfence import TurnFence, TurnToken, turn_token
from gateway.core.voice import (
    IDENTITY_RETENTION_MS,
    Fingerprint,
    FingerprintKind,
    TranscriptDedupe,
    fingerprint,
    is_interim,
)
from gateway.interfaces import IClock, IEntropy
from gateway.model import InputProvenance

SPOKEN = InputProvenance(kind="external_user", source_channel="voice")
"""People speak to a device: it is the user's word, which the device has heard."""


class Voice:
    """Turns ``voice.transcript`` events into runs; a Sweepable."""

    name = "voice"

    def __init__(
        self,
        *,
        clock: IClock,
        entropy: IEntropy,
        runs: Runs,
        turns: NodeTurns,
        dedupe: TranscriptDedupe,
        fence: TurnFence,
    ) -> None:
        self._clock = clock
        self._entropy = entropy
        self._runs = runs
        self._turns = turns
        self.dedupe = dedupe
        self.fence = fence
        self._began = clock.seconds()
        self._deciding: dict[str, DeferredLock] = {}
        """One lock for each session with a transcript that is being decided."""

    def __len__(self) -> int:
        return len(self.dedupe) + len(self.fence)

    def sweep(self, now: float) -> int:
        """Remove every expired transcript and call, then the oldest over the maximum; return how many."""
        now_ms = round(now * 1000)
        return self.dedupe.sweep(now_ms, self._runs.busy) + self.fence.sweep(now_ms)

    def heard(self, output: RunOutput) -> None:
        """Listen to runs: once an agent has said something, a text may be said to that."""
        if output.outcome is not None and output.run.text:
            self.dedupe.answered(output.run.session_key)

    async def told(self, caller: Caller, payload: Mapping[str, Any]) -> None:
        """Take a ``voice.transcript`` event; whether it began a turn is not told."""
        await self.transcript(caller, payload)

    async def transcript(self, caller: Caller, payload: Mapping[str, Any]) -> str | None:
        """Start a turn for a transcript; return its run's id, or None where it is ignored.

        Ignored: no text, more than 20,000 characters, one that is not final, a repeat, one of a turn that
        is over, an agent that does not exist, a session that takes no messages, one new session too many.
        Raises as :meth:`gateway.app.runs.Runs.start`.
        """
        text = text_of(payload.get("text"))
        key = self._turns.key(payload.get("sessionKey"))
        if text is None or key is None or is_interim(payload):
            return None
        mark = fingerprint(payload, text)
        run_id, before = self._run_ids(key, mark)
        turn = self._turns.turn(
            caller,
            key,
            text,
            run_id=run_id,
            origin=SPOKEN_BY,
            fingerprint=run_id,
            provenance=SPOKEN,
            thinking="low",
        )
        # One after the other within a session: a transcript that is refused must not have cost a
        # later one, which looked like its repeat, its turn.
        lock = self._deciding.setdefault(key, DeferredLock())
        try:
            async with lock:
                return await self._decide(caller, turn, mark, turn_token(payload), before)
        finally:
            if not lock.locked:
                self._deciding.pop(key, None)

    async def _decide(
        self,
        caller: Caller,
        turn: Turn,
        mark: Fingerprint,
        token: TurnToken | None,
        before: str | None,
    ) -> str | None:
        key, arrived_ms = turn.request.session_key, round(self._clock.seconds() * 1000)
        if not self.fence.admits(key, token, arrived_ms):
            return None
        reservation = self.dedupe.reserve(key, mark, arrived_ms, self._runs.busy)
        if reservation is None:
            return None
        try:
            refused = await self._turns.refused(node_id(caller), key) is not None
            known = not refused and await self._was_taken(before)
            fresh = not refused and not known and (await self._runs.start(turn)).fresh
        except BaseException:
            # The slot is free again, so the device's next try is not taken for a repeat.
            self.dedupe.forget(reservation)
            raise
        if refused:
            self.dedupe.forget(reservation)
            return None
        self.fence.accepted(key, token, arrived_ms)
        return turn.request.run_id if fresh else None

    def _run_ids(self, key: str, mark: Fingerprint) -> tuple[str, str | None]:
        """Return the id of the run that a transcript would begin, and the one that it may have begun.

        An identity gives the id of its run, anew every five minutes, so that the store knows what was
        taken by a process that died meanwhile.
        """
        if mark.kind is not FingerprintKind.IDENTITY:
            return f"voice-{self._entropy.uuid4()}", None
        slot = self._clock.now_ms() // IDENTITY_RETENTION_MS
        name = mark.identities[-1]
        return _run_id(key, name, slot), _run_id(key, name, slot - 1)

    async def _was_taken(self, run_id: str | None) -> bool:
        """Whether an earlier process took a transcript less than five minutes ago, under an id of then."""
        young = self._clock.seconds() - self._began <= IDENTITY_RETENTION_MS / 1000
        if run_id is None or not young:
            return False
        record = await self._runs.store.get_run(run_id)
        age_ms = 0 if record is None else self._clock.now_ms() - record.accepted_at_ms
        return record is not None and age_ms <= IDENTITY_RETENTION_MS


def _run_id(key: str, name: str, slot: int) -> str:
    digest = sha256(f"{key}\n{name}\n{slot}".encode("utf-8", "surrogatepass"))
    return f"voice-{digest.hexdigest()[:32]}"
