"""Tables, times and sizes as a terminal shows them."""

from __future__ import annotations

from collections.abc import Sequence

SHORT_ID = 8
GAP = "  "
NAME_CHARS = 40
_BLANKS = frozenset("\u115f\u1160\u2800\u3164\uffa0")
"""Characters that count as printable and show nothing."""


def one_line(text: object, longest: int = 0) -> str:
    """Return text on one line that steers no terminal; of a longer one the beginning, and ``…``."""
    shown = "".join(c if c.isprintable() and c not in _BLANKS else " " for c in str(text))
    shown = " ".join(shown.split())
    return f"{shown[: longest - 1]}…" if longest and len(shown) > longest else shown


def who(name: object, ident: str) -> str:
    """Return the name that somebody goes by, and the beginning of the id: ``Ann's phone [3f2a9b1c]``.

    Whoever chose the name feigns no id by it: the brackets are the id's alone.
    """
    short = one_line(ident[:SHORT_ID])
    shown = one_line(name or "", NAME_CHARS).replace("[", "(").replace("]", ")")
    return f"{shown} [{short}]" if shown else short


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return lines with aligned columns; a column that is empty in every row is left out."""
    kept = [at for at in range(len(head)) if any(row[at] for row in rows)]
    lines = [[each[at] or "-" for at in kept] for each in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        GAP.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def short_ids(ids: Sequence[str]) -> list[str]:
    """Return how the ids begin, all of one length: as many characters as tell them apart, at least 8."""
    longest = max(map(len, ids), default=0)
    for length in range(SHORT_ID, longest):
        if len({each[:length] for each in ids}) == len(set(ids)):
            return [each[:length] for each in ids]
    return list(ids)


def span(ms: float | None) -> str:
    """Return a length of time, such as ``250ms``, ``2.5s``, ``3m12s``, ``5h03m``, ``2d04h``."""
    if ms is None:
        return ""
    if ms < 1000:
        return f"{max(0, round(ms))}ms"
    if ms < 59_950:
        return f"{ms / 1000:.1f}s"
    seconds = round(ms / 1000)
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86_400
    if minutes < 60:
        return f"{minutes}m{seconds % 60:02}s"
    return f"{hours}h{minutes % 60:02}m" if hours < 24 else f"{days}d{hours % 24:02}h"


def size(count: int | None) -> str:
    """Return a number of bytes, such as ``0 B``, ``12.3 KiB``."""
    if count is None:
        return ""
    if count < 1024:
        return f"{count} B"
    return f"{count / 1024:.1f} KiB" if count < 1024**2 else f"{count / 1024**2:.1f} MiB"
