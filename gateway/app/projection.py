"""Shows runs to clients: a listener that turns their outputs into ``agent`` and ``chat`` events.

Tool events go to the connection that started the run, if it asked for them, and as ``session.tool``
to those who follow sessions; everything else goes to everybody who may see the session.
"""

from __future__ import annotations

from gateway.app.hub import Hub
from gateway.core.events import Event
from gateway.core.projection import agent_event, chat_event, tool_payload
from gateway.core.run import RunOutput


class Projector:
    """A listener of :class:`gateway.app.runs.Runs`."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def __call__(self, output: RunOutput) -> None:
        """Send the events of one output."""
        if not len(self._hub):
            return
        if output.stream == "tool":
            self._tool(output)
            return
        key = output.run.session_key
        self._hub.broadcast_session(agent_event(output), key)
        chat = chat_event(output)
        if chat is not None:
            self._hub.broadcast_session(chat, key)

    def _tool(self, output: RunOutput) -> None:
        run = output.run
        recipients = {run.conn_id} if run.tool_recipient and run.conn_id else set()
        if recipients:
            self._hub.send_to(agent_event(output), recipients, run.session_key)
        followers = self._hub.session_followers(run.session_key, watched=False) - recipients
        if followers:
            event = Event("session.tool", tool_payload(output), group=run.run_id)
            self._hub.send_to(event, followers, run.session_key)
