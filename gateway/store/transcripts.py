"""Messages: the transcript of a session id, numbered 1, 2, 3 ... without holes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import structs
from sqlalchemy import (
    Connection,
    Text,
    bindparam,
    delete,
    func,
    insert,
    literal_column,
    select,
    type_coerce,
)

from gateway.model import Json, Message
from gateway.store.tables import columns_of, messages, to_record, to_values

PREVIEW_CHARS = 120
_PREVIEW_SCAN_CHARS = 2000
"""How much of a text is looked at for its preview: a message can be megabytes long."""

_of_session = messages.c.session_id == bindparam("session_id")
_LAST_SEQ = select(func.max(messages.c.seq)).where(_of_session)
_COUNT = select(func.count()).select_from(messages).where(_of_session)
_INSERT = insert(messages)
_DELETE = delete(messages).where(_of_session)
_NEWEST = (
    select(*columns_of(messages, Message))
    .where(_of_session)
    .order_by(messages.c.seq.desc())
    .limit(bindparam("limit"))
    .offset(bindparam("offset"))
)
# Word for word the condition of the index. What is no summary is left out by its text, before it is decoded.
_SYSTEM = (
    select(*columns_of(messages, Message))
    .where(
        _of_session,
        messages.c.role == literal_column("'system'"),
        type_coerce(messages.c.meta, Text).contains('"compaction"', autoescape=True),
    )
    .order_by(messages.c.seq.desc())
)
_NEWEST_BEFORE = _NEWEST.where(messages.c.seq < bindparam("before_seq"))


def append(
    connection: Connection, session_id: str, added: Sequence[Message]
) -> tuple[Message, ...]:
    """Append messages; return them with the ``seq`` given to them."""
    if not added:
        return ()
    last = connection.execute(_LAST_SEQ, {"session_id": session_id}).scalar() or 0
    numbered = tuple(
        structs.replace(message, seq=seq) for seq, message in enumerate(added, start=last + 1)
    )
    rows = [{"session_id": session_id, **to_values(message)} for message in numbered]
    connection.execute(_INSERT, rows)
    return numbered


def newest(
    connection: Connection, session_id: str, limit: int, before_seq: int | None, offset: int
) -> tuple[Message, ...]:
    """Return the newest messages before ``before_seq``, less ``offset`` of them, oldest first."""
    values = {"session_id": session_id, "limit": max(limit, 0), "offset": max(offset, 0)}
    if before_seq is None:
        rows = connection.execute(_NEWEST, values).all()
    else:
        rows = connection.execute(_NEWEST_BEFORE, {**values, "before_seq": before_seq}).all()
    return tuple(to_record(Message, row) for row in reversed(rows))


def count(connection: Connection, session_id: str) -> int:
    """Return how many messages a transcript holds."""
    return connection.execute(_COUNT, {"session_id": session_id}).scalar_one()


def newest_summary(connection: Connection, session_id: str) -> Message | None:
    """Return the newest message that says what was said before it."""
    for row in connection.execute(_SYSTEM, {"session_id": session_id}):
        message = to_record(Message, row)
        if message.meta.get("kind") == "compaction":
            return message
    return None


def delete_all(connection: Connection, session_id: str) -> None:
    """Delete a transcript."""
    connection.execute(_DELETE, {"session_id": session_id})


def preview(content: Json) -> str:
    """Return the first 120 characters of the text blocks, with runs of white space as one space."""
    if not isinstance(content, list):
        return ""
    text = " ".join(_texts(content)).lstrip()[:_PREVIEW_SCAN_CHARS]
    return " ".join(text.split())[:PREVIEW_CHARS]


def _texts(blocks: Iterable[Json]) -> Iterable[str]:
    for block in blocks:
        if isinstance(block, dict) and block.get("type") == "text":
            text = block.get("text")
            if isinstance(text, str):
                yield text


def previews(added: Iterable[Message]) -> tuple[str | None, str | None]:
    """Return the previews of the first user message and of the last message; None without text."""
    first: str | None = None
    last: str | None = None
    for message in added:
        text = preview(message.content)
        if text:
            last = text
            if first is None and message.role == "user":
                first = text
    return first, last
