"""Agents that are made, changed and deleted while the gateway runs.

One change at a time. A change is tried before it is kept: the backend is made and started, then the change
is stored, and only then the agent is there for runs. Whatever fails on the way leaves everything as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from twisted.internet.defer import CancelledError, Deferred, DeferredLock, maybeDeferred
from twisted.logger import Logger

from gateway.app.agents import Agent, AgentDirectory
from gateway.app.deferreds import shielded
from gateway.app.health import Health
from gateway.app.hub import Hub
from gateway.app.runs import Runs
from gateway.core.events import Event
from gateway.core.sessionkey import DEFAULT_AGENT_ID, normalise_agent_id
from gateway.errors import ConfigError, GatewayError, InvalidRequest, StartError, Unavailable
from gateway.interfaces import IClock

T = TypeVar("T")

DELETED: Final = "agent-deleted"
"""The stop reason of runs whose agent was deleted."""
STOP_S: Final = 30.0
"""How long a backend may take to stop before nobody waits for it any more."""


class Draft(NamedTuple):
    """An agent that could be, and the changes that would make it last."""

    agent: Agent
    changes: Mapping[str, Any]


class Removed(NamedTuple):
    """What became of a workspace: ``trash`` or ``missing``, or why it is still there."""

    path: str
    method: str
    reason: str = ""


class Roster(Protocol):
    """What the agents are made from, and where changes of it are kept."""

    maximum: int

    def configured(self, agent_id: str) -> str | None:
        """Return where the operator has configured an agent, None if nowhere."""

    def created(self, agent_id: str, like: str, values: Mapping[str, str | None]) -> Draft:
        """Draft a new agent. Raises InvalidRequest."""

    def changed(self, agent_id: str, values: Mapping[str, str | None]) -> Draft:
        """Draft an agent with values changed; None takes a change back. Raises InvalidRequest."""

    def deleted(self, agent_id: str) -> Mapping[str, Any]:
        """Return the changes without an agent."""

    def workspace(self, agent_id: str, wanted: str | None) -> str:
        """Return the path of a workspace that a client asks for. Raises InvalidRequest."""

    def hash(self) -> str:
        """Return a digest of the changes there are."""

    def save(self, changes: Mapping[str, Any], workspace: str | None = None) -> Deferred[None]:
        """Keep changes, and make a workspace. Fails with OSError, ConfigError."""

    def discard(self, agent: Agent) -> Deferred[Removed]:
        """Put the workspace of an agent that is gone into the trash."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a client wants of an agent; a key that is not there stays as it is, None takes a change back."""

    values: Mapping[str, str | None]
    workspace: str | None = None


