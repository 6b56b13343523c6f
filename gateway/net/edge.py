"""What the connections of one gateway share: the door, the limits, the services behind them."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from twisted.internet.defer import Deferred

from gateway.app.admission import Admission, Admitted
from gateway.app.context import Caller, Services
from gateway.app.guard import Guard
from gateway.app.hello import Hello
from gateway.app.passwords import Passwords
from gateway.app.presence import Presence
from gateway.core.access import Peer, is_local_address
from gateway.core.attempts import Credential
from gateway.core.connect import DoorPolicy, Locked, Proven
from gateway.core.events import Event
from gateway.core.frames import response
from gateway.core.keepalive import Keepalive
from gateway.core.outboxes import Outboxes
from gateway.core.params import given
from gateway.core.proxies import FORWARDED_HEADERS, ProxyPolicy
from gateway.interfaces import IClock, IEntropy
from gateway.limits import LimitsConfig
from gateway.metrics import Metrics
from gateway.model import NodeSurface, Principal
from gateway.net.deadlines import Deadlines
from gateway.net.delays import Delays
from gateway.net.strangers import Strangers
from gateway.net.turnstile import Turnstile
from gateway.rpc.dispatch import Dispatcher

_KINDS: Final = {
    "token": Credential.SHARED,
    "password": Credential.SHARED,
    "device-token": Credential.DEVICE,
    "bootstrap-token": Credential.BOOTSTRAP,
}
"""The kind of credential that lets in, by the method's name."""

MAX_USER_AGENT = 300
"""Characters of it that are kept, for the close line."""


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
    guard: Guard
    passwords: Passwords
    proxies: ProxyPolicy
    deadlines: Deadlines = field(init=False)
    """Who has a challenge to answer."""
    farewells: Deadlines = field(init=False)
    """Who has been told goodbye, or closes, and still has a transport."""
    halfway: Deadlines = field(init=False)
    """The same, until half of their time is over: what drains from then on counts as progress, since the
    kernel may hand over a window of bytes right after the close to a peer that reads nothing."""
    delays: Delays = field(init=False)
    """Who showed a wrong credential from this machine and has not been told yet, or has to wait first."""
    strangers: Strangers = field(init=False)
    outboxes: Outboxes = field(init=False)
    turnstile: Turnstile = field(init=False)
    """What gives strangers their share of the time."""
    greetings: int = 0
    """Frames that were no requests: those of handshakes."""
    _relieving: bool = False

    def __post_init__(self) -> None:
        limits = self.limits
        self.outboxes = Outboxes(limits.outbox_total_bytes)
        self.turnstile = Turnstile(self.clock, asked=self._asked)
        self.deadlines = Deadlines(
            self.clock, limits.handshake_timeout_s, lambda connection: connection.expire()
        )
        self.farewells = Deadlines(
            self.clock, limits.close_grace_s, lambda connection: connection.outstay()
        )
        self.halfway = Deadlines(
            self.clock, limits.close_grace_s / 2, lambda connection: connection.drains()
        )
        self.delays = Delays(self.clock, lambda connection: connection.go_on())
        self.strangers = Strangers(
            per_address=limits.preauth_connections_per_address,
            loopback=limits.preauth_connections_loopback,
            maximum=limits.preauth_connections_max,
            shared=lambda address: is_local_address(address) or self.proxies.trusts(address),
        )

    def _asked(self) -> int:
        return self.metrics.frames_in - self.greetings

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

    def locked(self, peer: Peer) -> Locked:
        """Return what tells a handshake which credentials of a peer are not looked at."""
        return lambda kinds: self.guard.wait_s(peer, kinds)

    def slowed(self, peer: Peer) -> Locked:
        """Return what tells a handshake which credentials of a peer have to wait, and for how long."""
        return lambda kinds: self.guard.pause_s(peer, kinds)

    def verify(self, password: str) -> Coroutine[Deferred[Any], Any, bool]:
        """Whether a password is the one of the hash that is configured. Raises Unavailable."""
        return self.passwords.verify(self.policy.auth.secret or "", password)

    def welcome(self, proven: Proven, principal: Principal) -> None:
        """Forget the failures of what let a client in, and count what was wrong beside it.

        A device that shows its own token may not guess the shared secret in the same breath.
        """
        guard, peer = self.guard, proven.peer
        right = _KINDS.get(principal.auth_method)
        if right is not None:
            guard.succeeded(peer, (right,))
        if proven.guesses_secret:
            guard.failed(peer, (Credential.SHARED,))

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
        params = proven.params
        caps = frozenset(given(params.caps, []))
        return Caller(
            conn_id=conn_id,
            protocol=proven.protocol,
            principal=admitted.principal,
            client=proven.client,
            peer=proven.peer,
            caps=caps,
            surface=NodeSurface(
                caps=tuple(sorted(caps)),
                commands=tuple(sorted(set(given(params.commands, [])))),
                permissions=tuple(sorted(given(params.permissions, {}).items())),
            ),
            path_env=given(params.path_env, "") or None,
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
