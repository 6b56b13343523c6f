"""Who calls, and what a handler may use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.core.access import Peer, effective_scopes
from gateway.core.events import EVENTS, visible
from gateway.interfaces import IClock, IEntropy, IStore
from gateway.limits import LimitsConfig
from gateway.model import ClientInfo, NodeSurface, Principal, Role

if TYPE_CHECKING:
    from gateway.app.agentadmin import AgentAdmin
    from gateway.app.agentfiles import AgentFiles
    from gateway.app.agents import AgentDirectory
    from gateway.app.approvals import Approvals
    from gateway.app.devices import Devices
    from gateway.app.follow import Follows
    from gateway.app.health import Health
    from gateway.app.hub import Hub
    from gateway.app.inspection import Inspection
    from gateway.app.invocations import Invocations
    from gateway.app.ledger import Ledger
    from gateway.app.legacynodes import LegacyNodes
    from gateway.app.modelhealth import ModelHealth
    from gateway.app.nodedirectory import NodeDirectory
    from gateway.app.nodeevents import NodeEvents
    from gateway.app.nodepending import NodePending
    from gateway.app.nodereports import NodeReports
    from gateway.app.nodes import Nodes
    from gateway.app.operations import Operations
    from gateway.app.pairingcaps import PairingCaps
    from gateway.app.pairingnotices import PairingNotices
    from gateway.app.policies import Policies
    from gateway.app.presence import Presence
    from gateway.app.revocation import Revocations
    from gateway.app.runs import Runs
    from gateway.app.scopeupgrades import ScopeUpgrades
    from gateway.app.sessions import Sessions
    from gateway.app.setupcodes import SetupCodes
    from gateway.app.surfaces import Surfaces
    from gateway.app.voice import Voice
    from gateway.app.voicewake import VoiceWake


class Caller:
    """An authenticated connection as handlers see it: who it is and what it may do."""

    __slots__ = (
        "caps",
        "client",
        "conn_id",
        "events",
        "path_env",
        "peer",
        "principal",
        "protocol",
        "scopes",
        "surface",
    )

    def __init__(
        self,
        *,
        conn_id: str,
        protocol: int,
        principal: Principal,
        client: ClientInfo,
        peer: Peer,
        caps: frozenset[str] = frozenset(),
        surface: NodeSurface | None = None,
        path_env: str | None = None,
    ) -> None:
        self.conn_id = conn_id
        self.protocol = protocol
        self.principal = principal
        self.client = client
        self.peer = peer
        self.caps = caps
        self.surface = surface or NodeSurface(caps=tuple(sorted(caps)))
        """What it declared that it can do, if it is a node; nothing of it is approved by that."""
        self.path_env = path_env
        """Where a node looks for programs, as it says."""
        operator = principal.role is Role.OPERATOR
        self.scopes = effective_scopes(principal.scopes) if operator else frozenset()
        """Every scope its grant satisfies."""
        self.events = frozenset(
            name for name, spec in EVENTS.items() if visible(spec, self.scopes, operator=operator)
        )
        """The events it may see."""

    @property
    def is_node(self) -> bool:
        """Whether it is a device that serves, rather than a person's client."""
        return self.principal.role is Role.NODE


@dataclass(frozen=True, slots=True)
class Services:
    """Every service of the gateway; one object for its whole life."""

    clock: IClock
    entropy: IEntropy
    limits: LimitsConfig
    store: IStore
    hub: Hub
    ledger: Ledger
    presence: Presence
    health: Health
    agents: AgentDirectory
    agent_admin: AgentAdmin
    agent_files: AgentFiles
    model_health: ModelHealth
    sessions: Sessions
    runs: Runs
    approvals: Approvals
    policies: Policies
    follows: Follows
    inspection: Inspection
    nodes: Nodes
    node_directory: NodeDirectory
    invocations: Invocations
    node_pending: NodePending
    surfaces: Surfaces
    legacy_nodes: LegacyNodes
    devices: Devices
    scope_upgrades: ScopeUpgrades
    pairing_notices: PairingNotices
    pairing_caps: PairingCaps
    setup_codes: SetupCodes
    reports: NodeReports
    voice_wake: VoiceWake
    revocations: Revocations
    operations: Operations

    @property
    def node_events(self) -> NodeEvents:
        """What nodes tell by themselves."""
        return self.reports.events

    @property
    def voice(self) -> Voice:
        """What nodes hear."""
        return self.reports.voice


@dataclass(frozen=True, slots=True)
class Context:
    """What a handler gets with the params."""

    caller: Caller
    services: Services
