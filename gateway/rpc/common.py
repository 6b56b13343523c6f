"""What several families of methods share: session keys and attachments as clients give them."""

from __future__ import annotations

import binascii
import unicodedata
from base64 import b64decode
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from msgspec import UNSET, UnsetType

from gateway.app.agents import Agent
from gateway.app.context import Context
from gateway.core.frames import encode
from gateway.core.sessionkey import agent_of, is_malformed, parse
from gateway.errors import InvalidRequest
from gateway.model import Attachment

MAX_ATTACHMENTS = 32


def session_key(context: Context, key: str, agent_id: str | UnsetType = UNSET) -> str:
    """Return the canonical key; ``agent_id`` names the agent of a key that has none.

    Raises InvalidRequest for a malformed key.
    """
    if is_malformed(key):
        raise InvalidRequest(f'malformed session key "{key[:128]}"')
    if (
        agent_id is not UNSET
        and parse(key) is None
        and key.strip().lower() not in ("global", "unknown")
    ):
        key = f"agent:{agent_id}:{key.strip()}"
    canonical = context.services.agents.keys.canonical(key)
    if not canonical:
        raise InvalidRequest("session key must not be blank")
    return canonical


def agent_for(context: Context, key: str) -> Agent:
    """Return the agent that owns a canonical key. Raises InvalidRequest if it is not configured."""
    agents = context.services.agents
    return agents.require(agent_of(key, agents.keys))


def clean_text(message: str) -> str:
    """Return a message as it is kept: NFC, without control characters. Raises InvalidRequest."""
    if "\x00" in message:
        raise InvalidRequest("message must not contain null bytes")
    if message.isascii() and message.isprintable():
        return message
    text = unicodedata.normalize("NFC", message)
    return "".join(c for c in text if c in "\t\n\r" or unicodedata.category(c) != "Cc")


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
        mime = mime or head[5:].partition(";")[0]
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
