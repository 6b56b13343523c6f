"""What the connections of one gateway share: the door, the limits, the services behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gateway.app.admission import Admission, Admitted
from gateway.app.context import Caller, Services
from gateway.app.hello import Hello
from gateway.app.presence import Presence
from gateway.core.access import Peer, is_local_address
from gateway.core.connect import DoorPolicy, Proven
from gateway.core.events import Event
from gateway.core.frames import response
from gateway.core.keepalive import Keepalive
from gateway.core.outboxes import Outboxes
from gateway.core.params import given
from gateway.interfaces import IClock, IEntropy
from gateway.limits import LimitsConfig
from gateway.metrics import Metrics
from gateway.net.port import Deadlines
from gateway.rpc.dispatch import Dispatcher

if TYPE_CHECKING:
    from gateway.net.websocket import GatewayProtocol

FORWARDED_HEADERS = (
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
)

MAX_USER_AGENT = 300
"""Characters of it that are kept, for the close line."""


class Strangers:
    """Connections that are not authenticated yet, counted per address."""

    def __init__(self, *, per_address: int, loopback: int) -> None:
        self._per_address = per_address
        self._loopback = loopback
        self._addresses: dict[GatewayProtocol, str] = {}
        self._counts: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._addresses)

    def enter(self, connection: GatewayProtocol, address: str) -> bool:
        """Count a connection; return False if its address has too many already."""
        limit = self._loopback if is_local_address(address) else self._per_address
        if self._counts.get(address, 0) >= limit:
            return False
        self._addresses[connection] = address
        self._counts[address] = self._counts.get(address, 0) + 1
        return True

    def leave(self, connection: GatewayProtocol) -> None:
        """The connection is authenticated, or gone."""
        address = self._addresses.pop(connection, None)
        if address is not None:
            self._counts[address] -= 1
            if not self._counts[address]:
                del self._counts[address]


@dataclass
class Edge:
    """Everything a connection needs of the gateway."""

    clock: IClock
    entropy: IEntropy
    limits: LimitsConfig
    policy: DoorPolicy
    admission: Admission
    hello: Hello
    dispatcher: Dispatcher
    services: Services
    metrics: Metrics
    deadlines: Deadlines = field(init=False)
    """Who has a challenge to answer."""
    farewells: Deadlines = field(init=False)
    """Who has been told goodbye, or closes, and still has a transport."""
    halfway: Deadlines = field(init=False)
    """The same, until half of their time is over: what drains from then on counts as progress, since the
    kernel may hand over a window of bytes right after the close to a peer that reads nothing."""
    strangers: Strangers = field(init=False)
    outboxes: Outboxes = field(init=False)
    _relieving: bool = False

    def __post_init__(self) -> None:
        limits = self.limits
        self.outboxes = Outboxes(limits.outbox_total_bytes)
        self.deadlines = Deadlines(
            self.clock, limits.handshake_timeout_s, lambda connection: connection.expire()
        )
        self.farewells = Deadlines(
            self.clock, limits.close_grace_s, lambda connection: connection.outstay()
        )
        self.halfway = Deadlines(
            self.clock, limits.close_grace_s / 2, lambda connection: connection.drains()
        )
        self.strangers = Strangers(
            per_address=limits.preauth_connections_per_address,
            loopback=limits.preauth_connections_loopback,
        )

    def relieve(self) -> None:
        """All outboxes together are too full: let those who hold most give."""
        if self._relieving:
            return  # a close tells others, and that may wait for them too
        self._relieving = True
        try:
            holders: Any = self.services.hub.connections
            before = {holder: holder.outbox.dropped for holder in holders}
            for largest in self.outboxes.relieve(holders):
                largest.slow_consumer("outbox_total_bytes")
            shed = sum(holder.outbox.dropped - count for holder, count in before.items())
            self.metrics.outbox_dropped("droppable", shed)
        finally:
            self._relieving = False

    @property
    def presence(self) -> Presence:
        """The presence list."""
        return self.services.presence

    def peer_of(self, peer: Peer, headers: Mapping[str, str]) -> Peer:
        """Return the peer with what its upgrade request said."""
        return Peer(
            peer.address,
            peer.port,
            host=headers.get("host"),
            origin=headers.get("origin"),
            user_agent=headers.get("user-agent", "")[:MAX_USER_AGENT] or None,
            forwarded=any(name in headers for name in FORWARDED_HEADERS),
        )

    def challenge(self, nonce: str) -> bytes:
        """Return the frame that opens the handshake."""
        event = Event("connect.challenge", {"nonce": nonce, "ts": self.clock.now_ms()})
        return event.encoded(4, None)

    def keepalive(self) -> Keepalive:
        """Return the keepalive of a connection that was just established."""
        limits = self.limits
        return Keepalive(
            self.clock.seconds(), silence=limits.ping_silence_s, timeout=limits.ping_timeout_s
        )

    def caller_of(self, conn_id: str, proven: Proven, admitted: Admitted) -> Caller:
        """Return who an admitted connection is."""
        return Caller(
            conn_id=conn_id,
            protocol=proven.protocol,
            principal=admitted.principal,
            client=proven.client,
            peer=proven.peer,
            caps=frozenset(given(proven.params.caps, [])),
        )

    def attach(self, connection: Any, admitted: Admitted, frame_id: str) -> tuple[bool, bytes]:
        """Enter a connection everywhere; return whether presence tracks it, and its ``hello-ok``.

        Raises Unavailable, and then it is entered nowhere.
        """
        caller: Caller = connection.caller
        self.services.hub.add(connection)
        self.services.approvals.joined(caller)
        tracked = self.presence.joined(caller)
        if caller.is_node:
            self.services.nodes.joined(connection)
        return tracked, response(frame_id, self.hello.payload(caller, admitted))

    def detach(self, connection: Any) -> None:
        """Forget a connection everywhere."""
        caller: Caller = connection.caller
        if not self.services.hub.remove(connection):
            return
        self.services.follows.left(caller.conn_id)
        try:
            if caller.is_node:
                self.services.nodes.left(connection)
        finally:
            if self.presence.left(caller):
                self.presence.publish()