class AgentAdmin:
    """Makes, changes and deletes agents. ``roster`` is None where they are fixed."""

    _log = Logger()

    def __init__(
        self,
        *,
        clock: IClock,
        agents: AgentDirectory,
        runs: Runs,
        hub: Hub,
        health: Health,
        roster: Roster | None,
    ) -> None:
        self._clock = clock
        self._agents = agents
        self._runs = runs
        self._hub = hub
        self._health = health
        self._roster = roster
        self._lock = DeferredLock()
        self._retiring: dict[str, Deferred[None]] = {}

    def create(self, name: str, wish: Wish) -> Deferred[Agent]:
        """Make an agent like the default one, with a workspace of its own.

        Who cancels the Deferred only stops waiting. Fails with InvalidRequest for a name that gives no new
        id and for what the backend refuses, and with Unavailable where it could not be kept.
        """
        return self._alone(lambda: self._create(name, wish))

    def update(self, agent_id: str, wish: Wish) -> Deferred[Agent]:
        """Change an agent; for another model or workspace it gets a new backend.

        Runs that go on end with the old one. Fails as :meth:`create`.
        """
        return self._alone(lambda: self._update(agent_id, wish))

    def restart(self, agent_id: str) -> Deferred[Agent]:
        """Give an agent a new backend; runs that go on end with the old one. Fails as :meth:`create`."""
        return self._alone(lambda: self._renew(self._draft(agent_id, {})))

    def delete(self, agent_id: str, *, files: bool) -> Deferred[Removed | None]:
        """Delete an agent: its runs are aborted, its sessions stay, with ``files`` its workspace goes.

        Fails with InvalidRequest for an unknown agent and for the default one.
        """
        return self._alone(lambda: self._delete(agent_id, files))

    def _alone(self, change: Callable[[], Any]) -> Deferred[Any]:
        return shielded(self._lock.run(lambda: Deferred.fromCoroutine(change())))

    # -- one change

    async def _create(self, name: str, wish: Wish) -> Agent:
        roster = self._open()
        agent_id = self._new_id(roster, name)
        if len(self._agents) >= roster.maximum:
            raise InvalidRequest(f"there are {len(self._agents)} agents (limits.agents_max)")
        values = {**wish.values, "workspace": roster.workspace(agent_id, wish.workspace)}
        draft = roster.created(agent_id, self._agents.default_id, values)
        await self._bring_up(draft)
        self._agents.put(draft.agent)
        self._log.info("agent {agent} made", agent=agent_id)
        self._announce()
        return draft.agent

    async def _update(self, agent_id: str, wish: Wish) -> Agent:
        old, values = self._known(agent_id), dict(wish.values)
        if wish.workspace is not None:
            values["workspace"] = self._open().workspace(old.agent_id, wish.workspace)
        draft = self._draft(agent_id, values)
        if {"model", "workspace"} & set(values):
            return await self._renew(draft)
        await self._save(draft.changes)
        agent = replace(draft.agent, backend=old.backend)
        self._agents.put(agent)
        self._log.info("agent {agent} changed", agent=old.agent_id)
        self._announce()
        return agent

    async def _renew(self, draft: Draft) -> Agent:
        old = self._known(draft.agent.agent_id)
        await self._bring_up(draft)
        self._agents.put(draft.agent)
        self._retire(old)
        self._log.info("agent {agent} started anew", agent=old.agent_id)
        self._announce()
        return draft.agent

    async def _delete(self, agent_id: str, files: bool) -> Removed | None:
        roster, agent = self._open(), self._known(agent_id)
        if agent.agent_id == self._agents.default_id:
            raise InvalidRequest(f'"{agent.agent_id}" cannot be deleted')
        await self._save(roster.deleted(agent.agent_id))
        self._agents.remove(agent.agent_id)
        for run in reversed(self._runs.unended):
            if run.request.agent_id == agent.agent_id:
                self._runs.abort(run.run_id, DELETED)
        self._let_go(agent.agent_id)
        await self._stop(agent)
        self._log.info("agent {agent} deleted", agent=agent.agent_id)
        self._announce()
        return await roster.discard(agent) if files else None

    # -- steps

    def _open(self) -> Roster:
        if self._roster is None:
            raise Unavailable("the agents of this gateway are fixed")
        if self._runs.stopping:
            raise Unavailable("the gateway is stopping", retryable=True)
        return self._roster

    def _known(self, agent_id: str) -> Agent:
        agent = self._agents.get(agent_id.strip().lower())
        if agent is None:
            raise InvalidRequest(f'agent "{agent_id[:64]}" not found')
        return agent

    def _new_id(self, roster: Roster, name: str) -> str:
        agent_id = normalise_agent_id(name)
        if agent_id == DEFAULT_AGENT_ID:
            raise InvalidRequest(f'"{agent_id}" is reserved; give the name a letter from a to z')
        if self._agents.get(agent_id) is not None:
            raise InvalidRequest(f'agent "{agent_id}" already exists')
        where = roster.configured(agent_id)
        if where is not None:
            raise InvalidRequest(
                f'agent "{agent_id}" was deleted, but is still configured in {where}'
            )
        return agent_id

    def _draft(self, agent_id: str, values: Mapping[str, str | None]) -> Draft:
        return self._open().changed(self._known(agent_id).agent_id, values)

    async def _bring_up(self, draft: Draft) -> None:
        """Start a backend and keep what it was made from; if either fails, neither is done."""
        backend = draft.agent.backend
        try:
            backend.startService()  # type: ignore[no-untyped-call]
        except StartError as error:
            raise InvalidRequest(str(error)) from error
        try:
            await self._save(draft.changes, draft.agent.workspace)
        except GatewayError:
            await self._stop(draft.agent)
            raise
        if self._runs.stopping:
            await self._stop(draft.agent)  # the others have been told already

    async def _save(self, changes: Mapping[str, Any], workspace: str | None = None) -> None:
        try:
            await self._open().save(changes, workspace)
        except ConfigError as error:
            raise InvalidRequest(str(error)) from error
        except OSError as error:
            self._log.error("agents could not be kept: {error}", error=error)
            raise Unavailable(f"the change could not be kept: {error.strerror}") from error

    def _announce(self) -> None:
        """Tell clients, and everybody who is told of the gateway's health, that the agents are others now."""
        assert self._roster is not None
        now_ms, digest = self._clock.now_ms(), self._roster.hash()
        self._hub.broadcast(Event("config.changed", {"hash": digest, "ts": now_ms}, v3=None))
        Deferred.fromCoroutine(self._health.refresh()).addErrback(
            lambda failure: self._log.warn(
                "the health snapshot waits for its time: {error}", error=failure.value
            )
        )

    # -- backends that are not needed any more

    def _retire(self, old: Agent) -> None:
        """Stop a backend once its runs have ended; one that still waits for that is stopped now."""
        self._let_go(old.agent_id)
        retiring = self._retiring[old.agent_id] = Deferred.fromCoroutine(self._outlast(old))

        def gone(_: None) -> None:
            if self._retiring.get(old.agent_id) is retiring:
                del self._retiring[old.agent_id]

        retiring.addCallback(gone)

    def _let_go(self, agent_id: str) -> None:
        retiring = self._retiring.pop(agent_id, None)
        if retiring is not None:
            retiring.cancel()

    async def _outlast(self, old: Agent) -> None:
        try:
            for run in self._runs.unended:
                drive = self._runs.drive(run.run_id)
                if run.request.agent_id == old.agent_id and drive is not None and not drive.waiting:
                    await self._runs.wait(run.run_id, old.timeout_s)
        except (CancelledError, GatewayError):
            pass  # it has waited long enough, or the gateway stops
        await self._stop(old)

    async def _stop(self, agent: Agent) -> None:
        stopping = shielded(maybeDeferred(agent.backend.stopService))
        try:
            await stopping.addTimeout(STOP_S, self._clock)
        except CancelledError:
            pass  # it stops, and nobody waits
        except Exception:
            self._log.failure("agent {agent} did not stop", agent=agent.agent_id)
