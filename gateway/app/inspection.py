"""What is known of runs, as ``runs.list`` and ``runs.describe`` tell it: from memory, then from the store.

A run that goes on, and one whose end waits for the store, is told from its record in memory, which is newer
than what the store has, and needs no store.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeVar

from twisted.internet.defer import Deferred, TimeoutError
from twisted.logger import Logger

from gateway.app.agents import Agent, AgentDirectory
from gateway.app.ends import STORE_PATIENCE_S
from gateway.app.runs import Runs
from gateway.core.run import Run, valid_text
from gateway.errors import StoreError
from gateway.interfaces import IWorkerBackend
from gateway.model import RunQuery, RunRecord, RunState

MAX_FACTS: Final = 16
"""How many facts a backend may tell of its worker."""
MAX_FACT_CHARS: Final = 300
MAX_WORKERS: Final = 64
"""How many processes of one agent are told of."""

R = TypeVar("R", Run, RunRecord)

_OPEN: Final = tuple(state for state in RunState if not state.terminal)
_STORED_MAX: Final = 1000
"""What the store lists at once, at most."""


class Inspection:
    """Looks at runs without touching them."""

    _log = Logger()

    def __init__(self, runs: Runs, agents: AgentDirectory) -> None:
        self._runs = runs
        self._agents = agents

    async def find(
        self, limit: int, session_key: str | None, state: RunState | None
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Return runs, the one accepted last first, and why those of the store are missing, if they are.

        A store that fails, or does not answer within a second, keeps nobody from seeing what goes on.
        """

        def wanted_of(runs: Iterable[R]) -> list[R]:
            return [run for run in runs if session_key in (None, run.session_key)]

        live, ended = wanted_of(self._runs.unended), wanted_of(self._runs.ends.records)
        states = () if state is None else (state,) if state.terminal else _OPEN
        # What memory knows better may stand for as many rows of the store.
        wanted = min(_STORED_MAX, limit + len(live) + len(ended))
        query = RunQuery(limit=wanted, session_key=session_key, states=states)
        missing = None
        try:
            reading: Deferred[tuple[RunRecord, ...]] = self._runs.store.runs_of(query)
            stored = await reading.addTimeout(STORE_PATIENCE_S, self._runs.clock)
        except StoreError as error:
            stored, missing = (), f"the store failed: {error}"
        except TimeoutError:
            stored, missing = (), "the store does not answer"
        rows = {record.run_id: self._of_record(record) for record in (*stored, *ended)}
        # Those that ended while the store was asked are told as they ended.
        rows |= {run.run_id: self._of_run(run) for run in live}
        found = [row for row in rows.values() if state is None or row["state"] == state.value]
        found.sort(key=lambda row: row["acceptedAtMs"], reverse=True)
        return found[:limit], missing

    async def describe(self, run_id: str) -> dict[str, Any] | None:
        """Return what is known of a run; None for one that nobody knows. Raises StoreError."""
        run = self._runs.get(run_id)
        if run is not None:
            return self._of_run(run) | self._of_worker(run)
        record: RunRecord | None = self._runs.ends.record(run_id)
        if record is None:
            record = await self._runs.store.get_run(run_id)
        return None if record is None else self._of_record(record)

    def agents(self) -> list[dict[str, Any]]:
        """Return how every agent does: its runs, and the processes behind it as its backend tells them."""
        lanes = self._runs.lanes
        going, waiting = Counter[str](), Counter[str]()
        for run in self._runs.unended:
            first = lanes.runs(run.session_key)[:1] == (run.run_id,)
            (going if first else waiting)[run.request.agent_id] += 1
        return [
            {
                "agentId": agent.agent_id,
                "name": agent.name,
                "isDefault": agent is self._agents.default,
                "backend": agent.kind,
                "ready": agent.backend.ready(),
                "models": [f"{model.provider}/{model.id}" for model in agent.backend.models],
                "runs": {"going": going[agent.agent_id], "waiting": waiting[agent.agent_id]},
                "workers": self._workers(agent),
            }
            for agent in self._agents
        ]

    def _workers(self, agent: Agent) -> list[dict[str, Any]]:
        if not IWorkerBackend.providedBy(agent.backend):
            return []
        try:
            told = [each for each in agent.backend.workers() if isinstance(each, Mapping)]
        except Exception:
            self._log.failure("agent {agent} can not tell of its workers", agent=agent.agent_id)
            return []
        return [_harmless(each) for each in told[:MAX_WORKERS]]

    def _of_run(self, run: Run) -> dict[str, Any]:
        lane = self._runs.lanes.runs(run.session_key)
        optional = {
            "queuePosition": lane.index(run.run_id) if run.run_id in lane else None,
            "connId": run.conn_id,
        }
        row = self._of_record(run.record()) | {"live": True, "textChars": run.text_size}
        return row | _known(optional)

    def _of_record(self, record: RunRecord) -> dict[str, Any]:
        row: dict[str, Any] = {
            "runId": record.run_id,
            "state": record.state.value,
            "sessionKey": record.session_key,
            "sessionId": record.session_id,
            "agentId": record.agent_id,
            "origin": record.origin,
            "epoch": record.epoch,
            "lastSeq": record.last_seq,
            "acceptedAtMs": record.accepted_at_ms,
            "live": False,
        }
        now_ms = self._runs.clock.now_ms()
        over_ms = record.ended_at_ms
        if over_ms is None and record.epoch == self._runs.epoch:
            over_ms = now_ms  # of another process nobody knows how long it went on
        began_ms = over_ms if record.started_at_ms is None else record.started_at_ms
        optional = {
            "startedAtMs": record.started_at_ms,
            "endedAtMs": record.ended_at_ms,
            "queuedMs": _between(record.accepted_at_ms, began_ms),
            "runMs": _between(record.started_at_ms, over_ms),
            "stopReason": record.stop_reason,
            "error": record.error,
            "evictedThrough": record.evicted_through or None,
        }
        # What an earlier process called so may have been another agent.
        agent = self._agents.get(record.agent_id) if record.epoch == self._runs.epoch else None
        if agent is not None:
            optional |= {"backend": agent.kind, "model": agent.primary}
        return row | _known(optional)

    def _of_worker(self, run: Run) -> dict[str, Any]:
        agent = self._agents.get(run.request.agent_id)
        facts = None if agent is None else self._worker(agent, run.run_id)
        return {} if facts is None else {"worker": facts}

    def _worker(self, agent: Agent, run_id: str) -> dict[str, Any] | None:
        """Return what the backend tells of the process behind a run; it may be anybody's code."""
        if not IWorkerBackend.providedBy(agent.backend):
            return None
        try:
            told = agent.backend.describe_worker(run_id)
        except Exception:
            self._log.failure("agent {agent} can not tell of its worker", agent=agent.agent_id)
            return None
        return _harmless(told) if isinstance(told, Mapping) else None


def _known(optional: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in optional.items() if value is not None}


def _between(start_ms: int | None, end_ms: int | None) -> int | None:
    return None if start_ms is None or end_ms is None else max(0, end_ms - start_ms)


def _harmless(told: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the facts that are texts or numbers, cut to what may be sent."""
    facts: dict[str, Any] = {}
    for name, value in list(told.items())[:MAX_FACTS]:
        if not isinstance(name, str) or not isinstance(value, str | bool | int | float):
            continue
        fact = valid_text(value)[:MAX_FACT_CHARS] if isinstance(value, str) else value
        facts[valid_text(name)[:MAX_FACT_CHARS]] = fact
    return facts
