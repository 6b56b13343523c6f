"""What a device asks for and what it was granted: one :class:`~gateway.model.Pairing`, and its changes.

Requirements
    A device that proved its key may be (roles) and do (operator scopes) what an operator granted, never
    what it claims (protocol: pairing). It has one open request, for five minutes. What was revoked or
    removed is worth nothing from then on.

Design
    Pure functions from a pairing to a pairing, called inside the store's transaction, so that no decision
    rests on what another one has changed meanwhile. Who tells whom is the caller's. ::

                       ask                      approve, grant
        unknown ---------------> asking ---------------------------> paired
           ^  ^                  |  ^  | reject, five minutes        |    |
           |  +------------------|--|--+ (back to what it was)       |    | ask: paired and asking
           |                     +--+ ask for more: superseded       |    +-------> (approve: paired)
           +----------------------------------- remove --------------+

        of each role of a paired device (tokens: gateway.core.devicetokens):

        absent --approve, grant--> granted --revoke--> revoked --approve, grant--> granted
           ^                          |                   |
           +------ remove_role -------+-------------------+

    Nothing outlives a revocation: what is approved for a revoked role afterwards starts from nothing, not
    from what was revoked.

    A request never changes under its id: who approves an id grants what was shown for it. What a device
    asks for beyond it makes a new one. So it is for both versions, although version 3 merged both.

    Time is the wall clock, which people set: a request of the future is as good as expired, but for
    the minute by which clocks are corrected.

Rejected
    Making the token when the request is approved (only the device ever needs it, and it gets one when it
    comes back); a request for each of a device's connections (an operator could not tell them apart).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from gateway.core.access import KNOWN_SCOPES, covers
from gateway.core.deviceproof import normalise_metadata
from gateway.model import Device, DeviceToken, Pairing, PairingRequest, Role, RoleGrant

TTL_MS: Final = 300_000
"""How long a request waits for an operator."""
CLOCK_SLACK_MS: Final = 60_000
"""How far the wall clock may be set back without ending the requests that wait."""
SEEN_INTERVAL_MS: Final = 60_000
"""How often it is written down that a device was here."""
_MACHINE: Final = ("platform", "device_family")
_FACTS: Final = ("display_name", "client_id", "client_mode", "remote_ip", *_MACHINE)


class PairingError(Exception):
    """The change can not be made.

    ``kind`` is unknown-request, unknown-device, unknown-role, scope-not-approved or nothing-to-approve.
    """

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Ask:
    """What a connecting device wants to be, and what it says of itself."""

    device_id: str
    public_key: str
    """In canonical form, proven."""
    role: str
    scopes: tuple[str, ...]
    """The operator scopes that it asks for, see :func:`grantable`."""
    protocol: int
    display_name: str | None = None
    platform: str | None = None
    device_family: str | None = None
    client_id: str | None = None
    client_mode: str | None = None
    remote_ip: str | None = None
    """None for a client of this machine."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The answer to an :class:`Ask` that needs an operator."""

    pairing: Pairing
    request: PairingRequest
    created: bool
    """Whether operators have to be told of a request that they have not heard of."""
    superseded: PairingRequest | None = None
    """The request whose place it takes: resolved as rejected."""


def grantable(scopes: Iterable[str]) -> tuple[str, ...]:
    """Return the scopes among these that can be granted, each once, in their order."""
    return tuple(dict.fromkeys(scope for scope in scopes if scope in KNOWN_SCOPES))


def live(pairing: Pairing, now_ms: int) -> Pairing:
    """Return the pairing without its request if nobody may approve that any more."""
    request = pairing.request
    if request is None:
        return pairing
    ends_at = min(request.expires_at_ms, request.requested_at_ms + TTL_MS)
    if request.requested_at_ms - CLOCK_SLACK_MS <= now_ms < ends_at:
        return pairing
    return replace(pairing, request=None)


def grant_of(device: Device | None, role: str) -> RoleGrant | None:
    """Return what a device was granted for a role, revoked or not."""
    grants = () if device is None else device.grants
    return next((grant for grant in grants if grant.role == role), None)


def active_grant(device: Device | None, role: str) -> RoleGrant | None:
    """Return what a device may be now: the grant of an approved role that is not revoked."""
    grant = grant_of(device, role)
    if device is None or role not in device.roles or grant is None:
        return None
    return grant if grant.revoked_at_ms is None else None


def paired(pairing: Pairing) -> Device:
    """Return the device of a pairing. Raises PairingError unknown-device."""
    if pairing.device is None:
        raise PairingError("unknown-device")
    return pairing.device


def with_grant(pairing: Pairing, changed: RoleGrant) -> Pairing:
    """Return the pairing with a grant in the place of the one of its role."""
    device = paired(pairing)
    grants = tuple(changed if known.role == changed.role else known for known in device.grants)
    return replace(pairing, device=replace(device, grants=grants))


