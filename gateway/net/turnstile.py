"""A share of the loop's time for strangers: whoever is in does not wait for who wants to come in.

Requirements. However many connections without credentials there are, and however fast they write, a client
that is authenticated is served about as fast as without them. Nobody is turned away by this: who waits is
read later. A stranger that needs one read to say what it wants does not wait for those that come again and
again.

Design. What strangers cost is measured, and paid from a purse that fills with a part of the time that passes:
most of it as long as nobody who is in asks for anything, else a quarter; what somebody cost who then is let
in is put back. As long as there is something in it, they are served as they come. When it is empty, who was
just accepted or served is not read from any more, and stands in line; one timer lets in as many as were paid
for. There is a line for each address, and they have turns, so that a thousand sockets of one host do not
delay the one of another. Within a line those that were never served go before the others three times in four.
Who is silent costs nothing and does not stand in line. A socket that is not read fills the kernel's buffer,
and then its sender waits too: that is all that a flood can do. Ports accept nobody either while the purse is
empty: who knocks then waits in the kernel's queue. A stranger is who has not had its hello yet,
and every HTTP request.

Rejected: a limit of connections a second (a thousand clients come back at once after a restart, and that is
no attack); closing who writes fast (a proxy's one address may be everybody).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from gateway.core.attempts import canonical_address

SHARE: Final = 0.25
"""Part of the time that strangers may take while those who are in work."""
QUIET_SHARE: Final = 0.9
"""The same while nobody who is in has asked for anything."""
QUIET_S: Final = 1.0
"""For how long nobody may have asked, in seconds."""
PURSE_S: Final = 0.001
"""Most time that is saved for strangers, in seconds: it is how long who is in may wait for them."""
DEBT_S: Final = 0.002
"""Most that they may owe: who opens sockets without end does not keep the others from being read."""
READ_S: Final = 0.0002
"""What one read of a stranger costs beside what is measured: the loop's work, to wait and be let in."""
ACCEPT_S: Final = 0.0005
"""What it costs to accept a connection and to close it, which is not measured."""
TLS_S: Final = 0.0015
"""What a TLS handshake costs, which is done below what is measured."""
REFUSE_S: Final = 0.0002
"""What it costs to accept a connection and to refuse it there and then."""
PACE_S: Final = 0.001
"""Least time between two turns, in seconds."""
AT_ONCE: Final = 2
"""Most that are let in in one turn while those who are in work."""
NEW_OF_FOUR: Final = 3


class _Line:
    """Those of one address who wait, in the order in which they came."""

    __slots__ = ("address", "again", "new", "turns")

    def __init__(self, address: str) -> None:
        self.address = address
        self.new: dict[Any, None] = {}
        self.again: dict[Any, None] = {}
        self.turns = 0

    def next(self) -> Any:
        """Take out who is next."""
        self.turns += 1
        first = self.new if self.turns % 4 < NEW_OF_FOUR else self.again
        line = first or self.new or self.again
        member = next(iter(line))
        del line[member]
        return member


def _entry(member: Any) -> float:
    """Return what it cost to accept a member."""
    return ACCEPT_S + TLS_S if hasattr(member.transport, "wrappedProtocol") else ACCEPT_S


def _read(member: Any) -> None:
    """Have a member read, unless its own protocol waits for something."""
    if not getattr(member, "held", False):
        member.transport.resumeProducing()


