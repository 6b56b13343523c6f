"""Where nodes can be woken: what ``push.apns.register`` tells is kept, and shown to nobody.

There is no push service here, so nothing is sent to such an address yet. What a node tells is bounded,
and never logged: who has the token can send to the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from msgspec.structs import replace

from gateway.app.context import Caller
from gateway.app.nodeevents import ignored
from gateway.app.pairednodes import PairedNodes
from gateway.model import NodeRecord

EVENT: Final = "push.apns.register"
MAX_TOKEN_CHARS: Final = 512
MAX_TOPIC_CHARS: Final = 256
_ENVIRONMENTS: Final = ("sandbox", "production")


class PushAddresses:
    """The node event ``push.apns.register``: ``{token, topic, environment?}``."""

    def __init__(self, paired: PairedNodes) -> None:
        self._paired = paired

    async def register(
        self, caller: Caller, payload: Mapping[str, Any]
    ) -> Mapping[str, Any] | None:
        """Keep where a paired node can be woken."""
        token, topic = (_text(payload.get(name)) for name in ("token", "topic"))
        environment = payload.get("environment", "production")
        valid = 0 < len(token) <= MAX_TOKEN_CHARS and 0 < len(topic) <= MAX_TOPIC_CHARS
        if not valid or environment not in _ENVIRONMENTS:
            return ignored("invalid_payload")
        node = caller.principal.device_id
        if node is None:
            return ignored("not_paired")
        push = {"transport": "apns", "token": token, "topic": topic, "environment": environment}

        def change(record: NodeRecord) -> NodeRecord:
            return record if record.push == push else replace(record, push=push)

        return None if await self._paired.update(node, change) else ignored("not_paired")


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""