def without_role(pairing: Pairing, role: str) -> tuple[DeviceToken, ...]:
    """Return the tokens of all other roles."""
    return tuple(token for token in pairing.tokens if token.role != role)


def allows(device: Device, held: RoleGrant, scopes: Iterable[str]) -> bool:
    """Whether scopes are within a grant of a device; none always are."""
    wanted = grantable(scopes)
    return covers(held.scopes, wanted) and covers(device.scopes, wanted)


def reason_for(pairing: Pairing, wanted: Ask) -> str | None:
    """Return why an operator has to approve what is asked, or None.

    The reasons are not-paired, role-upgrade, scope-upgrade and metadata-upgrade. What version 3 clients
    say of their machine is taken as it is.
    """
    device = pairing.device
    if device is None or device.public_key != wanted.public_key:
        return "not-paired"
    grant = active_grant(device, wanted.role)
    if grant is None:
        return "role-upgrade"
    if not allows(device, grant, wanted.scopes):
        return "scope-upgrade"
    if wanted.protocol >= 4 and _other_machine(device, wanted):
        return "metadata-upgrade"
    return None


def ask(pairing: Pairing, wanted: Ask, *, request_id: str, now_ms: int) -> Asked:
    """Enter what a device wants as its open request; ``request_id`` is the id of a new one.

    A request that grants all of it stays as it is. Another one gives way to a new one of all that was
    asked for. Raises PairingError nothing-to-approve.
    """
    pairing = live(pairing, now_ms)
    reason = reason_for(pairing, wanted)
    if reason is None:
        raise PairingError("nothing-to-approve")
    old = pairing.request
    if old is not None and old.public_key != wanted.public_key:
        old = None
    if old is not None and _holds(old, wanted):
        return Asked(pairing, old, created=False)
    request = PairingRequest(
        request_id=request_id,
        device_id=pairing.device_id,
        public_key=wanted.public_key,
        role=wanted.role,
        roles=_union(old.roles if old else (), (wanted.role,)),
        scopes=_union(old.scopes if old else (), grantable(wanted.scopes)),
        requested_at_ms=now_ms,
        expires_at_ms=now_ms + TTL_MS,
        reason=reason,
        is_repair=pairing.device is not None,
        **{name: getattr(wanted, name) for name in _FACTS},
    )
    return Asked(replace(pairing, request=request), request, True, pairing.request)


def may_grant(approver_scopes: Iterable[str], request: PairingRequest) -> str | None:
    """Return the first scope of a request that the approver lacks, and so can not grant; or None."""
    held = tuple(approver_scopes)
    return next((scope for scope in request.scopes if not covers(held, (scope,))), None)


def approve(pairing: Pairing, request_id: str, *, via: str, now_ms: int) -> Pairing:
    """Grant the open request. Raises PairingError unknown-request, also for one that has expired."""
    request = _open_request(pairing, request_id, now_ms)
    wanted = Ask(
        device_id=request.device_id,
        public_key=request.public_key,
        role=request.role,
        scopes=request.scopes,
        protocol=0,
        **{name: getattr(request, name) for name in _FACTS},
    )
    granted = grant(
        pairing, wanted, roles=request.roles, scopes=request.scopes, via=via, now_ms=now_ms
    )
    return replace(granted, request=None)


def grant(
    pairing: Pairing,
    wanted: Ask,
    *,
    roles: tuple[str, ...],
    scopes: tuple[str, ...],
    via: str,
    now_ms: int,
) -> Pairing:
    """Grant roles and operator scopes to a device without a request of its own.

    They are added to what it has; another public key starts from nothing, without the old tokens. An open
    request is left waiting, unless nothing of it is left to approve. What machine it is is taken over,
    unless nobody looked at it (silently, version 3).
    """
    before = pairing.device
    same = before is not None and before.public_key == wanted.public_key
    kept = before if same else None
    grants = {known.role: known for known in (kept.grants if kept else ())}
    for role in roles:
        own = grantable(scopes) if role == Role.OPERATOR else ()
        grants[role] = _renewed(active_grant(kept, role), role, own, now_ms)
    approved = grants.get(Role.OPERATOR)
    silently = kept is not None and via == "silent"
    device = Device(
        device_id=pairing.device_id,
        public_key=wanted.public_key,
        roles=_union(kept.roles if kept else (), roles),
        scopes=approved.scopes if approved else (),
        created_at_ms=kept.created_at_ms if kept else now_ms,
        approved_at_ms=now_ms,
        approved_via=kept.approved_via if kept and silently else via,
        name=kept.name if kept else None,
        last_seen_at_ms=kept.last_seen_at_ms if kept else None,
        last_seen_reason=kept.last_seen_reason if kept else None,
        grants=tuple(grants.values()),
        version=before.version if before else 0,
        **_facts(kept, wanted, same_machine=silently and wanted.protocol < 4),
    )
    tokens = pairing.tokens if same else ()
    request = pairing.request
    if request is not None and _is_settled(device, request):
        request = None
    return replace(pairing, device=device, tokens=tokens, request=request)


