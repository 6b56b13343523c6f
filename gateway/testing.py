"""The public test kit: doubles that provide the gateway's interfaces, without a reactor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any, Final, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from gateway import __version__
from gateway.agents.demo import DemoBackend, DemoConfig
from gateway.app.agentadmin import Roster
from gateway.app.agents import Agent, AgentDirectory
from gateway.app.operations import ConfigView, Operations
from gateway.config import Config
from gateway.core.sessionkey import SessionKeyPolicy
from gateway.interfaces import BackendEnvironment, IAgentBackend, IClock, IEntropy, IStore
from gateway.store import sqlite
from gateway.store.store import SQLStore
from gateway.wiring import Wiring

T = TypeVar("T")

TOKEN = "token-of-the-test-gateway"
"""The shared token of a gateway made by :func:`memory_gateway`."""

_COMPILED: Final = sqlite.make_compiled()


@implementer(IClock)
class FakeClock(Clock):
    """A ``task.Clock`` that also tells the wall time; it starts at 2023-11-14T22:13:20Z."""

    EPOCH_MS = 1_700_000_000_000

    _off_ms = 0

    def now_ms(self) -> int:
        """Return the fake wall time in milliseconds since the epoch."""
        return self.EPOCH_MS + self._off_ms + round(self.seconds() * 1000)

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward, or back if negative, as somebody at the machine does.

        ``seconds()`` and what was scheduled go on as if nothing had happened.
        """
        self._off_ms += round(seconds * 1000)


@implementer(IEntropy)
class FakeEntropy:
    """Repeatable randomness: the same seed gives the same bytes."""

    def __init__(self, seed: str = "seed") -> None:
        self._seed = seed
        self._count = 0

    def token_bytes(self, size: int) -> bytes:
        """Return ``size`` bytes that differ with every call."""
        self._count += 1
        digest = sha256(f"{self._seed}:{self._count}".encode()).digest()
        return (digest * (size // len(digest) + 1))[:size]

    def uuid4(self) -> str:
        """Return text in the shape of a UUID."""
        value = self.token_bytes(16).hex()
        return f"{value[:8]}-{value[8:12]}-4{value[13:16]}-8{value[17:20]}-{value[20:]}"

    def fraction(self) -> float:
        """Return a number in [0, 1)."""
        return int.from_bytes(self.token_bytes(4), "big") / 2**32


def result_of(deferred: Deferred[T]) -> T:
    """Return what a Deferred fired with; raise what it failed with, or AssertionError if it waits."""
    results: list[Any] = []
    deferred.addBoth(results.append)
    if not results:
        raise AssertionError("the Deferred has not fired")
    if isinstance(results[0], Failure):
        results[0].raiseException()
    return results[0]  # type: ignore[no-any-return]


def environment(clock: IClock, agent_id: str = "main", **parts: Any) -> BackendEnvironment:
    """Return what a backend is made with, on a fake clock."""
    made: dict[str, Any] = {"entropy": FakeEntropy(), "reactor": None, "state_dir": "/nonexistent"}
    return BackendEnvironment(agent_id=agent_id, clock=clock, **{**made, **parts})


def memory_store(clock: IClock) -> SQLStore:
    """Return an open store in memory, which answers at once."""
    store = SQLStore(
        "sqlite://", clock=clock, call_from_thread=_here, threads=False, compiled=_COMPILED
    )
    store.open()
    return store


def _operations(config: Config, clock: FakeClock, entropy: IEntropy) -> Operations:
    """Return the facts of a process that has no file and no log."""
    return Operations(
        version=__version__,
        boot_id=entropy.uuid4(),
        host="test-host",
        pid=1,
        started_at=clock.seconds(),
        state_dir="/nonexistent",
        auth_mode=config.auth.mode,
        config=ConfigView(
            path="/nonexistent/gateway.toml", exists=False, raw="", parsed={}, hash=""
        ),
        tail_logs=lambda cursor, limit, max_bytes: succeed({}),
    )


def _agents(config: Config, backends: Mapping[str, IAgentBackend]) -> AgentDirectory:
    timeout_s, tables = config.limits.run_timeout_s, config.agents
    agents = {
        name: Agent(
            name,
            name,
            "test",
            backend,
            timeout_s,
            tables.get(name, {}).get("on_restart") == "rerun",
            getattr(backend, "workspace", ""),
        )
        for name, backend in backends.items()
    }
    default = next(iter(agents))
    keys = SessionKeyPolicy.from_config(list(agents), default_agent_id=default)
    return AgentDirectory(agents, default, keys)


def memory_gateway(
    *,
    clock: FakeClock | None = None,
    config: Config | None = None,
    backends: Mapping[str, IAgentBackend] | None = None,
    store: IStore | None = None,
    secret: str | None = TOKEN,
    entropy: IEntropy | None = None,
    roster: Roster | None = None,
    agents: AgentDirectory | None = None,
) -> Wiring:
    """Return a whole gateway in memory: fake clock, SQLite in memory, no port, no thread.

    ``backends`` are the agents by id, the first being the default; without any it is one demo agent
    called main. Ends of runs are announced at once. The store is open; nothing else was started.
    Two gateways over one store, as after a restart, need an ``entropy`` each. ``agents`` goes before
    ``backends``; only with a ``roster`` can clients change them.
    """
    clock = clock or FakeClock()
    entropy = entropy or FakeEntropy()
    config = config or Config()
    if agents is None:
        agents = _agents(config, backends or {"main": DemoBackend(DemoConfig(), clock)})
    if store is None:
        store = memory_store(clock)
    wiring = Wiring(
        config=config,
        clock=clock,
        entropy=entropy,
        store=store,
        agents=agents,
        roster=roster,
        operations=_operations(config, clock, entropy),
        reactor=clock,
    )
    wiring.edge.policy = wiring.door(secret)
    wiring.services.runs.end_delay_s = 0
    return wiring


def _here(function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    function(*args, **kwargs)
