"""The nodes that are connected: one entry for each, what it may be asked now, and who wants to know.

A newer connection of a node takes the older one's place. The older one stays open and may still answer
what it was asked, but is asked nothing more, and its end does not end the newer one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from twisted.logger import Logger

from gateway.app.context import Caller
from gateway.core.nodecommands import CommandPolicy
from gateway.errors import Unavailable
from gateway.interfaces import IClock, IConnection
from gateway.model import NodeSurface


@dataclass(eq=False, slots=True)
class NodeSession:
    """One connection of a node."""

    node_id: str
    connection: IConnection
    since_ms: int
    offered: NodeSurface
    """What it declared, without the commands that the policy of commands does not allow."""
    live: NodeSurface = field(default_factory=NodeSurface)
    """What it may be asked now: the part of ``offered`` that is approved."""
    deciding: bool = False
    """Whether it is still being looked up what of it is approved."""
    approved: bool = False
    """Whether something of it was approved, or it declares nothing that would have to be."""

    @property
    def caller(self) -> Caller:
        """Who the connection is."""
        caller: Caller = self.connection.caller
        return caller


class NodeListener:
    """Is told of nodes; override what matters. What one raises is logged, and the others are told."""

    def node_joined(self, session: NodeSession) -> None:
        """A connection became the node's, in place of an older one or not; ``hello-ok`` follows."""

    def node_left(self, session: NodeSession) -> None:
        """The node has gone: its connection ended, and there is no newer one."""

    def node_changed(self, session: NodeSession) -> None:
        """What the node may be asked has changed."""

    def connection_left(self, session: NodeSession) -> None:
        """A connection of a node ended, whether a newer one had taken its place or not."""


class Nodes:
    """The connected nodes by id."""

    _log = Logger()

    def __init__(self, *, clock: IClock, policy: CommandPolicy) -> None:
        self.policy = policy
        self._clock = clock
        self._nodes: dict[str, NodeSession] = {}
        """The newest connection of each node."""
        self._sessions: dict[str, NodeSession] = {}
        """Every connection of a node, by its own id."""
        self._listeners: list[NodeListener] = []

    def __len__(self) -> int:
        return len(self._nodes)

    @property
    def connected(self) -> list[NodeSession]:
        """The newest connection of each node."""
        return list(self._nodes.values())

    def add_listener(self, listener: NodeListener) -> None:
        """Tell somebody of nodes from now on, after those who asked before."""
        self._listeners.append(listener)

    def session(self, node_id: str) -> NodeSession | None:
        """Return the connection over which a node is asked, if there is one."""
        return self._nodes.get(node_id)

    def of_connection(self, conn_id: str) -> NodeSession | None:
        """Return what is known of a node's connection, the newest or not."""
        return self._sessions.get(conn_id)

    def joined(self, connection: IConnection) -> None:
        """Enter a connection of role node.

        A node of protocol 3, which has no approval of surfaces, may be asked at once for all that the
        policy of commands allows; one of protocol 4 for nothing, until :meth:`set_live`.
        """
        caller: Caller = connection.caller
        offered = self.policy.offered(
            caller.surface,
            platform=caller.client.platform,
            device_family=caller.client.device_family,
            protocol=caller.protocol,
        )
        session = NodeSession(node_id(caller), connection, self._clock.now_ms(), offered)
        if caller.protocol < 4:
            session.live = offered
        self._nodes[session.node_id] = self._sessions[caller.conn_id] = session
        self._tell(session, lambda listener: listener.node_joined(session))

    def left(self, connection: IConnection) -> None:
        """Forget a connection of role node."""
        session = self._sessions.pop(connection.conn_id, None)
        if session is None:
            return
        gone = self._nodes.get(session.node_id) is session
        if gone:
            del self._nodes[session.node_id]
        self._tell(session, lambda listener: listener.connection_left(session))
        if gone:
            self._tell(session, lambda listener: listener.node_left(session))

    def revoked(self, node_id: str) -> None:
        """Forget all connections of a device that is no node any more, whether they are closed yet or not."""
        for session in [each for each in self._sessions.values() if each.node_id == node_id]:
            self.set_live(node_id, session.connection.conn_id, NodeSurface())
            self.left(session.connection)

    def set_live(self, node_id: str, conn_id: str, surface: NodeSurface) -> None:
        """Say what a node may be asked from now on; nothing where another connection has its place.

        Only what the connection offers counts: an approval of more does not make it more.
        """
        session = self._nodes.get(node_id)
        if session is None or session.connection.conn_id != conn_id:
            return
        live = _within(surface, session.offered)
        if live != session.live:
            session.live = live
            self._tell(session, lambda listener: listener.node_changed(session))

    def _tell(self, session: NodeSession, tell: Callable[[NodeListener], None]) -> None:
        for listener in self._listeners:
            try:
                tell(listener)
            except Exception:
                self._log.failure(
                    "{listener} failed node={node}",
                    listener=type(listener).__name__,
                    node=session.node_id,
                )


def node_id(caller: Caller) -> str:
    """Return the id of a node: its device's, else its client's."""
    return caller.principal.device_id or caller.client.id


def not_ready() -> Unavailable:
    """Refuse what depends on the approval of a node as long as the store has not said what is approved."""
    return Unavailable(
        "what this node may do is not known yet",
        details={"code": "NODE_NOT_READY"},
        retryable=True,
        retry_after_ms=250,
    )


def _within(surface: NodeSurface, offered: NodeSurface) -> NodeSurface:
    """Return the part of a surface that is offered; a permission has to be given on both sides."""
    named = dict(surface.permissions)
    return NodeSurface(
        caps=tuple(cap for cap in offered.caps if cap in surface.caps),
        commands=tuple(command for command in offered.commands if command in surface.commands),
        permissions=tuple(
            (name, value and named[name]) for name, value in offered.permissions if name in named
        ),
    )
