"""What clients and devices send along with a message: its text, and files."""

from __future__ import annotations

import binascii
import re
import unicodedata
from base64 import b64decode
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from gateway.core.frames import encode
from gateway.errors import InvalidRequest
from gateway.model import Attachment

MAX_ATTACHMENTS = 32

_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def clean_text(message: str) -> str:
    """Return a message as it is kept: NFC, without control characters. Raises InvalidRequest."""
    if "\x00" in message:
        raise InvalidRequest("message must not contain null bytes")
    if message.isascii() and message.isprintable():
        return message
    return _CONTROLS.sub("", unicodedata.normalize("NFC", message))


def attachments(items: Sequence[Any], max_bytes: int) -> tuple[Attachment, ...]:
    """Decode attachments: ``{type?, mimeType?, fileName?, content: base64 or data URL}``.

    Raises InvalidRequest, which names the attachment.
    """
    if len(items) > MAX_ATTACHMENTS:
        raise InvalidRequest(f"at most {MAX_ATTACHMENTS} attachments")
    return tuple(_attachment(item, index, max_bytes) for index, item in enumerate(items, 1))


def _attachment(item: Any, index: int, max_bytes: int) -> Attachment:
    fields = item if isinstance(item, dict) else {}
    kind, mime, name = (_text(fields.get(k)) for k in ("type", "mimeType", "fileName"))
    label = name or kind or f"attachment-{index}"
    content = fields.get("content")
    if not isinstance(content, str):
        raise InvalidRequest(f"Error: attachment {label}: content must be base64 string")
    if content.startswith("data:"):
        head, _, content = content.partition(",")
        mime = mime or _text(head[5:].partition(";")[0])
    if len(content) > max_bytes * 4 // 3 + 4:
        raise InvalidRequest(f"Error: attachment {label}: exceeds size limit ({max_bytes} bytes)")
    try:
        data = b64decode(content, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"Error: attachment {label}: invalid base64 content") from error
    if len(data) > max_bytes:
        raise InvalidRequest(f"Error: attachment {label}: exceeds size limit ({max_bytes} bytes)")
    mime = mime or "application/octet-stream"
    image = mime.startswith("image/")
    return Attachment(
        mime_type=mime, data=data, file_name=name, kind="image" if image else kind or "file"
    )


def _text(value: object) -> str | None:
    return value[:256] if isinstance(value, str) and value else None


def fingerprint(*parts: Any) -> str:
    """Return the digest of a request's content, by which a reused idempotency key is told apart."""
    return sha256(encode(parts)).hexdigest()
