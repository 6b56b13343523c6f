"""Values that an agent program sends: read by shape, cut to size. Nothing here raises for what they are."""

from __future__ import annotations

from typing import Any

import msgspec

VALUE_BYTES = 65_536
"""Arguments and results of a tool beyond this size (as JSON) are cut."""
PREVIEW_CHARS = 16_384
DIFF_INPUT_CHARS = 262_144
"""Longer files are not compared line by line."""
DIFF_LINES = 400
DEPTH_MAX = 64
"""A value nested deeper than this is cut: what is passed on has to be encoded again, under any stack."""


def mapping(value: Any) -> dict[str, Any]:
    """Return a JSON object, an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def items(value: Any) -> list[Any]:
    """Return a JSON array, an empty one for anything else."""
    return value if isinstance(value, list) else []


def text_of(value: Any) -> str | None:
    """Return a text that is not empty, None for anything else."""
    return value if isinstance(value, str) and value else None


def count_of(value: Any) -> int | None:
    """Return a number that counts something, None for anything else."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53:
        return value
    return None


def bounded(value: Any, limit: int = VALUE_BYTES) -> Any:
    """Return a JSON value, or where it is larger than ``limit`` bytes what is left of it and its size.

    So is one that is nested too deep; if it can not even be measured, its size is not told.
    """
    try:
        encoded = msgspec.json.encode(value)
    except RecursionError:
        return {"truncated": True, "kept": 0, "preview": ""}
    if len(encoded) <= limit and not _deep(value, encoded):
        return value
    chars = min(PREVIEW_CHARS, limit // 4)
    preview = encoded[: 4 * chars].decode("utf-8", "ignore")[:chars]
    kept = len(preview.encode())
    return {"truncated": True, "bytes": len(encoded), "kept": kept, "preview": preview}


def _deep(value: Any, encoded: bytes) -> bool:
    if encoded.count(b"[") + encoded.count(b"{") <= DEPTH_MAX:
        return False
    level = [value]
    for _ in range(DEPTH_MAX):
        inner = (each.values() if isinstance(each, dict) else each for each in level)
        level = [child for each in inner for child in each if isinstance(child, dict | list)]
        if not level:
            return False
    return True


def diff_text(path: str, old: str | None, new: str, limit: int = DIFF_INPUT_CHARS) -> str:
    """Return what changed in a file as a unified diff of one hunk, its middle cut out where it is long.

    Files of more than ``limit`` characters together are not compared.
    """
    head = f"changed {path}" if old is not None else f"made {path}"
    if len(old or "") + len(new) > limit:
        return f"{head}\n[{len(old or '')} characters before, {len(new)} after: not compared]"
    before, after = (old or "").splitlines(), new.splitlines()
    start = 0
    while start < min(len(before), len(after)) and before[start] == after[start]:
        start += 1
    end = 0
    while end < min(len(before), len(after)) - start and before[-1 - end] == after[-1 - end]:
        end += 1
    gone, come = before[start : len(before) - end], after[start : len(after) - end]
    place = f"@@ -{start + 1},{len(gone)} +{start + 1},{len(come)} @@"
    lines = [f"-{line}" for line in gone] + [f"+{line}" for line in come]
    if len(lines) > DIFF_LINES:
        left_out = len(lines) - DIFF_LINES
        half = DIFF_LINES // 2
        lines = [*lines[:half], f"[{left_out} lines left out]", *lines[-half:]]
    return "\n".join([head, place, *lines])


def tail_text(text: str, limit: int = PREVIEW_CHARS) -> str:
    """Return the end of a text, and how much was cut."""
    if len(text) <= limit:
        return text
    return f"[{len(text) - limit} characters left out]\n{text[-limit:]}"
