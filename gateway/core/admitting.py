"""What becomes of a device that proved its key and showed a credential: in, or first to an operator.

One pure decision over all that is known of the device, made inside the store's transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final

from gateway.core.connect import Proven
from gateway.core.devicetokens import issue, verify
from gateway.core.pairing import (
    Ask,
    active_grant,
    ask,
    grant,
    grant_of,
    grantable,
    live,
    paired,
    reason_for,
    seen,
)
from gateway.model import Device, DeviceToken, Pairing, PairingRequest, Role

_SHARED: Final = frozenset({"none", "token", "password"})
_NATIVE_APPS: Final = frozenset(
    {"openclaw-macos", "openclaw-ios", "openclaw-android", "openclaw-linux", "openclaw-watchos"}
)


class Room(Enum):
    """What there has to be room for before the decision can be carried out."""

    DEVICE = "device"
    REQUEST = "request"


@dataclass(frozen=True, slots=True)
class Offer:
    """What a setup code grants: roles, and operator scopes."""

    roles: tuple[str, ...]
    scopes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Knock:
    """A device at the door, and what the decision may use."""

    proven: Proven
    ask: Ask
    request_id: str
    """Of a request that may have to be made."""
    now_ms: int
    silent_local: bool
    shown: str | None = field(default=None, repr=False)
    """Digest of the device token that it comes in by; None if it has another credential."""
    offer: Offer | None = None
    """What its setup code grants, if it comes in by one."""
    fresh: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Digests of new tokens that it may be given, by role."""
    in_use: Mapping[str, int] = field(default_factory=dict, repr=False)
    """Digests of its tokens that open connections have (:func:`gateway.core.devicetokens.issue`)."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a device, and what others have to be told.

    It is let in unless ``refused`` (a reason of the protocol), ``request`` or ``lacks`` says otherwise.
    """

    pairing: Pairing
    """What has to be stored."""
    refused: str | None = None
    """Why its device token is refused."""
    lacks: Room | None = None
    """Nothing was decided: room has to be made first."""
    reason: str | None = None
    """Why an operator has to approve it, or what was approved without one."""
    request: PairingRequest | None = None
    """What an operator has to approve."""
    created: bool = False
    superseded: PairingRequest | None = None
    settled: PairingRequest | None = None
    """A request of which an approval without an operator left nothing to approve."""
    tokens: tuple[DeviceToken, ...] = ()
    """The tokens it has now: the one it showed, or new ones, of its role first."""
    dropped: tuple[str, ...] = ()
    """Digests of tokens that died for the new ones."""


def ask_of(proven: Proven) -> Ask:
    """Return what a connecting device wants."""
    client, peer = proven.client, proven.peer
    assert proven.device_id is not None
    assert proven.public_key is not None
    return Ask(
        device_id=proven.device_id,
        public_key=proven.public_key,
        role=proven.role.value,
        scopes=grantable(proven.scopes),
        protocol=proven.protocol,
        display_name=client.display_name,
        platform=client.platform,
        device_family=client.device_family,
        client_id=client.id,
        client_mode=client.mode,
        remote_ip=None if peer.local else peer.address,
    )


def decide(pairing: Pairing, knock: Knock, room: frozenset[Room] = frozenset()) -> Decision:
    """Decide on a device; ``room`` is what there is room for."""
    pairing, wanted = live(pairing, knock.now_ms), knock.ask
    if knock.shown is not None:
        token = verify(pairing, wanted.public_key, wanted.role, knock.shown, wanted.scopes)
        if isinstance(token, str):
            return Decision(pairing, refused=token)
    reason = reason_for(pairing, wanted)
    if knock.offer is not None:
        return _granted(pairing, knock, knock.offer, "setup-code", reason, room)
    if reason is None:
        return _let_in(pairing, knock, (wanted.role,))
    if may_pair_silently(knock, pairing):
        offer = Offer((wanted.role,), wanted.scopes)
        return _granted(pairing, knock, offer, "silent", reason, room)
    return _asked(pairing, knock, reason, room)


def _asked(pairing: Pairing, knock: Knock, reason: str, room: frozenset[Room]) -> Decision:
    if pairing.request is None and Room.REQUEST not in room:
        return Decision(pairing, lacks=Room.REQUEST)
    asked = ask(pairing, knock.ask, request_id=knock.request_id, now_ms=knock.now_ms)
    return Decision(
        asked.pairing,
        reason=reason,
        request=asked.request,
        created=asked.created,
        superseded=asked.superseded,
    )


def _granted(
    pairing: Pairing,
    knock: Knock,
    offer: Offer,
    via: str,
    reason: str | None,
    room: frozenset[Room],
) -> Decision:
    if pairing.device is None and Room.DEVICE not in room:
        return Decision(pairing, lacks=Room.DEVICE)
    granted = grant(
        pairing, knock.ask, roles=offer.roles, scopes=offer.scopes, via=via, now_ms=knock.now_ms
    )
    settled = pairing.request if granted.request is None else None
    return _let_in(granted, knock, offer.roles, reason=reason or "not-paired", settled=settled)


def _let_in(
    pairing: Pairing,
    knock: Knock,
    roles: tuple[str, ...],
    *,
    reason: str | None = None,
    settled: PairingRequest | None = None,
) -> Decision:
    """Let the device in by the token it showed, or give it one of each role, its own role first."""
    wanted = knock.ask
    tokens: list[DeviceToken] = []
    dropped: list[str] = []
    if knock.shown is None:
        for role in sorted(roles, key=lambda role: role != wanted.role):
            held = active_grant(paired(pairing), role)
            scopes = held.scopes if held else ()
            issued = issue(
                pairing,
                role,
                scopes,
                knock.fresh[role],
                now_ms=knock.now_ms,
                in_use=knock.in_use,
            )
            pairing = issued.pairing
            tokens.append(issued.token)
            dropped.extend(issued.dropped)
    else:
        tokens.extend(token for token in pairing.tokens if token.digest == knock.shown)
    pairing = seen(pairing, wanted, tokens[0].digest, now_ms=knock.now_ms)
    return Decision(
        pairing,
        reason=reason,
        settled=settled,
        tokens=tuple(tokens),
        dropped=tuple(dropped),
    )


def may_pair_silently(knock: Knock, pairing: Pairing) -> bool:
    """Whether a device may have what it asks for without an operator.

    Only a client of this machine that has the shared credential may, and a web page only where it is one
    of the known browser clients. A device that is known becomes nothing but an operator so, and gets
    nothing back that was revoked; another machine under its name is believed of an app alone.
    """
    proven, peer, client = knock.proven, knock.proven.peer, knock.proven.client
    browser = client.id == "openclaw-control-ui" or client.mode == "webchat"
    if not (knock.silent_local and peer.local and (browser or peer.origin is None)):
        return False
    if not proven.shared.ok or proven.shared.method not in _SHARED:
        return False
    # Whoever asks for more as well is no less another machine.
    if reason_for(pairing, replace(knock.ask, scopes=())) == "metadata-upgrade":
        app = client.id in _NATIVE_APPS and client.mode == "ui"
        return app and not browser and peer.origin is None
    return pairing.device is None or _may_grow(pairing.device, proven.role)


def _may_grow(device: Device, role: Role) -> bool:
    held = grant_of(device, role.value)
    revoked = held is not None and held.revoked_at_ms is not None
    return role is Role.OPERATOR and not revoked
