"""The request that is kept with a run, as the model encodes it."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.model import (
    REQUEST_MAX_BYTES,
    Attachment,
    RunRequest,
    decode_request,
    encode_request,
)

from .harness import KEY


def a_request(**fields: Any) -> RunRequest:
    """Return a request."""
    values = {
        "run_id": "r",
        "session_key": KEY,
        "session_id": "s",
        "agent_id": "main",
        "text": "hi",
    }
    return RunRequest(**{**values, **fields})


def an_attachment(size: int) -> Attachment:
    """Return an attachment of so many bytes."""
    return Attachment(mime_type="image/png", data=b"\xff" * size, file_name="ä.png", kind="image")


@pytest.mark.parametrize(
    "request_",
    [
        a_request(),
        a_request(text="", thinking="high", extra_system_prompt="Brief.", timeout_s=0.5),
        a_request(text='Grüße\n"\\\x00 🐈', attachments=(an_attachment(0), an_attachment(70_000))),
    ],
)
def test_comes_back_whole(request_: RunRequest) -> None:
    """Every field of a request, attachments included, survives being encoded."""
    encoded = encode_request(request_)

    assert encoded is not None
    assert decode_request(encoded) == request_


@pytest.mark.parametrize(
    "request_",
    [
        a_request(attachments=(an_attachment(REQUEST_MAX_BYTES // 4 * 3),)),
        a_request(attachments=(an_attachment(REQUEST_MAX_BYTES), an_attachment(1))),
        a_request(text="x" * REQUEST_MAX_BYTES),
    ],
)
def test_too_large_to_be_kept(request_: RunRequest) -> None:
    """What is larger than the cap once it is encoded is not kept."""
    assert encode_request(request_) is None


def test_largest_attachment_is_kept() -> None:
    """An attachment of the largest default size fits."""
    assert encode_request(a_request(attachments=(an_attachment(5_000_000),))) is not None


def test_text_without_json_form() -> None:
    """A text with half of a surrogate pair can not be kept."""
    assert encode_request(a_request(text="\ud83d")) is None
