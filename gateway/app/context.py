"""Who calls, and what a handler may use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.core.access import Peer, effective_scopes
from gateway.core.events import EVENTS, visible
from gateway.interfaces import IClock, IEntropy, IStore
from gateway.limits import LimitsConfig
from gateway.model import ClientInfo, Principal, Role

if TYPE_CHECKING:
    from gateway.app.agentadmin import AgentAdmin
    from gateway.app.agentfiles import AgentFiles
    from gateway.app.agents import AgentDirectory
    from gateway.app.approvals import Approvals
    from gateway.app.follow import Follows
    from gateway.app.health import Health
    from gateway.app.hub import Hub
    from gateway.app.inspection import Inspection
    from gateway.app.ledger import Ledger
    from gateway.app.modelhealth import ModelHealth
    from gateway.app.nodes import Nodes
    from gateway.app.operations import Operations
    from gateway.app.presence import Presence
    from gateway.app.runs import Runs
    from gateway.app.sessions import Sessions
    from gateway.app.voice import Voice


class Caller:
    """An authenticated connection as handlers see it: who it is and what it may do."""

    __slots__ = (
        "caps",
        "client",
        "conn_id",
        "events",
        "peer",
        "principal",
        "protocol",
        "scopes",
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
    ) -> None:
        self.conn_id = conn_id
        self.protocol = protocol
        self.principal = principal
        self.client = client
        self.peer = peer
        self.caps = caps
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
    follows: Follows
    inspection: Inspection
    nodes: Nodes
    voice: Voice
    operations: Operations


@dataclass(frozen=True, slots=True)
class Context:
    """What a handler gets with the params."""

    caller: Caller
    services: Services
