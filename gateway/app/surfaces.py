"""What nodes may do: decided whenever one connects, and by operators.

A node that connects may do nothing until the store has been asked; then what it declares, as far as that
is approved (:mod:`gateway.core.surface`). What it declares beyond waits for an operator, who is told of it;
his answer holds at once, for the connection that is open. Where the store fails nothing is live, and the
question is asked again by the sweep.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Callable
from typing import Any, Final

from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from gateway.app.context import Caller
from gateway.app.hub import Hub
from gateway.app.nodes import NodeListener, Nodes, NodeSession, not_ready
from gateway.app.pairingnotices import PairingNotices, sees_device
from gateway.app.revocation import Revocations
from gateway.core import pairing, surface
from gateway.core.access import digest_of
from gateway.core.events import Event
from gateway.core.surface import NOTHING, Declared, UnknownRequest
from gateway.core.surfaceshapes import approved, requested, resolved
from gateway.errors import InvalidRequest, Unavailable
from gateway.interfaces import IClock, IEntropy, IStore
from gateway.model import Device, NodeRecord, Pairing, Role, SurfaceRequest

TOKEN_BYTES: Final = 32


class Surfaces(NodeListener):
    """The approval of what nodes may do; a Sweepable of those that are still to be decided about."""

    name = "surfaces"
    _log = Logger()

    def __init__(
        self,
        *,
        clock: IClock,
        entropy: IEntropy,
        store: IStore,
        hub: Hub,
        nodes: Nodes,
        revocations: Revocations,
        notices: PairingNotices,
    ) -> None:
        self._clock = clock
        self._entropy = entropy
        self._store = store
        self._hub = hub
        self._nodes = nodes
        self._revocations = revocations
        self._notices = notices
        self._undecided: set[NodeSession] = set()
        self._asking: dict[NodeSession, list[Deferred[None]]] = {}
        """Those of them about which the store is being asked, and who waits for what it says.

        A slow one is not asked again meanwhile.
        """

    def __len__(self) -> int:
        return len(self._undecided)

    # -- nodes

    def node_joined(self, session: NodeSession) -> None:
        """A node connected: nothing of it is live until it is decided what is."""
        self._nodes.set_live(session.node_id, session.connection.conn_id, NOTHING)
        session.deciding = True
        self._undecided.add(session)
        self._decide_soon(session)

    def connection_left(self, session: NodeSession) -> None:
        """Nothing is left to decide about a connection that ended."""
        self._undecided.discard(session)

    def sweep(self, now: float) -> int:
        """Decide about the nodes that the store failed for; none of them is removed by that."""
        for session in list(self._undecided):
            self._decide_soon(session)
        return 0

    def _decide_soon(self, session: NodeSession) -> None:
        if session in self._asking:
            return
        self._asking[session] = []

        def asked(result: Any) -> Any:
            for waiting in self._asking.pop(session):
                waiting.callback(None)
            return result

        def failed(failure: Any) -> None:
            self._log.failure(
                "what a node may do is not known node={node}", failure, node=session.node_id
            )

        Deferred.fromCoroutine(self._decide(session)).addBoth(asked).addErrback(failed)

    async def _decide(self, session: NodeSession) -> None:
        """Decide what a connection may do now, and ask operators for the rest."""
        device = await self._device(session.node_id)
        if self._nodes.session(session.node_id) is not session:
            # It is gone, or another connection is the node: what this one declared decides nothing more.
            self._undecided.discard(session)
            return
        asked = self._asked(session, device)
        made: list[Declared] = []

        def change(record: NodeRecord) -> NodeRecord:
            declared = surface.declare(
                record,
                asked,
                pairing_ms=_pairing_ms(device),
                now_ms=asked.requested_at_ms,
                trusting=session.caller.protocol < 4,
            )
            made[:] = [declared]
            return declared.record

        await self._store.update_node(session.node_id, change)
        declared = made[0]
        self._undecided.discard(session)
        session.deciding = False
        session.approved = surface.is_approved(declared.record, session.offered)
        self._nodes.set_live(session.node_id, session.connection.conn_id, declared.live)
        if declared.superseded is not None:
            self._resolved(declared.superseded.request_id, session.node_id, "rejected")
        if declared.created is not None:
            shape = requested(session.node_id, declared.created)
            tell(self._hub, session.node_id, Event("node.pair.requested", shape))

    def _asked(self, session: NodeSession, device: Device | None) -> SurfaceRequest:
        caller, now_ms = session.caller, self._clock.now_ms()
        client = caller.client
        return SurfaceRequest(
            request_id=self._entropy.uuid4(),
            surface=session.offered,
            requested_at_ms=now_ms,
            expires_at_ms=now_ms + surface.REQUEST_TTL_MS,
            client_id=client.id,
            client_mode=client.mode,
            display_name=client.display_name,
            platform=client.platform,
            version=client.version,
            device_family=client.device_family,
            remote_ip=None if caller.peer.local else caller.peer.address,
            silent=device is not None and device.approved_via == "silent",
        )

    async def check_heard(self, caller: Caller) -> None:
        """Return once it is known that a node is heard; of version 3 each is.

        Raises Unavailable for a node of version 4 that waits for its approval, and where the store does
        not say whether it does.
        """
        if caller.protocol < 4:
            return
        session = self._nodes.of_connection(caller.conn_id)
        if session in self._asking:
            waiting: Deferred[None] = Deferred()
            self._asking[session].append(waiting)
            await waiting
        if session is not None and session.deciding:
            raise not_ready()
        if session is None or not session.approved:
            raise Unavailable(
                "this node waits for its approval: gatewayctl nodes approve",
                details={"code": "PAIRING_CHANGED"},
                retryable=True,
            )

    # -- operators

    async def list(self, caller: Caller) -> dict[str, Any]:
        """Return the requests that wait, the oldest first, and the approved nodes that a caller may see.

        A connected node whose request has expired asks again.
        """
        await self._expire()
        devices = {
            each.device_id: each.device
            for each in await self._store.list_pairings()
            if pairing.active_grant(each.device, Role.NODE) is not None
        }
        waiting: list[tuple[int, dict[str, Any]]] = []
        paired: list[dict[str, Any]] = []
        for stored in await self._store.list_nodes():
            device = devices.get(stored.node_id)
            record = surface.of_pairing(stored, _pairing_ms(device))
            if not sees_device(caller, record.node_id):
                continue
            if record.request is not None:
                waiting.append((record.request.requested_at_ms, request_row(record)))
            if record.approved is not None or record.legacy_token is not None:
                paired.append(approved(record, device))
        pending = [row for _, row in sorted(waiting, key=lambda each: each[0])]
        return {"pending": pending, "paired": paired}

    async def _expire(self) -> None:
        """Remove the requests that have expired; a node that is connected still asks anew."""
        now_ms = self._clock.now_ms()
        for record in await self._store.list_nodes():
            if record.request is None or surface.open_request(record, now_ms) is not None:
                continue
            session = self._nodes.session(record.node_id)
            if session is not None and not record.request.legacy:
                await self._decide(session)
            else:
                await self._store.update_node(record.node_id, lambda r: surface.current(r, now_ms))

    async def approve(self, caller: Caller, request_id: str) -> dict[str, Any]:
        """Approve what a node asks for; return ``{requestId, node}``. It holds at once.

        For version 3's own pairing the node gets a token, which is told this once. Raises InvalidRequest,
        also where the caller lacks a scope that it takes.
        """
        record, request = await self._find(caller, request_id)
        needed = (surface.PAIRING,) if request.legacy else surface.approve_scopes(request.surface)
        missing = next((scope for scope in needed if scope not in caller.scopes), None)
        if missing is not None:
            raise InvalidRequest(
                f"missing scope: {missing}",
                details={"missingScope": missing, "requiredScopes": list(needed)},
            )
        device, now_ms = await self._device(record.node_id), self._clock.now_ms()
        token = self._secret() if request.legacy else None

        def change(current: NodeRecord) -> NodeRecord:
            current = surface.of_pairing(current, _pairing_ms(device))
            changed = surface.approve(current, request_id, now_ms=now_ms)
            if token is None:
                return changed
            return with_legacy(changed, request, digest_of(token), now_ms)

        record = await self._changed(record.node_id, change)
        self._enliven(record)
        self._resolved(request_id, record.node_id, "approved")
        node = approved(record, device)
        return {"requestId": request_id, "node": node | ({"token": token} if token else {})}

    async def reject(self, caller: Caller, request_id: str) -> dict[str, Any]:
        """Reject what a node asks for; what was approved stays. Raises InvalidRequest."""
        record, _ = await self._find(caller, request_id)
        now_ms = self._clock.now_ms()
        await self._changed(
            record.node_id, lambda current: surface.reject(current, request_id, now_ms=now_ms)
        )
        self._resolved(request_id, record.node_id, "rejected")
        return {"requestId": request_id, "nodeId": record.node_id}

    async def remove(self, caller: Caller, node_id: str) -> dict[str, Any]:
        """Take the role node from a device: its tokens, its connections, what was approved of it.

        Raises InvalidRequest for what is no node, or not the caller's to remove.
        """
        found: Pairing = await self._store.get_pairing(node_id)
        record: NodeRecord = await self._store.get_node(node_id)
        is_node = found.device is not None and Role.NODE in found.device.roles
        known = is_node or record.approved is not None or record.legacy_token is not None
        if not known or not sees_device(caller, node_id):
            raise InvalidRequest("unknown nodeId")
        try:
            await self._store.update_pairing(node_id, _without_role)
        finally:  # the store may have it all the same where it fails
            self._revocations.role(node_id, Role.NODE)
        await self._store.update_node(node_id, surface.remove)
        if record.request is not None:
            self._resolved(record.request.request_id, node_id, "rejected")
        self._resolved("", node_id, "removed")
        self._notices.changed(node_id)
        return {"nodeId": node_id}

    # -- helpers

    async def _device(self, node_id: str) -> Device | None:
        found: Pairing = await self._store.get_pairing(node_id)
        return found.device

    async def _find(self, caller: Caller, request_id: str) -> tuple[NodeRecord, SurfaceRequest]:
        """Return the node of an open request. Raises InvalidRequest."""
        now_ms = self._clock.now_ms()
        for record in await self._store.list_nodes():
            request = surface.open_request(record, now_ms)
            if request is not None and request.request_id == request_id:
                if sees_device(caller, record.node_id):
                    return record, request
                break
        raise InvalidRequest("unknown requestId")

    async def _changed(
        self, node_id: str, change: Callable[[NodeRecord], NodeRecord]
    ) -> NodeRecord:
        """Change a record that is decided about. Raises InvalidRequest if the request has gone."""
        try:
            record: NodeRecord = await self._store.update_node(node_id, change)
        except UnknownRequest as error:
            raise InvalidRequest("unknown requestId") from error
        return record

    def _enliven(self, record: NodeRecord) -> None:
        """Let what is approved hold for the node's connection."""
        session = self._nodes.session(record.node_id)
        if session is not None and record.pairing_ms is not None:
            session.approved = surface.is_approved(record, session.offered)
            live = surface.live(record, session.offered)
            self._nodes.set_live(record.node_id, session.connection.conn_id, live)

    def _resolved(self, request_id: str, node_id: str, decision: str) -> None:
        """Tell operators of an end, and the node, which need not wait any longer."""
        shape = resolved(request_id, node_id, decision, self._clock.now_ms())
        event = Event("node.pair.resolved", shape)
        session = self._nodes.session(node_id)
        if session is not None and decision == "approved":
            session.connection.deliver_direct(event)
        tell(self._hub, node_id, event)

    def _secret(self) -> str:
        return urlsafe_b64encode(self._entropy.token_bytes(TOKEN_BYTES)).rstrip(b"=").decode()


