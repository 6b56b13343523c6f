"""What a connection was subscribed to, so that the next one is too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

MAX_SESSIONS: Final = 200
"""Sessions that are watched again at once; a gateway takes no more in one request."""


class Subscriptions:
    """Remembers the subscriptions that the gateway granted, and those taken back."""

    def __init__(self) -> None:
        self._sessions: dict[str, None] = {}
        self._every: dict[str, Any] | None = None

    @property
    def sessions(self) -> list[str]:
        """The keys of the sessions that are watched."""
        return list(self._sessions)

    @property
    def every(self) -> dict[str, Any] | None:
        """The params of ``sessions.subscribe``, if that was called."""
        return self._every

    def granted(self, method: str, params: Any) -> None:
        """Take in that a request was answered; most are no subscription."""
        fields = params if isinstance(params, Mapping) else {}
        match method:
            case "sessions.subscribe":
                self._every = dict(fields)
            case "sessions.unsubscribe":
                self._every = None
            case "sessions.messages.subscribe":
                if len(self._sessions) < MAX_SESSIONS and isinstance(fields.get("key"), str):
                    self._sessions[fields["key"]] = None
            case "sessions.messages.unsubscribe":
                self._sessions.pop(str(fields.get("key")), None)
