"""Passwords and their hashes: a comparison takes 50 ms and 64 MiB, so few are done at once."""

from __future__ import annotations

import hmac
from collections import deque
from hashlib import sha256
from typing import Any

from twisted.internet.defer import Deferred, succeed

from gateway.app.threads import InThread
from gateway.errors import Unavailable

AT_ONCE = 2
"""Comparisons at once."""
WAITING_MAX = 64
"""Comparisons that may wait for their turn."""


def hash_password(password: str) -> str:
    """Return the Argon2id hash of a password, in the form that ``auth.password`` takes."""
    from argon2 import PasswordHasher  # only where there is a hash

    return PasswordHasher().hash(password)


def verify_password(hashed: str, password: str) -> bool:
    """Whether a password is the one of a hash."""
    from argon2 import PasswordHasher
    from argon2.exceptions import InvalidHashError, VerificationError

    try:
        return PasswordHasher().verify(hashed, password.encode("utf-8", "surrogatepass"))
    except (InvalidHashError, VerificationError):
        return False


class Passwords:
    """Compares passwords with a hash in threads: two at once, 64 more wait, and no others.

    The last password that was right is known again at once, by a keyed digest in memory: a thousand
    clients that come back together do not wait for each other.
    """

    def __init__(self, in_thread: InThread, key: bytes) -> None:
        self._in_thread = in_thread
        self._key = key
        self._known: tuple[str, bytes] = ("", b"")
        self._running = 0
        self._waiting: deque[Deferred[None]] = deque()

    def __len__(self) -> int:
        return self._running + len(self._waiting)

    def recall(self, hashed: str, password: str) -> bool:
        """Whether this password was right for this hash before, as far as that is remembered."""
        known, digest = self._known
        return known == hashed and hmac.compare_digest(digest, self._digest(password))

    async def verify(self, hashed: str, password: str) -> bool:
        """Whether a password is the one of a hash. Raises Unavailable where too many wait."""
        if self.recall(hashed, password):
            return True
        await self._turn()
        outcome: Deferred[bool] = Deferred()  # who waits may leave; the thread goes on, and counts
        job = self._in_thread(verify_password, hashed, password)
        job.addBoth(self._done).addCallbacks(outcome.callback, outcome.errback)
        right = await outcome
        if right:
            self._known = hashed, self._digest(password)
        return right

    def _done(self, result: Any) -> Any:
        self._running -= 1
        if self._waiting:
            self._running += 1
            self._waiting.popleft().callback(None)
        return result

    def _turn(self) -> Deferred[None]:
        if self._running < AT_ONCE:
            self._running += 1
            return succeed(None)
        if len(self._waiting) >= WAITING_MAX:
            raise Unavailable(
                "too many passwords are being checked; try again",
                retryable=True,
                retry_after_ms=2000,
            )
        waiting: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(waiting)
        return waiting

    def _digest(self, password: str) -> bytes:
        return hmac.digest(self._key, password.encode("utf-8", "surrogatepass"), sha256)
