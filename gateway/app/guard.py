"""The guard at the door: counts wrong credentials, and tells of who shows too many."""

from __future__ import annotations

import re
from collections import deque

from twisted.logger import Logger

from gateway.core.access import Peer
from gateway.core.attempts import LOOPBACK, MAX_DELAY_S, Attempts, Credential, Source, sources_of
from gateway.interfaces import IClock
from gateway.limits import LimitsConfig
from gateway.metrics import Metrics

_UNPRINTABLE = re.compile(r"[^ -~]")


class Guard:
    """Says which credentials are looked at, and when a wrong one is answered."""

    _log = Logger()

    def __init__(self, *, clock: IClock, limits: LimitsConfig, metrics: Metrics) -> None:
        self._clock = clock
        self._metrics = metrics
        self._late: deque[float] = deque(maxlen=limits.auth_delayed_max)
        """Until when the last wrong credentials from loopback are answered late, whether or not who
        showed them still waits: who left at once could guess again at once."""
        self.attempts = Attempts(
            failures_max=limits.auth_failures_max,
            window_s=limits.auth_failure_window_s,
            lock_s=limits.auth_lock_s,
            maximum=limits.auth_sources_max,
        )

    def wait_s(self, peer: Peer, kinds: tuple[Credential, ...], *, paced: bool = False) -> float:
        """Return for how long credentials from there are not looked at; 0 if they are.

        ``paced`` is for who can hold no answer back.
        """
        if not kinds:
            return 0.0
        wait_s = self.attempts.wait_s(sources_of(peer), kinds, self._clock.seconds(), paced=paced)
        return max(wait_s, self.pause_s(peer, kinds)) if paced else wait_s

    def pause_s(self, peer: Peer, kinds: tuple[Credential, ...]) -> float:
        """Return how long credentials from there wait before they are looked at; 0 if they don't.

        An answer that is late does not slow down who asks many times at once. So while the answers to
        many wrong ones are late, everybody on loopback has to wait first: a guess costs its time, and
        the right credential is let in after it. A device token is too long to be guessed, and does not wait.
        """
        guessable = any(kind is not Credential.DEVICE for kind in kinds)
        late = self._late
        crowded = len(late) == late.maxlen and late[0] > self._clock.seconds()
        return MAX_DELAY_S if guessable and crowded and LOOPBACK in sources_of(peer) else 0.0

    def failed(self, peer: Peer, kinds: tuple[Credential, ...]) -> float:
        """Count a wrong credential; return for how long its answer is held back, in seconds."""
        for kind in kinds:
            self._metrics.auth_failed(kind.value)
        failed = self.attempts.failed(sources_of(peer), kinds, self._clock.seconds())
        for source in failed.alerts:
            self._tell(source)
        if failed.delay_s:
            self._late.append(self._clock.seconds() + failed.delay_s)
        return failed.delay_s

    def succeeded(self, peer: Peer, kinds: tuple[Credential, ...]) -> None:
        """A right credential was shown: its kind's failures from there are forgotten."""
        self.attempts.succeeded(sources_of(peer), kinds)

    def _tell(self, source: Source) -> None:
        attempts = self.attempts
        name = _UNPRINTABLE.sub("?", source.name)
        facts = {"source": name, "count": attempts.failures_max, "window": attempts.window_s}
        if source == LOOPBACK:
            self._metrics.auth_locked("loopback")
            self._log.error(
                "security: {count} wrong credentials within {window:g} s from programs on this host; "
                "they are answered late",
                **facts,
            )
            return
        self._metrics.auth_locked("origin" if name.startswith("origin ") else "address")
        self._log.error(
            "security: {count} wrong credentials within {window:g} s from {source}; "
            "locked out for {lock:g} s",
            lock=attempts.lock_s,
            **facts,
        )
