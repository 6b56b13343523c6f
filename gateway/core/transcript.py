"""How a transcript looks on the wire: bounded, without what does not belong to a client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.core.frames import encode
from gateway.model import Attachment, Message

MAX_CHARS_V3: Final = 12_000
MAX_CHARS_V4: Final = 8_000
MAX_MESSAGE_BYTES: Final = 128 * 1024
MAX_TOTAL_BYTES: Final = 6 * 1024 * 1024
PREVIEW_CHARS: Final = 120

SUMMARY_KIND: Final = "compaction"
"""The ``kind`` in the meta of a summary."""

OMITTED: Final = "[chat.history omitted: message too large]"
CUT: Final = "\n…(cut)…"
"""Stands at the end of a text that was longer than the limit."""


def user_content(text: str, attachments: Sequence[Attachment] = ()) -> list[dict[str, Any]]:
    """Return the content blocks of a user's message; of an attachment only what it was."""
    blocks: list[dict[str, Any]] = [{"type": "text", "text": text}] if text else []
    for item in attachments:
        block = {"type": item.kind, "mimeType": item.mime_type, "omitted": True}
        block["bytes"] = len(item.data)
        if item.file_name is not None:
            block["fileName"] = item.file_name
        blocks.append(block)
    return blocks


def text_of(content: Any) -> str:
    """Return the text of content: a string, or the text blocks joined."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = [b.get("text") for b in content if isinstance(b, dict) and b.get("type") == "text"]
    return "\n".join(text for text in texts if isinstance(text, str))


def preview(text: str, limit: int = PREVIEW_CHARS) -> str:
    """Return text on one line, at most ``limit`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def is_summary(message: Message) -> bool:
    """Whether a message says what was said before it, for an agent that is told no more of that."""
    return message.role == "system" and message.meta.get("kind") == SUMMARY_KIND


def _summary_meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    names = ("keptMessages", "tokensBefore", "tokensAfter")
    return {name: meta[name] for name in names if name in meta}


def wire_message(message: Message, protocol: int) -> dict[str, Any]:
    """Return one message as both versions show it; version 4 adds its id and place.

    A summary is marked for both: clients draw a line where a conversation was shortened.
    """
    summary = is_summary(message)
    shown: dict[str, Any] = {
        **(_summary_meta(message.meta) if summary else message.meta),
        "role": message.role,
        "content": message.content,
        "timestamp": message.timestamp_ms,
    }
    if message.stop_reason is not None:
        shown["stopReason"] = message.stop_reason
    if protocol >= 4:
        place: dict[str, Any] = {"id": message.message_id, "seq": message.seq}
        if message.run_id is not None:
            place["runId"] = message.run_id
            if message.role == "user":
                place["idempotencyKey"] = f"{message.run_id}:user"
        shown["__openclaw"] = place
    if summary:
        place = shown.setdefault("__openclaw", {"id": message.message_id})
        place["kind"] = SUMMARY_KIND
    return shown


def wire_messages(
    messages: Sequence[Message],
    protocol: int,
    *,
    max_chars: int | None = None,
    max_bytes: int = MAX_TOTAL_BYTES,
) -> list[dict[str, Any]]:
    """Return messages within the limits: long texts cut, huge messages replaced, the oldest dropped."""
    chars = max_chars or (MAX_CHARS_V4 if protocol >= 4 else MAX_CHARS_V3)
    shown: list[dict[str, Any]] = []
    total = 0
    for message in reversed(messages):
        wire = wire_message(message, protocol)
        wire["content"] = _cut(wire["content"], chars)
        size = len(encode(wire))
        if size > MAX_MESSAGE_BYTES and max_chars is None:
            wire["content"] = [{"type": "text", "text": OMITTED}]
            size = len(encode(wire))
        total += size
        if total > max_bytes and shown:
            break
        shown.append(wire)
    shown.reverse()
    return shown


def _cut(content: Any, chars: int) -> Any:
    if isinstance(content, str):
        return _cut_text(content, chars)
    if not isinstance(content, list):
        return content
    return [
        {**block, "text": _cut_text(block["text"], chars)}
        if isinstance(block, dict) and isinstance(block.get("text"), str)
        else block
        for block in content
    ]


def _cut_text(text: str, chars: int) -> str:
    return text if len(text) <= chars else text[:chars] + CUT
