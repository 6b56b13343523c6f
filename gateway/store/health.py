"""Whether the store works: what its transactions tell, and trying again while it does not.

A full, read-only or failing disk refuses one write after the other. From the first refusal on the
others are refused at once, with the reason; a write of our own is tried every few seconds, and once it
is stored the rest goes on. Damage is believed to be gone only when the whole file was checked; files that
were taken away do not come back.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.interfaces import IClock
from gateway.store.trouble import Kind, Trouble

PROBE_S = 2.0
CHECK_S = 60.0
"""Seconds between two attempts; a check of the whole file takes longer than a write."""


class Side(Enum):
    """Which connection says that something is wrong."""

    WRITER = "writer"
    READER = "reader"


Probe = Callable[[Side, Trouble], Deferred[None]]

_GRAVE = (Kind.DAMAGED, Kind.MOVED)
"""What no operation that succeeds can disprove: it may be about other rows, or other files."""


class Health:
    """Why the store does not work, if it doesn't. Used in the reactor's thread only.

    :ivar trouble: what is wrong, None while all works.
    """

    _log = Logger()

    def __init__(self, clock: IClock, probe: Probe) -> None:
        """Make it for a store that works.

        :param probe: tries whether a side works again; it succeeds after damage only if all is sound.
        """
        self.trouble: Trouble | None = None
        self._clock = clock
        self._probe = probe
        self._troubles: dict[Side, Trouble] = {}
        self._timer: IDelayedCall | None = None
        self._probing = False
        self._stopped = False

    @property
    def refusal(self) -> str | None:
        """Why writes are refused now; None if they are tried."""
        if not self._troubles:
            return None
        trouble = self._troubles.get(Side.WRITER)
        if trouble is None or not trouble.lasting:
            trouble = self._gravest()
        return None if trouble is None else trouble.advice

    def note(self, side: Side, trouble: Trouble | None) -> None:
        """A transaction of ``side`` went like this."""
        if trouble is None and not self._troubles:
            return
        if not self._grave(side):
            if trouble is None:
                self._troubles.pop(side, None)
            else:
                self._troubles[side] = trouble
        self._update()

    def stop(self) -> None:
        """Try no more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _grave(self, side: Side) -> bool:
        trouble = self._troubles.get(side)
        return trouble is not None and trouble.kind in _GRAVE

    def _gravest(self) -> Trouble | None:
        return next((self._troubles[side] for side in Side if self._grave(side)), None)

    def _update(self) -> None:
        trouble = self._gravest() or next(iter(self._troubles.values()), None)
        before, self.trouble = self.trouble, trouble
        if trouble is None:
            if before is not None:
                self._log.info("store works again")
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            return
        if before is None or before.kind is not trouble.kind:
            self._log.warn("store failing reason={reason}", reason=trouble.advice)
        self._arm(CHECK_S if trouble.kind in _GRAVE else PROBE_S)

    def _arm(self, seconds: float) -> None:
        if self._timer is None and not self._probing and not self._stopped:
            self._timer = self._clock.callLater(seconds, self._try)

    def _try(self) -> None:
        self._timer = None
        side = next((side for side in Side if self._grave(side)), None)
        side = side or next(iter(self._troubles))
        trouble = self._troubles[side]
        self._probing = True
        self._probe(side, trouble).addCallbacks(self._passed, self._not_passed, (trouble,))

    def _passed(self, result: None, trouble: Trouble) -> None:
        self._probing = False
        if trouble.kind in _GRAVE:
            self._troubles.clear()
        self._update()

    def _not_passed(self, failure: Failure) -> None:
        # What is wrong now was noted with the transaction.
        self._probing = False
        self._update()
