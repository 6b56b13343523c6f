"""What several families of methods share: session keys and attachments as clients give them."""

from __future__ import annotations

import binascii
import re
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

MAX_KEY_CHARS = 1024
"""Session keys and run ids ride on every event, so nobody may make them long."""

MAX_OFFSET = 2**53
"""The largest whole number of JavaScript; databases hold it too."""

_SENTINELS = frozenset({"global", "unknown"})
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def session_key(context: Context, key: str, agent_id: str | UnsetType = UNSET) -> str:
    """Return the canonical key; ``agent_id`` names the agent of a key that has none.

    Raises InvalidRequest for a key that is malformed, blank or too long.
    """
    text = key.strip()
    if not text:
        raise InvalidRequest("session key must not be blank")
    if (
        not isinstance(agent_id, UnsetType)
        and not is_malformed(text)
        and parse(text) is None
        and text.lower() not in _SENTINELS
    ):
        text = f"agent:{agent_id.strip()}:{text}"
    if is_malformed(text) or len(text) > MAX_KEY_CHARS:
        raise InvalidRequest(f'malformed session key "{key[:128]}"')
    return context.services.agents.keys.canonical(text)


def check_run_id(run_id: str) -> str:
    """Return the id that a client chose for a run. Raises InvalidRequest if it is too long."""
    if len(run_id) > MAX_KEY_CHARS:
        raise InvalidRequest(f"the id of a run has at most {MAX_KEY_CHARS} characters")
    return run_id


def agent_for(context: Context, key: str) -> Agent:
    """Return the agent that owns a canonical key. Raises InvalidRequest if it is not configured."""
    agents = context.services.agents
    return agents.require(agent_of(key, agents.keys))


def named_agent(context: Context, agent_id: str | UnsetType = UNSET) -> Agent:
    """Return the agent with an id, or the default one. Raises InvalidRequest for an unknown id."""
    agents = context.services.agents
    if isinstance(agent_id, UnsetType):
        return agents.default
    agent = agents.get(agent_id.strip().lower())
    if agent is None:
        raise InvalidRequest(f'unknown agent id "{agent_id[:64]}"')
    return agent


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


def check_model(context: Context, model: str | None) -> None:
    """Raise InvalidRequest for a model of a provider that no agent has (version 4's rule)."""
    provider, slash, _ = (model or "").partition("/")
    providers = {known.provider for known in context.services.agents.models()}
    if slash and provider not in providers:
        raise InvalidRequest(f'Unknown provider "{provider[:64]}". Use /models to list providers.')
