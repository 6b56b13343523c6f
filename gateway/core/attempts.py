"""Failed credentials, counted per source: who guesses is locked out, or answered later and later.

A source is where a connection comes from, never what the client says of itself. Its failures within a
sliding window are counted for each kind of credential; too many lock that kind out for a while, the
right credential included, and then nothing is even compared. Programs of this machine share one
address, so the loopback source is never locked: its refusals are delayed, twice as long each time. A
web page on this machine is counted as its origin too, which is locked like any other source.

Times are seconds of the steady clock.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from gateway.core.access import Peer

FIRST_DELAY_S: Final = 0.25
MAX_DELAY_S: Final = 5.0
"""How long the answer to a wrong credential from loopback waits: at first, and at most."""
_IPV6_PREFIX: Final = 64
_REMEMBERED: Final = 6
"""Failures that are remembered at least: from then on the delay is the longest."""


class Credential(StrEnum):
    """The kinds of credential that are counted apart: who guesses one may still show another."""

    SHARED = "shared-secret"
    DEVICE = "device-token"
    BOOTSTRAP = "bootstrap-token"


@dataclass(frozen=True, slots=True)
class Source:
    """Where attempts come from."""

    name: str
    """A canonical address, ``loopback``, or the origin of a page on this machine."""
    lockable: bool = True


LOOPBACK: Final = Source("loopback", lockable=False)


@dataclass(frozen=True, slots=True)
class Failed:
    """What follows from a failure: the delay of its answer, and who went too far just now."""

    delay_s: float = 0.0
    alerts: tuple[Source, ...] = ()


def canonical_address(address: str) -> str:
    """Return the form of an address that is counted, so that nobody has several by spelling.

    An IPv4 address mapped into IPv6 is the IPv4 address; of IPv6 the first 64 bits count, since one
    host has all of the others; zones are dropped. What is no address stays as it is.
    """
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(ip), _IPV6_PREFIX), strict=False))


def sources_of(peer: Peer) -> tuple[Source, ...]:
    """Return what a connection's failures are counted under."""
    if not peer.local:
        return (Source(canonical_address(peer.address)),)
    if peer.origin is None:
        return (LOOPBACK,)
    return (LOOPBACK, Source(f"origin {peer.origin[:300]}"))


@dataclass(slots=True)
class _Record:
    failures: list[float] = field(default_factory=list)
    until: float = 0.0
    """When the lock ends, or for loopback when the next alert may be given."""


class Attempts:
    """Counts failures by source and kind. At most ``maximum`` records; unlocked ones go first."""

    name = "auth_failures"

    def __init__(
        self, *, failures_max: int, window_s: float, lock_s: float, maximum: int = 10_000
    ) -> None:
        self.failures_max = failures_max
        self.window_s = window_s
        self.lock_s = lock_s
        self.maximum = maximum
        self._free: dict[tuple[Source, Credential], _Record] = {}
        self._locked: dict[tuple[Source, Credential], _Record] = {}

    def __len__(self) -> int:
        return len(self._free) + len(self._locked)

    def wait_s(
        self,
        sources: Iterable[Source],
        kinds: Iterable[Credential],
        now: float,
        *,
        paced: bool = False,
    ) -> float:
        """Return for how long a credential of these kinds is not looked at; 0 if it is.

        ``paced`` is for who can't hold an answer back: loopback then waits for its delay first.
        """
        kinds = tuple(kinds)
        longest = 0.0
        for source in sources:
            for kind in kinds:
                record = self._locked.get((source, kind))
                if record is not None and source.lockable:
                    longest = max(longest, record.until - now)
                if paced and not source.lockable:
                    record = record or self._free.get((source, kind))
                    if record is not None and record.failures:
                        due = record.failures[-1] + self._delay_s(record, now)
                        longest = max(longest, due - now)
        return longest

    def failed(self, sources: Iterable[Source], kinds: Iterable[Credential], now: float) -> Failed:
        """Count a wrong credential; return how long its answer waits, and whom to tell of."""
        kinds = tuple(kinds)
        delay_s, alerts = 0.0, []
        for source in sources:
            alert = False
            for kind in kinds:
                record, went_too_far = self._count(source, kind, now)
                alert = alert or went_too_far
                if not source.lockable:
                    delay_s = max(delay_s, self._delay_s(record, now))
            if alert:
                alerts.append(source)
        return Failed(delay_s, tuple(alerts))

    def succeeded(self, sources: Iterable[Source], kinds: Iterable[Credential]) -> None:
        """Forget the failures of kinds of which the right one was shown."""
        kinds = tuple(kinds)
        for source in sources:
            for kind in kinds:
                self._free.pop((source, kind), None)
                self._locked.pop((source, kind), None)

    def sweep(self, now: float) -> int:
        """Forget locks that are over and failures that are too old; return how many records went."""
        before = len(self)
        for key, record in list(self._locked.items()):
            if record.until <= now:
                del self._locked[key]
                if key[0].lockable:
                    record.failures.clear()
                self._free[key] = record
        for key, record in list(self._free.items()):
            if not record.failures or record.failures[-1] <= now - self.window_s:
                del self._free[key]
        return before - len(self)

    def _count(self, source: Source, kind: Credential, now: float) -> tuple[_Record, bool]:
        key = source, kind
        record = self._free.pop(key, None) or self._locked.pop(key, None)
        if record is None:
            self._make_room(now)
            record = _Record()
        elif 0 < record.until <= now:
            record.until = 0.0
            if source.lockable:
                record.failures.clear()  # the lock was the answer to those
        keep = max(self.failures_max, _REMEMBERED) - 1
        recent = [at for at in record.failures if at > now - self.window_s]
        record.failures = [*recent[len(recent) - keep if len(recent) > keep else 0 :], now]
        went_too_far = not record.until and len(record.failures) >= self.failures_max
        if went_too_far:
            record.until = now + self.lock_s
        (self._locked if record.until else self._free)[key] = record
        return record, went_too_far

    def _make_room(self, now: float) -> None:
        if len(self) >= self.maximum:
            self.sweep(now)
        while len(self) >= self.maximum:
            fullest = self._free or self._locked
            del fullest[next(iter(fullest))]

    def _delay_s(self, record: _Record, now: float) -> float:
        recent = sum(at > now - self.window_s for at in record.failures)
        return min(MAX_DELAY_S, FIRST_DELAY_S * 2.0 ** (min(recent, _REMEMBERED) - 1))
