"""What a backend calls a session's conversation: kept with the session, given back to its later runs.

It is stored with the backend's kind before it, so that no other backend gets it once the configuration
names another for the agent.
"""

from __future__ import annotations

import msgspec
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger

from gateway.interfaces import IStore
from gateway.model import Session

MAX_NAME_CHARS = 1_000
"""A longer name of a conversation is not kept."""

_log = Logger()


def agent_session_of(session: Session | None, kind: str) -> str | None:
    """Return what a backend of this kind last bound to a session; None if it did not."""
    bound = None if session is None else session.agent_session
    prefix = f"{kind}:"
    return bound[len(prefix) :] if bound is not None and bound.startswith(prefix) else None


def bind(
    store: IStore,
    key: str,
    session_id: str,
    *,
    kind: str,
    name: str | None,
    revision: str | None = None,
) -> Deferred[None]:
    """Keep what a backend calls the conversation of a session, while that has still this id.

    With a lifecycle ``revision`` only while it has that, too: a session that begins anew may keep its id.

    The Deferred never fails: what goes wrong is logged, and costs the agent its conversation at most.
    """
    if name is not None and len(name) > MAX_NAME_CHARS:
        _log.warn(
            "session {session}: the agent's name of the conversation is too long", session=key
        )
        name = None
    bound = None if name is None else f"{kind}:{name}"

    def change(current: Session | None) -> Session | None:
        if current is None or current.session_id != session_id or current.agent_session == bound:
            return None
        if revision not in (None, current.lifecycle_revision):
            return None
        return msgspec.structs.replace(current, agent_session=bound)

    writing: Deferred[Session | None] = maybeDeferred(store.update_session, key, change)
    return writing.addCallbacks(
        lambda _: None,
        lambda failure: _log.warn(
            "session {session}: the agent's conversation was not noted: {error}",
            session=key,
            error=failure.getErrorMessage(),
        ),
    )
