"""The tokens of a paired device: what it comes back with in place of the shared credential.

Requirements
    A token serves one device, in one role, for no more than that role's grant allows when it is shown; a
    device has a few at once, for its installations (protocol: device tokens). Revoking a role ends all.

Design
    Pure functions over a :class:`~gateway.model.Pairing`, as :mod:`gateway.core.pairing`. Only digests
    come here; a token has 32 random bytes, so that its SHA-256 needs neither salt nor stretching. A token
    keeps the scopes it was made with, and is held against its grant anew each time it is shown.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from msgspec.structs import replace

from gateway.core.access import covers
from gateway.core.pairing import (
    PairingError,
    active_grant,
    allows,
    grant_of,
    grantable,
    paired,
    with_grant,
    without_role,
)
from gateway.model import DeviceToken, Pairing

LIVE_TOKENS: Final = 4
"""Tokens of one device and role that live at once; another takes the place of the one longest unused.

One that an open connection has goes after all that none has: else a copy of the device that comes and goes
without its token would throw out the one at work.
"""

_NO_USE: Final[Mapping[str, int]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Issued:
    """A new token. ``dropped`` are the digests of those that died for it."""

    pairing: Pairing
    token: DeviceToken
    dropped: tuple[str, ...] = ()


def issue(
    pairing: Pairing,
    role: str,
    scopes: Iterable[str],
    digest: str,
    *,
    now_ms: int,
    keep: int = LIVE_TOKENS,
    in_use: Mapping[str, int] = _NO_USE,
) -> Issued:
    """Enter a new token of a role, and drop those of the role that are too many with it.

    ``in_use`` are digests that open connections have: the higher the number, the later it is dropped.

    Raises PairingError unknown-device, unknown-role (also where it is revoked) or scope-not-approved.
    """
    device = paired(pairing)
    held = active_grant(device, role)
    if held is None:
        raise PairingError("unknown-role")
    scopes = grantable(scopes)
    if not allows(device, held, scopes):
        raise PairingError("scope-not-approved")
    token = DeviceToken(
        digest=digest,
        device_id=pairing.device_id,
        role=role,
        scopes=scopes,
        issued_at_ms=now_ms,
        last_used_at_ms=None,
    )
    others = [known for known in pairing.tokens if known.role == role]
    surplus = max(0, len(others) + 1 - keep)
    others.sort(key=lambda known: (in_use.get(known.digest, 0), _last_needed(known)))
    dropped = {known.digest for known in others[:surplus]}
    left = tuple(known for known in pairing.tokens if known.digest not in dropped)
    pairing = replace(pairing, tokens=(*left, token))
    return Issued(pairing, token, tuple(sorted(dropped)))


def rotate(
    pairing: Pairing, role: str, scopes: Iterable[str] | None, *, digest: str, now_ms: int
) -> Issued:
    """Put a new token in the place of all of a role; ``scopes`` None gives it all that is granted.

    Raises as :func:`issue`.
    """
    held = active_grant(paired(pairing), role)
    if held is None:
        raise PairingError("unknown-role")
    wanted = held.scopes if scopes is None else scopes
    issued = issue(pairing, role, wanted, digest, now_ms=now_ms, keep=1)
    changed = with_grant(issued.pairing, replace(held, rotated_at_ms=now_ms))
    return Issued(changed, issued.token, issued.dropped)


def revoke(pairing: Pairing, role: str, *, now_ms: int) -> Pairing:
    """End a role's grant and all of its tokens; the role has to be approved anew.

    Raises PairingError unknown-device or unknown-role.
    """
    held = grant_of(paired(pairing), role)
    if held is None:
        raise PairingError("unknown-role")
    revoked = with_grant(pairing, replace(held, revoked_at_ms=now_ms))
    return replace(revoked, tokens=without_role(pairing, role))


def verify(
    pairing: Pairing, public_key: str, role: str, digest: str, scopes: Iterable[str]
) -> DeviceToken | str:
    """Return the token that a device may come in with for these scopes, or the reason why it has none.

    The reasons are the protocol's: device_token_mismatch and scope_mismatch. Takes the same time
    whichever of the role's tokens it is.
    """
    held = active_grant(pairing.device, role)
    found: DeviceToken | None = None
    for token in pairing.tokens:
        if hmac.compare_digest(token.digest, digest) and token.role == role:
            found = token
    if pairing.device is None or held is None or found is None:
        return "device_token_mismatch"
    if pairing.device.public_key != public_key:
        return "device_token_mismatch"
    wanted = grantable(scopes)
    if covers(found.scopes, wanted) and allows(pairing.device, held, wanted):
        return found
    return "scope_mismatch"


def _last_needed(token: DeviceToken) -> int:
    return max(token.issued_at_ms, token.last_used_at_ms or 0)
