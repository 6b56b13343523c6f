"""Sessions by key: read, list, compare-and-set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from msgspec import structs
from sqlalchemy import ColumnElement, Connection, bindparam, delete, func, insert, select, update

from gateway.errors import StoreError, VersionConflict
from gateway.model import Message, Session, SessionPage, SessionQuery
from gateway.store import transcripts
from gateway.store.changes import call_change
from gateway.store.tables import columns_of, sessions, to_record, to_values

SEARCH_MAX_CHARS = 1000
"""A longer search matches nothing; SQLite refuses patterns from 50,000 bytes on."""

_SELECT = select(*columns_of(sessions, Session))
_BY_KEY = _SELECT.where(sessions.c.key == bindparam("key"))
_BY_ID = _SELECT.where(sessions.c.session_id == bindparam("session_id"))
_INSERT = insert(sessions)
_UPDATE = update(sessions).where(
    sessions.c.key == bindparam("at_key"), sessions.c.version == bindparam("at_version")
)
_DELETE = delete(sessions).where(sessions.c.key == bindparam("key"))
_PAGE = _SELECT.order_by(sessions.c.updated_at_ms.desc(), sessions.c.key.desc())
_COUNT = select(func.count()).select_from(sessions)


def by_key(connection: Connection, key: str) -> Session | None:
    """Return the session under a key."""
    row = connection.execute(_BY_KEY, {"key": key}).first()
    return None if row is None else to_record(Session, row)


def by_id(connection: Connection, session_id: str) -> Session | None:
    """Return the session with an id."""
    row = connection.execute(_BY_ID, {"session_id": session_id}).first()
    return None if row is None else to_record(Session, row)


def update_by(
    connection: Connection,
    key: str,
    change: Callable[[Session | None], Session | None],
    *,
    drop_transcript: bool = False,
    append: Sequence[Message] = (),
) -> Session | None:
    """Store what ``change`` makes of a session; return what is stored afterwards."""
    current = by_key(connection, key)
    wanted = call_change(change, current)
    if wanted is None:
        return current
    if drop_transcript and current is not None:
        transcripts.delete_all(connection, current.session_id)
    stored = write(connection, key, current, wanted)
    transcripts.append(connection, stored.session_id, append)
    return stored


def write(connection: Connection, key: str, current: Session | None, wanted: Session) -> Session:
    """Store ``wanted`` in place of ``current`` with the next version; return it.

    Raises VersionConflict if another version is stored by now.
    """
    if wanted.key != key:
        raise StoreError("a session can not change its key")
    version = 1 if current is None else current.version + 1
    stored = structs.replace(wanted, version=version)
    values = {**to_values(stored), "search_text": _search_text(stored)}
    if current is None:
        connection.execute(_INSERT, values)
        return stored
    at = {"at_key": key, "at_version": current.version}
    if connection.execute(_UPDATE, {**values, **at}).rowcount != 1:
        raise VersionConflict("the session was changed by someone else")
    return stored


def with_previews(session: Session, added: Iterable[Message]) -> Session:
    """Return the session with the previews it has once these messages are in its transcript."""
    first, last = transcripts.previews(added)
    return structs.replace(
        session,
        first_message_preview=session.first_message_preview or first,
        last_message_preview=last or session.last_message_preview,
    )


def remove(
    connection: Connection,
    key: str,
    *,
    delete_transcript: bool,
    check: Callable[[Session], None] | None = None,
) -> bool:
    """Delete a session that passes ``check``, and the messages of its session id if asked to."""
    current = by_key(connection, key)
    if current is None:
        return False
    if check is not None:
        call_change(check, current)
    connection.execute(_DELETE, {"key": key})
    if delete_transcript:
        transcripts.delete_all(connection, current.session_id)
    return True


def find(connection: Connection, query: SessionQuery) -> SessionPage:
    """Return one page of sessions, last updated first, and how many there are in all."""
    if query.search is not None and len(query.search) > SEARCH_MAX_CHARS:
        return SessionPage(sessions=(), total=0)
    limit, offset = max(query.limit, 0), max(query.offset, 0)
    conditions = _conditions(query)
    rows = connection.execute(_PAGE.where(*conditions).limit(limit).offset(offset)).all()
    page = tuple(to_record(Session, row) for row in rows)
    # A page that is not full ends the list, which saves the count over all of it.
    if len(page) < limit and (page or offset == 0):
        total = offset + len(page)
    else:
        total = connection.execute(_COUNT.where(*conditions)).scalar_one()
    return SessionPage(sessions=page, total=total)


def _conditions(query: SessionQuery) -> list[ColumnElement[bool]]:
    table = sessions.c
    conditions: list[ColumnElement[bool]] = []
    if query.agent_id is not None:
        conditions.append(table.agent_id == query.agent_id)
    if query.label is not None:
        conditions.append(table.label == query.label)
    if query.parent_key is not None:
        conditions.append(table.parent_key == query.parent_key)
    if query.updated_since_ms is not None:
        conditions.append(table.updated_at_ms >= query.updated_since_ms)
    if query.search:
        conditions.append(table.search_text.contains(query.search.casefold(), autoescape=True))
    if not query.include_global:
        conditions.append(table.key != "global")
    if not query.include_unknown:
        conditions.append(table.key != "unknown")
    return conditions


def _search_text(session: Session) -> str:
    parts = (session.key, session.label or "", session.first_message_preview or "")
    return "\n".join(parts).casefold()
