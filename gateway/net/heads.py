"""The head of an upgrade request, made such that nobody reads another header in it than a proxy did.

Autobahn ends a line at every byte that ``str.splitlines`` ends one at, and takes blanks from the name of
a header. What to the proxy before us is part of a value would then be a header of its own, and a client
could say where it comes from, or who it is. RFC 9112 (2.2, 5.1, 5.2) lets us refuse all of it.
"""

from __future__ import annotations

import re
from typing import Final

BLANK_LINE: Final = b"\r\n\r\n"
"""What ends a head."""

_HEAD: Final = re.compile(
    rb"[^\x00-\x1f\x7f]+"
    rb"(?:\r\n[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\x00-\x08\x0a-\x1f\x7f]*)*"
    rb"\r\n\r\n"
)
_NEXT_LINE: Final = b"\x85"
"""Ends a line of Latin-1, and is a part of letters in UTF-8: that is no reason to refuse anybody."""


def unambiguous(data: bytes, end: int) -> bytes:
    """Return data whose head, up to the blank line at ``end``, can be read in one way only.

    Raises ValueError where it can not be made so.
    """
    head = data[: end + len(BLANK_LINE)]
    if _HEAD.fullmatch(head) is None:
        raise ValueError("the request head is malformed")
    return head.replace(_NEXT_LINE, b"?") + data[len(head) :] if _NEXT_LINE in head else data
