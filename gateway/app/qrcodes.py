"""Texts drawn as QR codes.

Drawing takes 15 ms for a short setup code and 50 ms for the longest, all of it in Python: so it is done in
a thread, which the reactor's thread takes turns with.
"""

from __future__ import annotations

from base64 import b64encode
from io import BytesIO
from typing import Final

from twisted.logger import Logger

from gateway.app.threads import InThread

MAX_DATA_URL_CHARS: Final = 16_384
"""The longest picture that clients take (protocol: SetupCodeQrDataUrl)."""
PIXELS_PER_MODULE: Final = 6
"""A setup code is about 360 pixels wide then."""

_log = Logger()


async def drawn(text: str, in_thread: InThread) -> str | None:
    """Return a QR code as a ``data:image/png;base64,…`` URL; None where there is no picture of it.

    A picture is an extra: what fails is logged, and the text can still be copied.
    """
    try:
        url: str = await in_thread(png_url, text)
    except Exception:
        _log.failure("a QR code was not drawn")
        return None
    return url if len(url) <= MAX_DATA_URL_CHARS else None


def png_url(text: str) -> str:
    """Draw a text. Raises ValueError for one that is too long for a QR code."""
    import segno  # only for who asks for pictures

    picture = BytesIO()
    code = segno.make(text, error="l", micro=False)
    code.save(picture, kind="png", scale=PIXELS_PER_MODULE)
    return f"data:image/png;base64,{b64encode(picture.getvalue()).decode()}"
