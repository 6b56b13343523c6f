"""Which models can not be used now, as the ends of runs have shown.

Nobody is asked: a provider that refused a key, or that is out of quota, has said so at the end of a run.
That stands until a run with the model ends well, or for five minutes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gateway.app.agents import AgentDirectory
from gateway.core.registry import Registry
from gateway.core.run import RunOutcome, RunOutput
from gateway.errors import BackendErrorKind
from gateway.interfaces import IClock
from gateway.model import RunState

STANDS_S: Final = 300.0
MAX_TROUBLES: Final = 1000
_REFUSED: Final = (401, 403)
_EXHAUSTED: Final = (402, 429)


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a model can not be used: ``auth-failed`` or ``cooldown`` (protocol: ModelUnavailableReason)."""

    reason: str
    until_ms: int
    """From when on it is tried again as if nothing had been."""


class ModelHealth:
    """What runs have shown of models: a listener of theirs, and a registry that is swept."""

    name = "models-troubled"

    def __init__(self, clock: IClock, agents: AgentDirectory) -> None:
        self._clock = clock
        self._agents = agents
        self._troubles: Registry[Trouble] = Registry(
            self.name, maximum=MAX_TROUBLES, ttl_s=STANDS_S
        )

    def __len__(self) -> int:
        return len(self._troubles)

    def __call__(self, output: RunOutput) -> None:
        """Take in the end of a run."""
        if output.outcome is not None:
            self._ended(output.run.request.agent_id, output.outcome)

    def sweep(self, now: float) -> int:
        """Forget what was long ago."""
        return self._troubles.sweep(now)

    def trouble(self, agent_id: str, provider: str, model: str) -> Trouble | None:
        """Return why an agent can not use a model now, as far as that is known."""
        found = self._troubles.get(_key(agent_id, provider, model))
        return None if found is None or found.until_ms <= self._clock.now_ms() else found

    def _ended(self, agent_id: str, outcome: RunOutcome) -> None:
        agent = self._agents.get(agent_id)
        if agent is None:
            return
        detail = outcome.error_detail or {}
        provider = detail.get("provider") or outcome.provider or agent.model.provider
        model = detail.get("model") or outcome.model or agent.model.id
        key = _key(agent_id, str(provider), str(model))
        reason = _reason(outcome)
        if reason is not None:
            until_ms = self._clock.now_ms() + round(STANDS_S * 1000)
            self._troubles.put(key, Trouble(reason, until_ms), self._clock.seconds())
        elif outcome.state is RunState.DONE:
            self._troubles.pop(key)


def _key(*parts: str) -> str:
    return "\n".join(parts)


def _reason(outcome: RunOutcome) -> str | None:
    status = (outcome.error_detail or {}).get("httpStatus")
    if status in _REFUSED:
        return "auth-failed"
    limited = outcome.error_kind is BackendErrorKind.RATE_LIMIT
    return "cooldown" if limited or status in _EXHAUSTED else None
