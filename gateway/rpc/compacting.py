"""``sessions.compact``: a conversation made shorter by hand."""

from __future__ import annotations

from typing import Any

from gateway.app.compacting import Compacting
from gateway.app.context import Context
from gateway.core.access import ADMIN
from gateway.core.params import given
from gateway.rpc.common import agent_for, session_key
from gateway.rpc.session_params import SessionsCompactParams
from gateway.rpc.table import MethodTable

methods = MethodTable()

DEFAULT_LINES_V3 = 400
"""What version 3 keeps unless it is told."""


@methods.method("sessions.compact", scope=ADMIN)
async def sessions_compact(context: Context, params: SessionsCompactParams) -> dict[str, Any]:
    """Shorten what an agent reads of a session: by a summary of its own, or to the last messages.

    With ``maxLines`` (version 3: by default 400) ``{ok, key, compacted, kept}``, without
    ``{ok, key, compacted, result}``; ``reason`` says why nothing was shortened. The
    transcript stays complete.
    """
    services, four = context.services, context.caller.protocol >= 4
    key = session_key(context, params.key, params.agent_id)
    agent = agent_for(context, key)
    compacting = Compacting(services.runs, services.sessions, services.entropy)
    lines = given(params.max_lines, None if four else DEFAULT_LINES_V3)
    if lines is None:
        done = await compacting.summarise(key, agent)
    else:
        done = await compacting.cut(key, agent, lines)
    return {"ok": "reason" not in done or not four, "key": key, **done}
