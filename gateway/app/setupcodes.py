"""Setup codes that wait to be used: in memory only, each for ten minutes, one device and one use.

Of a code only the digest of its secret is kept, so that nobody can read it out of the gateway again. The
first device that shows it has it: another one is refused, and so is a second connect of the same device
while the first is under way. A restart forgets them all, and the rights of who made a code end the code: else
who is thrown out would come back by one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from twisted.logger import Logger

from gateway.app.hub import Hub
from gateway.app.qrcodes import drawn
from gateway.app.revocation import Meant, Revocations
from gateway.app.threads import InThread, here
from gateway.core.access import digest_of
from gateway.core.deviceproof import base64url
from gateway.core.events import Event
from gateway.core.registry import Registry
from gateway.core.setupcode import LINK_BYTES, Profile, SetupCode, link_secret
from gateway.errors import Unavailable
from gateway.interfaces import IClock, IEntropy
from gateway.limits import LimitsConfig
from gateway.model import Principal

SETUP_TTL_S: Final = 600.0
"""How long a setup code can be used, in seconds."""

SECRET_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Created:
    """A new setup code; the only place where its secret stands."""

    setup_id: str
    secret: str = field(repr=False)
    expires_at_ms: int
    profile: Profile
    link_code: str | None = field(default=None, repr=False)
    """What its join link ends with, if it was made with one."""


@dataclass(frozen=True, slots=True)
class SetupGrant:
    """What a device that showed a setup code may become."""

    setup_id: str
    roles: tuple[str, ...]
    scopes: tuple[str, ...]
    """Operator scopes, at most."""
    access: str


@dataclass(slots=True)
class _Code:
    setup_id: str
    digest: str = field(repr=False)
    profile: Profile
    made_at: float
    maker: Principal | None = None
    holder: tuple[str, str] | None = None
    """Device id and public key of who showed it first."""
    busy: bool = False
    """Whether a connect with it is under way."""
    link: SetupCode | None = field(default=None, repr=False)
    """What its join link leads to, but for the secret; None once somebody followed it."""


class SetupCodes:
    """All setup codes; a Sweepable."""

    name = "setup-codes"
    _log = Logger()

    def __init__(
        self,
        *,
        clock: IClock,
        entropy: IEntropy,
        hub: Hub,
        revocations: Revocations,
        limits: LimitsConfig,
        in_thread: InThread = here,
    ) -> None:
        self._clock = clock
        self._in_thread = in_thread
        self._entropy = entropy
        self._hub = hub
        maximum = limits.setup_codes_max
        self._open: Registry[_Code] = Registry(
            self.name, maximum=maximum, ttl_s=SETUP_TTL_S, in_use=lambda code: code.busy
        )
        """Codes that can still be used, by the digest of their secret."""
        self._used: Registry[dict[str, Any]] = Registry(
            "setup-codes-used", maximum=maximum, ttl_s=SETUP_TTL_S
        )
        """What became of those that were used, by their id."""
        self._claimed: set[str] = set()
        """Ids of the codes that are under way; the store's thread asks for them."""
        revocations.add_listener(self.end_of)

    def __len__(self) -> int:
        return len(self._open)

    def sweep(self, now: float) -> int:
        """Forget what has expired."""
        return self._open.sweep(now) + self._used.sweep(now)

    def create(
        self,
        profile: Profile,
        held: Iterable[str],
        maker: Principal | None = None,
        *,
        link_to: str | None = None,
    ) -> Created:
        """Make a code for what a profile allows and its maker holds itself. Raises Unavailable.

        ``maker`` is who made it; the code ends with its rights. ``link_to`` is the gateway's address: with
        it the code has a join link.
        """
        secret, link_code = base64url(self._entropy.token_bytes(SECRET_BYTES)), None
        if link_to is not None:
            link_code = base64url(self._entropy.token_bytes(LINK_BYTES))
            secret = link_secret(link_code)
        digest, now = digest_of(secret), self._clock.seconds()
        profile = profile.within(held)
        code = _Code(self._entropy.uuid4(), digest, profile, now, maker)
        self._open.sweep(now)
        if len(self._open) >= self._open.maximum:
            raise Unavailable("too many setup codes wait to be used; try again in ten minutes")
        self._open.put(digest, code, now)
        self._log.info(
            "setup code made setup={setup} profile={profile} by={by}",
            setup=code.setup_id,
            profile=profile.name,
            by=None if maker is None else maker.actor,
        )
        expires_at_ms = self._clock.now_ms() + round(SETUP_TTL_S * 1000)
        if link_to is not None:
            code.link = SetupCode(link_to, "", expires_at_ms, profile.name)
        return Created(code.setup_id, secret, expires_at_ms, profile, link_code)

    def follow(self, link_code: str) -> SetupCode | None:
        """Return what a join link leads to, once; None for one that is unknown, old or was followed.

        What is no link's code at all (:func:`is_link_code`) must not come here.
        """
        secret = link_secret(link_code)
        code = self._open.get(digest_of(secret))
        if code is None or code.link is None or self._clock.seconds() - code.made_at >= SETUP_TTL_S:
            return None
        link, code.link = code.link, None
        self._log.info("join link followed setup={setup}", setup=code.setup_id)
        return replace(link, secret=secret)

    def claim(self, secret: str, device_id: str, public_key: str) -> SetupGrant | None:
        """Take a code for a connect; None for one that is unknown, old, used, another's or under way.

        Whoever got a grant calls :meth:`consume` or :meth:`release`.
        """
        code = self._open.get(digest_of(secret))
        holder = (device_id, public_key)
        if code is None or self._clock.seconds() - code.made_at >= SETUP_TTL_S:
            return None
        if code.busy or code.holder not in (None, holder):
            return None
        code.holder, code.busy = holder, True
        self._claimed.add(code.setup_id)
        profile = code.profile
        return SetupGrant(code.setup_id, profile.roles, profile.scopes, profile.access)

    def end_of(self, meant: Meant) -> None:
        """Forget the codes of those whose rights were taken away."""
        for code in list(self._open):
            if code.maker is not None and meant(code.maker):
                self._open.pop(code.digest)
                self._claimed.discard(code.setup_id)
                self._log.info("setup code ended with its maker setup={setup}", setup=code.setup_id)

    def holds(self, grant: SetupGrant) -> bool:
        """Whether a code that was claimed has not ended with the rights of its maker."""
        return grant.setup_id in self._claimed

    def release(self, grant: SetupGrant) -> None:
        """Take in that the connect failed: the same device may try again."""
        self._claimed.discard(grant.setup_id)
        code = self._of(grant)
        if code is not None:
            code.busy = False

    def consume(self, grant: SetupGrant, device_id: str, device_name: str | None) -> None:
        """Take in that a device came in by a code: nobody can use it again, and operators are told."""
        self._claimed.discard(grant.setup_id)
        code = self._of(grant)
        if code is None:
            return
        self._open.pop(code.digest)
        told = {
            "setupId": grant.setup_id,
            "deviceId": device_id,
            "access": grant.access,
            "ts": self._clock.now_ms(),
        }
        if device_name:
            told["deviceName"] = device_name
        self._used.put(grant.setup_id, told, self._clock.seconds())
        self._log.info(
            "setup code used setup={setup} device={device}", setup=grant.setup_id, device=device_id
        )
        self._hub.broadcast(Event("device.pair.setup.completed", told, v3=None))

    async def drawn(self, code: str) -> str | None:
        """Return the text of a setup code as the URL of a picture, None if there is none."""
        return await drawn(code, self._in_thread)

    def completion(self, setup_id: str) -> dict[str, Any] | None:
        """Return by which device a code was used, ``{setupId, deviceId, access, ts, deviceName?}``."""
        return self._used.get(setup_id)

    def _of(self, grant: SetupGrant) -> _Code | None:
        found = (code for code in self._open if code.setup_id == grant.setup_id)
        return next(found, None)
