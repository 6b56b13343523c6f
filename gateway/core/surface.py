"""What a node may do: the approval of its surface, over the record that is kept of it.

Requirements. A node declares what it can do (capabilities, commands, permissions) whenever it connects.
Only what is declared *and* was approved is live. What was approved stays so when the node declares less
for a while. Something new waits for an operator, who decides about the whole that he was shown: what he
approves replaces what was approved before. A node has at most one request, which expires after five
minutes; the same surface keeps it, another one takes its place.

A node of version 3 knows no approval of its surface. For it the approval of its device is the approval of
what it declares first; what it adds later has to be approved as in version 4. A node that had to wait
gets nothing by coming back as version 3: what it declared first is known.

Decisions are of one pairing, that is of one grant of the role. If the device was paired anew since (it was
removed meanwhile, or lost the role), what was approved before counts no more.

Design. Pure functions from a record to the next, so that they run in the store's transaction; what they
need of the world (time, ids) comes with the call. ``generation`` rises with every change of what the node
may do, and never falls: a call that began under another one is void.

Rejected: adding what is approved to what was (an operator would approve a sum that nobody showed him);
asking again for what a node left out for one connection; deleting the record of a removed node (its
generation would begin anew).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from gateway.core.access import ADMIN, WRITE
from gateway.core.pairing import CLOCK_SLACK_MS
from gateway.model import NodeRecord, NodeSurface, SurfaceRequest

REQUEST_TTL_MS: Final = 300_000
PAIRING: Final = "operator.pairing"

NOTHING: Final = NodeSurface()

HARMLESS: Final = frozenset(
    {
        "calendar.events",
        "camera.list",
        "canvas.a2ui.push",
        "canvas.a2ui.pushJSONL",
        "canvas.a2ui.reset",
        "canvas.hide",
        "canvas.navigate",
        "canvas.present",
        "canvas.snapshot",
        "contacts.search",
        "device.info",
        "device.status",
        "location.get",
        "motion.activity",
        "motion.pedometer",
        "photos.latest",
        "reminders.list",
        "system.notify",
    }
)
"""Commands that neither run anything nor change or send anything of the owner's: who may write may
approve them. For every other command, known or not, it takes an admin."""


class UnknownRequest(Exception):
    """There is no such request, or it has expired."""


@dataclass(frozen=True, slots=True)
class Declared:
    """What became of a declaration."""

    record: NodeRecord
    live: NodeSurface
    """What the node may do now."""
    created: SurfaceRequest | None = None
    """The request that it made; None if it has nothing to ask, or asks what it asked already."""
    superseded: SurfaceRequest | None = None
    """The request of another surface that ended with it."""


def live(record: NodeRecord, declared: NodeSurface) -> NodeSurface:
    """Return what a node may do: what it declares as far as that was approved."""
    approved = record.approved or NOTHING
    granted = dict(approved.permissions)
    return NodeSurface(
        caps=_both(declared.caps, approved.caps),
        commands=_both(declared.commands, approved.commands),
        permissions=tuple(
            (name, held)
            for name, held in declared.permissions
            if name in granted and (granted[name] or not held)
        ),
    )


def covered(record: NodeRecord, declared: NodeSurface) -> bool:
    """Whether everything that is declared was approved; a permission that is not held is nothing."""
    return _items(declared) <= _items(record.approved or NOTHING)


def is_approved(record: NodeRecord, declared: NodeSurface) -> bool:
    """Whether something of a node was approved, or it declares nothing that would have to be."""
    return record.approved is not None or covered(record, declared)


def open_request(record: NodeRecord, now_ms: int) -> SurfaceRequest | None:
    """Return the request that waits, unless it has expired."""
    request = record.request
    if request is None:
        return None
    ends_at = min(request.expires_at_ms, request.requested_at_ms + REQUEST_TTL_MS)
    valid = request.requested_at_ms - CLOCK_SLACK_MS <= now_ms < ends_at
    return request if valid else None


def current(record: NodeRecord, now_ms: int) -> NodeRecord:
    """Return the record without a request that has expired."""
    if record.request is None or open_request(record, now_ms) is not None:
        return record
    return replace(record, request=None)


def of_pairing(record: NodeRecord, pairing_ms: int | None) -> NodeRecord:
    """Return the record as it counts for a pairing, without what was decided for another one.

    ``pairing_ms`` is when the device's grant for the role was made, None for a device without one.
    """
    decided = record.pairing_ms is not None or record.approved is not None
    if not decided or (pairing_ms is not None and record.pairing_ms == pairing_ms):
        return record
    request = record.request
    return replace(
        record,
        approved=None,
        approved_at_ms=None,
        pairing_ms=None,
        request=request if request is not None and request.legacy else None,
        generation=record.generation + (record.approved is not None),
    )


def declare(
    record: NodeRecord,
    asked: SurfaceRequest,
    *,
    pairing_ms: int | None,
    now_ms: int,
    trusting: bool,
) -> Declared:
    """Take a node's declaration: ``asked.surface``, and with it the request that it would make.

    ``trusting``: the first surface of a pairing is approved at once (version 3). Nothing is live, and
    nothing is asked, of a device without a pairing.
    """
    record = of_pairing(record, pairing_ms)
    if pairing_ms is None:
        return Declared(record, NOTHING)
    declared, waiting = asked.surface, open_request(record, now_ms)
    if record.pairing_ms is None:
        record = replace(record, pairing_ms=pairing_ms)
        if trusting:
            record = _approved(record, declared, now_ms)
    if covered(record, declared):
        return _settled(record, declared, waiting)
    if waiting is not None and not waiting.legacy and _items(waiting.surface) == _items(declared):
        return Declared(record, live(record, declared))
    record = replace(record, request=asked)
    return Declared(record, live(record, declared), created=asked, superseded=waiting)


def _settled(record: NodeRecord, declared: NodeSurface, waiting: SurfaceRequest | None) -> Declared:
    """There is nothing to ask: a request for more than what is declared now is void."""
    if waiting is not None and waiting.legacy:
        return Declared(record, live(record, declared))
    settled = replace(record, request=None)
    return Declared(settled, live(settled, declared), superseded=waiting)


def approve(record: NodeRecord, request_id: str, *, now_ms: int) -> NodeRecord:
    """Return the record with what was asked approved. Raises UnknownRequest."""
    request = _requested(record, request_id, now_ms)
    if request.legacy:
        return replace(record, request=None)
    return _approved(replace(record, request=None), request.surface, now_ms)


def reject(record: NodeRecord, request_id: str, *, now_ms: int) -> NodeRecord:
    """Return the record without the request; what was approved stays. Raises UnknownRequest."""
    _requested(record, request_id, now_ms)
    return replace(record, request=None)


def remove(record: NodeRecord) -> NodeRecord:
    """Return what is kept of a node that was removed: that it may do nothing from now on."""
    return NodeRecord(node_id=record.node_id, generation=record.generation + 1)


def approve_scopes(surface: NodeSurface) -> tuple[str, ...]:
    """Return the scopes that who approves a surface must hold, all of them."""
    if not surface.commands:
        return (PAIRING,)
    return (PAIRING, WRITE if HARMLESS.issuperset(surface.commands) else ADMIN)


def _approved(record: NodeRecord, surface: NodeSurface, now_ms: int) -> NodeRecord:
    return replace(
        record,
        approved=surface,
        approved_at_ms=now_ms,
        generation=record.generation + (surface != record.approved),
    )


def _requested(record: NodeRecord, request_id: str, now_ms: int) -> SurfaceRequest:
    request = open_request(record, now_ms)
    if request is None or request.request_id != request_id:
        raise UnknownRequest
    return request


def _items(surface: NodeSurface) -> set[tuple[str, str]]:
    """Return everything that a surface offers, as (kind, name)."""
    return {
        *(("cap", name) for name in surface.caps),
        *(("command", name) for name in surface.commands),
        *(("permission", name) for name, held in surface.permissions if held),
    }


def _both(declared: Iterable[str], approved: Iterable[str]) -> tuple[str, ...]:
    held = set(approved)
    return tuple(name for name in declared if name in held)