def reject(pairing: Pairing, request_id: str, *, now_ms: int) -> Pairing:
    """Drop the open request. Raises PairingError unknown-request, also for one that has expired."""
    _open_request(pairing, request_id, now_ms)
    return replace(pairing, request=None)


def rename(pairing: Pairing, name: str | None) -> Pairing:
    """Give a device another name than its own; None takes it back. Raises PairingError unknown-device."""
    return replace(pairing, device=replace(paired(pairing), name=name))


def remove(pairing: Pairing) -> Pairing:
    """Forget a device: its record, its tokens, what it asks for. Raises PairingError unknown-device."""
    paired(pairing)
    return Pairing(device_id=pairing.device_id)


def remove_role(pairing: Pairing, role: str) -> Pairing:
    """Take a role from a device, with its tokens; with the last one the device itself goes.

    Raises PairingError unknown-device or unknown-role.
    """
    device = paired(pairing)
    if role not in device.roles:
        raise PairingError("unknown-role")
    roles = tuple(other for other in device.roles if other != role)
    if not roles:
        return remove(pairing)
    left = replace(
        device,
        roles=roles,
        scopes=() if role == Role.OPERATOR else device.scopes,
        grants=tuple(known for known in device.grants if known.role != role),
    )
    return replace(pairing, device=left, tokens=without_role(pairing, role))


def seen(pairing: Pairing, wanted: Ask, digest: str | None, *, now_ms: int) -> Pairing:
    """Write down that a paired device was here, and with which token: at most once a minute.

    What it says of itself is taken over; who it is to operators, its key, its grants and the machine that
    was approved, never changes by it. Returns the pairing itself where there is nothing to write.
    """
    device = paired(pairing)
    if _due(device.last_seen_at_ms, now_ms):
        facts = _facts(device, wanted, same_machine=True)
        device = replace(device, last_seen_at_ms=now_ms, last_seen_reason="connect", **facts)
        pairing = replace(pairing, device=device)
    held = grant_of(device, wanted.role)
    if digest is None or held is None:
        return pairing
    if _due(held.last_used_at_ms, now_ms):
        pairing = with_grant(pairing, replace(held, last_used_at_ms=now_ms))
    tokens = tuple(
        replace(token, last_used_at_ms=now_ms)
        if token.digest == digest and _due(token.last_used_at_ms, now_ms)
        else token
        for token in pairing.tokens
    )
    return pairing if tokens == pairing.tokens else replace(pairing, tokens=tokens)


def _due(last_ms: int | None, now_ms: int) -> bool:
    return last_ms is None or not last_ms <= now_ms < last_ms + SEEN_INTERVAL_MS


def _facts(kept: Device | None, wanted: Ask, *, same_machine: bool) -> dict[str, str | None]:
    """Return what a device says of itself; what it leaves out stays as it was.

    ``same_machine``: so does what is known of its machine, which later claims are held against.
    """
    facts = {name: getattr(wanted, name) or getattr(kept, name, None) for name in _FACTS}
    if same_machine:
        facts |= {name: getattr(kept, name, None) or facts[name] for name in _MACHINE}
    return facts


def _other_machine(known: Device | PairingRequest, wanted: Ask | PairingRequest) -> bool:
    """Whether a device says that it is another machine than it said before; silence says nothing."""
    pairs = (
        (known.platform, wanted.platform),
        (known.device_family, wanted.device_family),
    )
    normal = ((normalise_metadata(old), normalise_metadata(new)) for old, new in pairs)
    return any(old and new and old != new for old, new in normal)


def _holds(request: PairingRequest, wanted: Ask) -> bool:
    """Whether an approval of a request grants what is asked for, to the machine that asks."""
    within = covers(request.scopes, grantable(wanted.scopes))
    return wanted.role in request.roles and within and not _other_machine(request, wanted)


def _is_settled(device: Device, request: PairingRequest) -> bool:
    """Whether a device has by now all that its request asks for."""
    if device.public_key != request.public_key or _other_machine(device, request):
        return False
    grants = [active_grant(device, role) for role in request.roles]
    return all(grants) and covers(device.scopes, request.scopes)


def _renewed(held: RoleGrant | None, role: str, scopes: tuple[str, ...], now_ms: int) -> RoleGrant:
    if held is None:
        return RoleGrant(role=role, scopes=scopes, created_at_ms=now_ms)
    return replace(held, scopes=_union(held.scopes, scopes))


def _open_request(pairing: Pairing, request_id: str, now_ms: int) -> PairingRequest:
    request = live(pairing, now_ms).request
    if request is None or request.request_id != request_id:
        raise PairingError("unknown-request")
    return request


def _union(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*first, *second)))
