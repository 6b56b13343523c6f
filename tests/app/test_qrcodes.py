"""gateway.app.qrcodes: setup codes as pictures."""

from __future__ import annotations

from base64 import b64decode
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs

from gateway.app import qrcodes
from gateway.app.threads import here
from gateway.core.setupcode import MAX_URL_CHARS, SetupCode, encode_setup_code
from gateway.testing import result_of

PREFIX = "data:image/png;base64,"
LONGEST = encode_setup_code(
    SetupCode("wss://".ljust(MAX_URL_CHARS, "x"), "s" * 43, 1_700_000_000_000, "voice-node")
)


def draw(text: str) -> str | None:
    """Draw a text, in no thread."""
    drawn: Deferred[str | None] = Deferred.fromCoroutine(qrcodes.drawn(text, here))
    return result_of(drawn)


@pytest.mark.parametrize(("text", "pixels"), [("x" * 200, 53), (LONGEST, 97)])
def test_a_picture(text: str, pixels: int) -> None:
    """The longest setup code there is fits into the length that clients take."""
    url = draw(text)
    assert url is not None
    assert url.startswith(PREFIX)
    assert len(url) <= qrcodes.MAX_DATA_URL_CHARS
    png = b64decode(url.removeprefix(PREFIX), validate=True)
    assert png.startswith(b"\x89PNG\r\n")
    quiet = 8  # modules
    width = (pixels + quiet) * qrcodes.PIXELS_PER_MODULE
    assert [int.from_bytes(png[at : at + 4], "big") for at in (16, 20)] == [width, width]


def test_no_picture(
    monkeypatch: pytest.MonkeyPatch, expected_failures: list[type[BaseException]]
) -> None:
    """What can not be drawn is logged, without the text; a picture that is too long is left out."""
    expected_failures.append(ValueError)
    secret = "s" * 5000
    with capturedLogs() as log:
        assert draw(secret) is None
    (event,) = log
    assert event["log_format"] == "a QR code was not drawn"
    assert secret not in str(event["log_failure"].value)
    monkeypatch.setattr(qrcodes, "MAX_DATA_URL_CHARS", 100)
    assert draw("short") is None


def test_it_is_drawn_in_a_thread() -> None:
    """The reactor does not wait for it."""
    asked: list[Any] = []

    def later(function: Any, /, *args: Any) -> Deferred[Any]:
        asked.append((function, args))
        return Deferred()

    drawing = Deferred.fromCoroutine(qrcodes.drawn("text", later))
    assert not drawing.called
    assert asked == [(qrcodes.png_url, ("text",))]