class Turnstile:
    """The purse, and the lines before it. A member has a ``transport`` and an ``address`` (text).

    One whose protocol does not want to be read just now has a true ``held``: its turn does not have it read.
    """

    def __init__(self, clock: IReactorTime, *, asked: Callable[[], int] = lambda: 0) -> None:
        """``asked`` returns how much those who are in have asked for so far."""
        self._clock = clock
        self._asked = asked
        self._asked_before = asked()
        self._asked_at = clock.seconds() - QUIET_S
        self._purse = PURSE_S
        self._filled_at = clock.seconds()
        self._cost = READ_S
        """What a read costs, on the average of the last ones."""
        self._waiting: dict[Any, _Line] = {}
        """Everybody who waits, with the line of the address."""
        self._lines: dict[str, _Line] = {}
        """The lines that have somebody in them; the first has the next turn."""
        self._doors: dict[Any, None] = {}
        """The ports that accept nobody now."""
        self._next: IDelayedCall | None = None
        self._serving = False
        self._open = False

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, member: object) -> bool:
        return member in self._waiting

    def came(self, member: Any) -> None:
        """A connection was accepted."""
        self._pay(_entry(member))
        self._line_up(member, new=True)

    def refused(self) -> None:
        """A connection was accepted for which there is no room."""
        self._pay(REFUSE_S)

    def pace(self, port: Any) -> None:
        """Have a port that just accepted somebody accept no more as long as strangers owe."""
        if self._purse < 0 and not self._open and port not in self._doors:
            self._doors[port] = None
            port.pauseProducing()
            self._arm()

    def serve(
        self, member: Any, work: Callable[[bytes], object], data: bytes, strange: Callable[[], bool]
    ) -> float:
        """Do for a stranger what it asks for; if it is one still, and too much was spent, it has to wait.

        Returns what that cost.
        """
        took = 0.0
        # Within another's work where a protocol was just put in its place.
        within, self._serving = self._serving, True
        began = self._clock.seconds()
        try:
            work(data)
        finally:
            self._serving = within
            if not within:
                took = READ_S + self._clock.seconds() - began
                self._cost += (took - self._cost) / 16
                self._pay(took)
            if strange():
                self._line_up(member, new=False)
        return took

    def known(self, member: Any, spent: float) -> None:
        """A stranger was let in: it is read again, and what it cost is given back.

        So a thousand clients that come back at once do not wait as strangers would.
        """
        self._fill()
        self._purse = min(PURSE_S, self._purse + spent + _entry(member) + self._cost)
        if self._next is not None and self._purse >= 0:
            self._next.reset(PACE_S)
        self.left(member)

    def left(self, member: Any) -> None:
        """Forget a connection that is no stranger any more: it is read again."""
        if member in self:
            self.lost(member)
            _read(member)

    def lost(self, member: Any) -> None:
        """Forget a connection whose transport is gone."""
        line = self._waiting.pop(member, None)
        if line is not None:
            line.new.pop(member, None)
            line.again.pop(member, None)
            if not line.new and not line.again:
                del self._lines[line.address]

    def start(self) -> None:
        """Let people stand in line, after a stop too."""
        self._open = False

    def stop(self) -> None:
        """Let everybody in, and nobody stand in line any more: those that are left have to end."""
        self._open = True
        waiting = list(self._waiting)
        self._waiting.clear()
        self._lines.clear()
        for member in waiting:
            _read(member)
        self._open_doors()
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _pay(self, seconds: float) -> None:
        self._fill()
        self._purse = max(-DEBT_S, self._purse - seconds)

    def _fill(self) -> None:
        now, asked = self._clock.seconds(), self._asked()
        if asked != self._asked_before:
            self._asked_before, self._asked_at = asked, now
        earned = (now - self._filled_at) * self._share(now)
        self._purse = min(PURSE_S, self._purse + earned)
        self._filled_at = now

    def _share(self, now: float) -> float:
        return SHARE if now - self._asked_at < QUIET_S else QUIET_SHARE

    def _line_up(self, member: Any, *, new: bool) -> None:
        if self._purse < 0 and member not in self and not self._open:
            address = canonical_address(member.address)
            line = self._lines.get(address)
            if line is None:
                line = self._lines[address] = _Line(address)
            (line.new if new else line.again)[member] = None
            self._waiting[member] = line
            member.transport.pauseProducing()
            self._arm()

    def _arm(self) -> None:
        if self._next is None:
            wait = max(PACE_S, -self._purse / self._share(self._clock.seconds()))
            self._next = self._clock.callLater(wait, self._turn)

    def _open_doors(self) -> None:
        doors = list(self._doors)
        self._doors.clear()
        for port in doors:
            port.resumeProducing()

    def _turn(self) -> None:
        """Let in as many as there is something for, of one address after the other."""
        self._next = None
        self._fill()
        if self._purse >= 0:
            self._open_doors()
        busy = self._share(self._filled_at) == SHARE
        paid = max(1, int(self._purse / self._cost))
        for _ in range(min(len(self), AT_ONCE if busy else paid, paid)):
            address = next(iter(self._lines))
            line = self._lines.pop(address)
            member = line.next()
            del self._waiting[member]
            if line.new or line.again:
                self._lines[address] = line
            _read(member)
        if len(self) or self._doors:
            self._arm()