def tell(hub: Hub, node_id: str, event: Event) -> None:
    """Tell operators of a node; a device that is no admin hears of itself only."""
    hub.broadcast_where(event, lambda caller: sees_device(caller, node_id))


def request_row(record: NodeRecord) -> dict[str, Any]:
    """Return the request of a record, which has one, as it is listed and told."""
    assert record.request is not None
    return requested(record.node_id, record.request, repair=record.legacy_token is not None)


def with_legacy(
    record: NodeRecord, request: SurfaceRequest, digest: str, now_ms: int
) -> NodeRecord:
    """Return the record of a node that was paired by version 3's own pairing, with its new token."""
    return replace(
        record,
        legacy_token=digest,
        approved_at_ms=record.approved_at_ms or now_ms,
        display_name=record.display_name or request.display_name,
        platform=record.platform or request.platform,
        version=record.version or request.version,
        device_family=record.device_family or request.device_family,
    )


def _pairing_ms(device: Device | None) -> int | None:
    """Return when a device was granted to be a node, None if it is not."""
    granted = pairing.active_grant(device, Role.NODE)
    return None if granted is None else granted.created_at_ms


def _without_role(current: Pairing) -> Pairing:
    try:
        return pairing.remove_role(current, Role.NODE)
    except pairing.PairingError:
        return current  # it was a node by its record alone
