"""Choices out of bytes: what an engine changes in them changes what is done, and in which way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

T = TypeVar("T")

WORDS = (
    "",
    " ",
    "main",
    "agent:main:main",
    "agent::x",
    "global",
    "\x00",
    "\ud800",
    "‮",
    "ü" * 200,
    "k" * 1025,
    "../../etc/passwd",
    "'; DROP TABLE runs; --",
    "%s%n{0}",
    "__proto__",
    "operator.admin",
    "node",
    "operator",
    "4",
    "-1",
    "true",
    "null",
    "[]",
    "{}",
    '{"a":1}',
    "/hang",
    "/error no",
    "/tokens 3",
    "/stop",
    "/reset",
    "http://169.254.169.254/",
    "system.run",
)
NUMBERS = (0, 1, -1, 2, 255, 65_536, 2**31, 2**53, 2**63, 2**64, 10**30, -(2**63), 10**400)


class Source:
    """Reads choices from bytes; when they are used up, every choice is the first one."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def empty(self) -> bool:
        """Whether nothing is left to choose by."""
        return self._at >= len(self._data)

    def byte(self) -> int:
        """Return a number from 0 to 255."""
        if self.empty:
            return 0
        self._at += 1
        return self._data[self._at - 1]

    def below(self, limit: int) -> int:
        """Return a number from 0 to ``limit - 1``."""
        value = self.byte()
        if limit > 256:
            value = value << 8 | self.byte()
        return value % limit

    def chance(self, of_256: int) -> bool:
        """Return whether something happens that does so in some of 256 cases; never when all is used up."""
        return not self.empty and self.byte() < of_256

    def pick(self, among: Sequence[T]) -> T:
        """Return one of some things."""
        return among[self.below(len(among))]

    def take(self, most: int) -> bytes:
        """Return some of the bytes as they are."""
        size = self.below(most + 1)
        piece = self._data[self._at : self._at + size]
        self._at += len(piece)
        return piece

    def text(self) -> str:
        """Return a text: mostly one that has hurt somebody before."""
        if self.chance(64):
            return self.take(24).decode("utf-8", "surrogateescape")
        return self.pick(WORDS)

    def number(self) -> int | float:
        """Return a number: mostly one at a limit."""
        if self.chance(32):
            return self.pick((0.5, -0.0, 1e308, 5e-324))
        return self.pick(NUMBERS) if self.chance(160) else self.below(1000)

    def value(self, depth: int = 3) -> Any:
        """Return any JSON value."""
        match self.below(7 if depth else 5):
            case 0:
                return self.text()
            case 1:
                return self.number()
            case 2:
                return None
            case 3:
                return bool(self.byte() & 1)
            case 4:
                return self.pick(({}, [], "", 0))
            case 5:
                return [self.value(depth - 1) for _ in range(self.below(4))]
            case _:
                return {self.text(): self.value(depth - 1) for _ in range(self.below(4))}
