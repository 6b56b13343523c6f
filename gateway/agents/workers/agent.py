"""The agent that the model worker is: its sessions, its turns."""

from __future__ import annotations

import uuid
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from pydantic_ai import Agent

from gateway import __version__
from gateway.agents.jsonrpc import METHOD_NOT_FOUND, NOT_FOUND, RpcError
from gateway.agents.llmspec import WorkerSpec
from gateway.agents.workers.acp_server import Client
from gateway.agents.workers.content import gateway_meta, past_turns, text_of, user_content
from gateway.agents.workers.conversation import Conversation
from gateway.agents.workers.models import Candidate, choose
from gateway.agents.workers.turn import Turn

MAX_SESSIONS = 256
"""More than the gateway remembers of one process, so that it never asks for a forgotten one."""


class LlmAgent:
    """A chain of models, many sessions. ``secrets`` must never show in an error."""

    def __init__(
        self, spec: WorkerSpec, candidates: Sequence[Candidate], secrets: Sequence[str] = ()
    ) -> None:
        self._spec = spec
        self._candidates = tuple(candidates)
        self._secrets = tuple(secrets)
        self._agent = Agent(candidates[0].model, instructions=spec.system_prompt)
        self._sessions: OrderedDict[str, Conversation] = OrderedDict()
        self._turns: dict[str, Turn] = {}

    def initialize(self, params: dict[str, Any]) -> dict[str, Any]:
        """Tell what this agent can."""
        return {
            "protocolVersion": 1,
            "agentCapabilities": {
                "loadSession": False,
                "promptCapabilities": {
                    "image": any(each.images for each in self._candidates),
                    "audio": False,
                    "embeddedContext": False,
                },
                "_meta": {"gateway": {"history": True, "events": True}},
            },
            "agentInfo": {"name": "gateway-llm", "title": "Model worker", "version": __version__},
            "authMethods": [],
        }

    async def new_session(self, params: dict[str, Any]) -> dict[str, Any]:
        """Open a session, with the history that came along."""
        session_id = uuid.uuid4().hex
        summary, turns = past_turns(gateway_meta(params).get("history"))
        self._remember(Conversation(session_id, summary, turns))
        return {"sessionId": session_id}

    async def load_session(self, params: dict[str, Any]) -> dict[str, Any]:
        """Go on with a session of an earlier process."""
        raise RpcError(METHOD_NOT_FOUND, "Method not found: session/load")

    async def prompt(
        self, session_id: str, params: dict[str, Any], client: Client
    ) -> dict[str, Any]:
        """Run a turn, streaming the answer."""
        conversation = self._sessions.get(session_id)
        if conversation is None:
            raise RpcError(NOT_FOUND, "no such session")
        self._sessions.move_to_end(session_id)
        meta = gateway_meta(params)
        candidates = choose(self._candidates, text_of(meta, "model"))
        content = user_content(params.get("prompt"), images=candidates[0].images)
        turn = Turn(self._agent, conversation, candidates, client, self._secrets)
        self._turns[session_id] = turn
        try:
            return await turn.run(content, text_of(meta, "extraSystemPrompt"))
        finally:
            del self._turns[session_id]

    async def extension(self, method: str, params: dict[str, Any], client: Client) -> Any:
        """Answer what only the gateway asks."""
        raise RpcError(METHOD_NOT_FOUND, f"Method not found: {method[:100]}")

    def _remember(self, conversation: Conversation) -> None:
        self._sessions[conversation.session_id] = conversation
        if len(self._sessions) > MAX_SESSIONS:
            idle = next(each for each in self._sessions if each not in self._turns)
            del self._sessions[idle]
