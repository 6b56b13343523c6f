"""How the parts of a gateway hang together: made once, without doing anything yet.

The same wiring serves the daemon and the test kit; they differ in the clock, the store, and in who
opens a port.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gateway import __version__
from gateway.app.agentadmin import AgentAdmin, Roster
from gateway.app.agentfiles import AgentFiles, Private
from gateway.app.agents import AgentDirectory
from gateway.app.approvals import Approvals
from gateway.app.context import Services
from gateway.app.follow import Follows
from gateway.app.guard import Guard
from gateway.app.health import REFRESH_S, Health
from gateway.app.hello import Hello
from gateway.app.hub import Hub
from gateway.app.inspection import Inspection
from gateway.app.keeper import Keeper
from gateway.app.ledger import Ledger
from gateway.app.logreader import LogReader
from gateway.app.modelhealth import ModelHealth
from gateway.app.nodereports import NodeReports
from gateway.app.operations import Operations
from gateway.app.passwords import Passwords
from gateway.app.periodic import Measured, Periodic, Sized
from gateway.app.policies import Policies
from gateway.app.presence import PUBLISH_INTERVAL_S, Presence
from gateway.app.projection import Projector
from gateway.app.runquestions import RunQuestions
from gateway.app.runs import Runs
from gateway.app.sessions import Sessions
from gateway.app.threads import InThread, here
from gateway.config import Config
from gateway.core.connect import DoorPolicy
from gateway.core.events import Event
from gateway.core.registry import Sweepable
from gateway.interfaces import IClock, IEntropy, IStore
from gateway.metrics import Metrics
from gateway.net.edge import Edge
from gateway.net.factory import SWEEP_S, GatewayFactory
from gateway.rpc.dispatch import Dispatcher
from gateway.rpc.families import build_table
from gateway.wiring.base import Base
from gateway.wiring.door import door_policy, proxy_policy
from gateway.wiring.nodes import NodeParts
from gateway.wiring.pairing import PairingParts


@dataclass
class Wiring:
    """All parts of one gateway, connected."""

    config: Config
    clock: IClock
    entropy: IEntropy
    store: IStore
    agents: AgentDirectory
    operations: Operations
    reactor: Any
    roster: Roster | None = None
    """Where agents that clients make are kept; without it the agents are fixed."""
    in_thread: InThread = here
    services: Services = field(init=False)
    metrics: Metrics = field(init=False)
    edge: Edge = field(init=False)
    factory: GatewayFactory = field(init=False)
    beats: tuple[Periodic, ...] = field(init=False)
    pairing: PairingParts = field(init=False)
    nodes: NodeParts = field(init=False)

    def __post_init__(self) -> None:
        limits = self.config.limits
        table = build_table()
        self.metrics = Metrics([method.name for method in table])
        self.services = self._make_services()
        self.edge = Edge(
            clock=self.clock,
            entropy=self.entropy,
            limits=limits,
            policy=self.door(None),
            admission=self.pairing.admission,
            hello=Hello(self.services, limits, table.advertised()),
            dispatcher=Dispatcher(table, self.services, self.entropy, self.metrics),
            services=self.services,
            metrics=self.metrics,
            guard=Guard(clock=self.clock, limits=limits, metrics=self.metrics),
            passwords=Passwords(self.in_thread, self.entropy.token_bytes(32)),
            proxies=proxy_policy(self.config),
        )
        self.factory = GatewayFactory(self.edge, self.reactor)
        self.services.ledger.opened = self.factory.describe
        self.beats = (
            Periodic("tick", self.clock, limits.tick_interval_s, self.tick),
            Periodic("health", self.clock, REFRESH_S, self.services.health.refresh),
            Periodic("connections", self.clock, SWEEP_S, self.factory.sweep),
            Periodic("presence", self.clock, PUBLISH_INTERVAL_S, self.services.presence.flush),
            *self.nodes.beats,
            Keeper(
                clock=self.clock, store=self.store, config=self.config.store, metrics=self.metrics
            ),
        )

    def door(self, secret: str | None) -> DoorPolicy:
        """Return who may come in, given the shared secret; without it nobody, unless none is asked for."""
        return door_policy(self.config, self.operations.host, secret)

    @property
    def registries(self) -> list[Sweepable]:
        """Every bounded registry that the pruner sweeps."""
        services = self.services
        swept: tuple[Sized, ...] = (
            *services.reports.registries,
            self.edge.guard.attempts,
            services.runs.window.claims,
            services.presence,
            services.follows,
            services.approvals,
            services.approvals.history,
            services.policies,
            services.model_health,
            *self.nodes.registries,
            *self.pairing.registries,
            *services.ledger.rings,
        )
        return [Measured(registry, self.metrics) for registry in swept]

    def tick(self) -> None:
        """Tell every client that the gateway is there."""
        self.services.hub.broadcast(Event("tick", {"ts": self.clock.now_ms()}))

    def _make_follows(
        self, hub: Hub, runs: Runs, sessions: Sessions, models: ModelHealth
    ) -> Follows:
        """Make what shows runs to clients, and let it and the others who want to know listen to them."""
        text = sessions.answer_text
        reader = LogReader(clock=self.clock, store=self.store, runs=runs, answer_text=text)
        follows = Follows(clock=self.clock, hub=hub, reader=reader, metrics=self.metrics)
        runs.add_listener(follows)
        runs.add_listener(Projector(hub))
        runs.add_listener(models)
        return follows

    def _make_services(self) -> Services:
        clock, entropy, limits, store = self.clock, self.entropy, self.config.limits, self.store
        agents = self.agents
        hub = self._make_hub()
        sessions = Sessions(clock=clock, entropy=entropy, store=store, hub=hub, agents=agents)
        approvals = Approvals(
            clock=clock, entropy=entropy, hub=hub, limits=limits, metrics=self.metrics
        )
        policies = self._make_policies(approvals)
        runs = self._make_runs(sessions, RunQuestions(approvals, policies, limits))
        model_health = ModelHealth(clock, agents)
        follows = self._make_follows(hub, runs, sessions, model_health)
        health = Health(clock=clock, store=store, hub=hub, agents=agents)
        presence = self._make_presence(hub, health, runs)
        base = Base(self.config, clock, entropy, store, hub, self.metrics)
        self.pairing = PairingParts(base, self.in_thread)
        self.pairing.revocations.add_listener(approvals.end_of)
        reports = self._make_reports(hub, sessions, runs)
        self.nodes = NodeParts(base, self.pairing, policies, reports)
        return Services(
            clock=clock,
            entropy=entropy,
            limits=limits,
            store=store,
            hub=hub,
            ledger=Ledger.of(limits, clock),
            presence=presence,
            health=health,
            agents=agents,
            agent_admin=self._make_agent_admin(runs, hub, health),
            agent_files=AgentFiles(self.in_thread, limits.agent_file_bytes, self._private),
            model_health=model_health,
            sessions=sessions,
            runs=runs,
            approvals=approvals,
            policies=policies,
            follows=follows,
            inspection=Inspection(runs, agents),
            **self.pairing.services,
            **self.nodes.services,
            reports=reports,
            operations=self.operations,
        )

    def _make_runs(self, sessions: Sessions, questions: RunQuestions) -> Runs:
        runs = Runs(
            clock=self.clock,
            entropy=self.entropy,
            store=self.store,
            agents=self.agents,
            sessions=sessions,
            questions=questions,
            limits=self.config.limits,
            metrics=self.metrics,
        )
        sessions.knows_busy(runs.busy)
        return runs

    @property
    def _private(self) -> Private:
        return Private(self.operations.state_dir, self.operations.config.path)

    def _make_hub(self) -> Hub:
        limits = self.config.limits
        return Hub(
            self.metrics,
            maximum=limits.connections_max,
            per_principal=limits.connections_per_principal,
        )

    def _make_policies(self, approvals: Approvals) -> Policies:
        return Policies(
            clock=self.clock,
            entropy=self.entropy,
            store=self.store,
            limits=self.config.limits,
            approvals=approvals,
            path=f"{self.operations.state_dir}/gateway.db#exec-approvals",
        )

    def _make_agent_admin(self, runs: Runs, hub: Hub, health: Health) -> AgentAdmin:
        return AgentAdmin(
            clock=self.clock,
            agents=self.agents,
            runs=runs,
            hub=hub,
            health=health,
            roster=self.roster,
        )

    def _make_reports(self, hub: Hub, sessions: Sessions, runs: Runs) -> NodeReports:
        return NodeReports(
            clock=self.clock,
            entropy=self.entropy,
            store=self.store,
            hub=hub,
            agents=self.agents,
            sessions=sessions,
            runs=runs,
            limits=self.config.limits,
            revocations=self.pairing.revocations,
        )

    def _make_presence(self, hub: Hub, health: Health, runs: Runs) -> Presence:
        presence = Presence(
            hub,
            self.clock,
            host=self.operations.host,
            version=__version__,
            limits=self.config.limits,
            state_version=health.state_version,
        )
        health.presence_version = lambda: presence.version
        runs.add_listener(presence.heard)
        return presence
