"""The words that wake a device: how a list of them is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from gateway.core.frames import encode

DEFAULTS: Final = ("openclaw", "claude", "computer")
MAX_TRIGGERS: Final = 32
MAX_TRIGGER_UNITS: Final = 64
"""UTF-16 code units, as the clients count."""


class Stored(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The setting as it is stored."""

    triggers: tuple[str, ...]
    updated_at_ms: int


def normal(triggers: Sequence[str]) -> tuple[str, ...]:
    """Return triggers as they are kept: trimmed, none empty, bounded; the defaults where none is left."""
    kept = [text for each in triggers if (text := _cut(each.strip()))]
    return tuple(kept[:MAX_TRIGGERS]) or DEFAULTS


def _cut(text: str) -> str:
    units = text.encode("utf-16-le", "surrogatepass")[: MAX_TRIGGER_UNITS * 2]
    # Half of a pair at the end goes; what was never a character is none of a wake word either.
    return units.decode("utf-16-le", "ignore").strip()


def encoded(triggers: tuple[str, ...], now_ms: int) -> bytes:
    """Return the setting as it is stored."""
    return encode(Stored(triggers=triggers, updated_at_ms=now_ms))


def decoded(data: bytes | None) -> tuple[str, ...]:
    """Return the triggers of a stored setting; the defaults where there is none, or it can't be read."""
    try:
        return normal(msgspec.json.decode(data or b"", type=Stored).triggers)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return DEFAULTS
