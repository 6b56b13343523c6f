"""The agent that the model worker is: its sessions, its turns."""

from __future__ import annotations

import asyncio
import os
import sys
import uuid
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic_ai import Agent

from gateway import __version__
from gateway.agents.jsonrpc import INVALID_PARAMS, METHOD_NOT_FOUND, NOT_FOUND, RpcError
from gateway.agents.llmspec import WorkerSecrets, WorkerSpec
from gateway.agents.workers.acp_server import Client
from gateway.agents.workers.content import gateway_meta, past_turns, text_of, user_content
from gateway.agents.workers.conversation import Conversation
from gateway.agents.workers.instructions import workspace_instructions
from gateway.agents.workers.listing import listed
from gateway.agents.workers.models import Candidate, choose, thinking_settings
from gateway.agents.workers.recovery import Recovery
from gateway.agents.workers.store import ConversationStore, UnknownConversation
from gateway.agents.workers.tools import build_tools
from gateway.agents.workers.toolservers import ServerPool, session_servers
from gateway.agents.workers.turn import Turn, TurnOptions
from gateway.workspace import Workspace

MAX_SESSIONS = 256
"""More than the gateway remembers of one process, so that it never asks for a forgotten one."""
EXTENSIONS = ("history", "events", "steer", "forget", "compact", "models")
"""What of the gateway's own part of the protocol it takes."""


class LlmAgent:
    """A chain of models, many sessions. ``environ`` is what its commands see: no secrets in it."""

    def __init__(
        self,
        spec: WorkerSpec,
        candidates: Sequence[Candidate],
        secrets: WorkerSecrets = WorkerSecrets(),  # noqa: B008 (frozen)
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._spec = spec
        self._candidates = tuple(candidates)
        self._secrets = secrets
        self._recovery = Recovery(spec, secrets.all())
        self._workspace = Workspace(spec.workspace or Path.cwd())
        self._agent: Agent[Any, str] = Agent(
            candidates[0].model, deps_type=object, instructions=spec.system_prompt
        )
        self._tools = build_tools(spec, self._workspace, environ)
        self._servers = ServerPool(str(self._workspace.root))
        self._store: ConversationStore | None = None
        if spec.state_dir is not None:
            folder = Path(spec.state_dir, "agents", spec.agent_id, "sessions")
            self._store = ConversationStore(folder)
        self._sessions: OrderedDict[str, Conversation] = OrderedDict()
        self._turns: dict[str, Turn] = {}

    def initialize(self, params: dict[str, Any]) -> dict[str, Any]:
        """Tell what this agent can."""
        return {
            "protocolVersion": 1,
            "agentCapabilities": {
                "loadSession": self._store is not None,
                "promptCapabilities": {
                    "image": any(each.images for each in self._candidates),
                    "audio": False,
                    "embeddedContext": False,
                },
                "sessionCapabilities": {"close": {}}
                | ({} if self._store is None else {"resume": {}}),
                "mcpCapabilities": {"http": True, "sse": True},
                "_meta": {
                    "gateway": dict.fromkeys(EXTENSIONS, True),
                },
            },
            "agentInfo": {"name": "gateway-llm", "title": "Model worker", "version": __version__},
            "authMethods": [],
        }

    async def new_session(self, params: dict[str, Any]) -> dict[str, Any]:
        """Open a session, with the history that came along."""
        session_id = uuid.uuid4().hex
        summary, turns = past_turns(gateway_meta(params).get("history"))
        conversation = Conversation(session_id, summary, turns)
        conversation.servers = tuple(session_servers(params.get("mcpServers")))
        self._remember(conversation)
        return {"sessionId": session_id}

    async def load_session(self, params: dict[str, Any]) -> dict[str, Any]:
        """Go on with a session of an earlier process. Raises RpcError if it can not be read."""
        session_id = params.get("sessionId")
        if not isinstance(session_id, str):
            raise RpcError(INVALID_PARAMS, "sessionId is missing")
        conversation = await self._load(session_id)
        conversation.servers = tuple(session_servers(params.get("mcpServers")))
        self._remember(conversation)
        return {}

    async def close_session(self, params: dict[str, Any]) -> dict[str, Any]:
        """Let go of a session's memory; its file stays. Raises RpcError in the middle of a turn."""
        session_id = str(params.get("sessionId"))
        self._check_idle(session_id)
        self._sessions.pop(session_id, None)
        return {}

    async def prompt(
        self, session_id: str, params: dict[str, Any], client: Client
    ) -> dict[str, Any]:
        """Run a turn, streaming the answer."""
        conversation = self._sessions.get(session_id)
        if conversation is None:
            raise RpcError(NOT_FOUND, "no such session")
        self._sessions.move_to_end(session_id)
        meta = gateway_meta(params)
        candidates, notice = choose(self._candidates, text_of(meta, "model"))
        content = user_content(params.get("prompt"), images=candidates[0].images)
        options = TurnOptions(
            instructions=await self._instructions(text_of(meta, "extraSystemPrompt")),
            toolsets=[self._tools, *self._servers.get(self._all_servers(conversation))],
            settings=thinking_settings(text_of(meta, "thinking")),
            max_requests=self._spec.max_requests,
            secrets=self._secrets.all(),
            recovery=self._recovery,
            notice=notice,
        )
        turn = Turn(self._agent, conversation, candidates, client, options)
        self._turns[session_id] = turn
        try:
            return await turn.run(content)
        finally:
            del self._turns[session_id]
            await self._save(conversation)

    async def extension(self, method: str, params: dict[str, Any], client: Client) -> Any:
        """Answer what only the gateway asks."""
        session_id = str(params.get("sessionId"))
        if method == "_gateway/steer":
            turn = self._turns.get(session_id)
            if turn is None:
                return {"accepted": False}
            content = user_content(params.get("prompt"), images=turn.current.images)
            return {"accepted": turn.steer(content)}
        if method == "_gateway/forget":
            return await self._forget(session_id)
        if method == "_gateway/compact":
            return await self._compact(session_id, params, client)
        if method == "_gateway/models":
            return {"models": await listed(self._candidates)}
        raise RpcError(METHOD_NOT_FOUND, f"Method not found: {method[:100]}")

    async def _compact(
        self, session_id: str, params: dict[str, Any], client: Client
    ) -> dict[str, Any]:
        """Shorten a conversation because somebody asks; ``{}`` if there is nothing to shorten."""
        conversation = self._sessions.get(session_id)
        if conversation is None:
            raise RpcError(NOT_FOUND, "no such session")
        if session_id in self._turns:
            raise RpcError(INVALID_PARAMS, "a turn of this session is going on")

        async def notify(stream: str, data: dict[str, Any]) -> None:
            told = {"sessionId": session_id, "stream": stream, "data": data}
            await client.notify("_gateway/event", told)

        candidates, _ = choose(self._candidates, text_of(gateway_meta(params), "model"))
        done = await self._recovery.compact(
            conversation,
            candidates,
            notify=notify,
            instructions=text_of(params, "instructions"),
        )
        if done is None:
            return {}
        await self._save(conversation)
        return done.shape()

    async def close(self) -> None:
        """End what was started for its tools."""
        await self._servers.close()

    async def _forget(self, session_id: str) -> dict[str, Any]:
        """Remove a session, from the disk as well."""
        self._check_idle(session_id)
        self._sessions.pop(session_id, None)
        if self._store is not None:
            await asyncio.to_thread(self._store.remove, session_id)
        return {}

    def _check_idle(self, session_id: str) -> None:
        if session_id in self._turns:
            raise RpcError(INVALID_PARAMS, "a turn of this session is going on")

    async def _load(self, session_id: str) -> Conversation:
        """Return a session as it is on the disk: another process may have gone on with it."""
        known = self._sessions.get(session_id)
        if known is not None and (self._store is None or session_id in self._turns):
            return known
        if self._store is None:
            raise RpcError(NOT_FOUND, "this agent keeps no sessions")
        try:
            found = await asyncio.to_thread(self._store.load, session_id)
        except UnknownConversation as error:
            if known is not None:
                return known
            raise RpcError(NOT_FOUND, f"the session can not be loaded: {error}") from None
        if known is not None:
            found.allowed = known.allowed
        return found

    async def _instructions(self, extra: str | None) -> str | None:
        """Return what a turn's instructions are beside the system prompt."""
        files = None
        if self._spec.workspace_files:
            files = await asyncio.to_thread(workspace_instructions, self._workspace)
        return "\n\n".join(part for part in (files, extra) if part) or None

    def _all_servers(self, conversation: Conversation) -> list[Any]:
        return [*self._secrets.mcp_servers, *conversation.servers]

    async def _save(self, conversation: Conversation) -> None:
        """Write a conversation; a disk that is full costs the memory after a restart, not the turn."""
        if self._store is not None:
            try:
                await asyncio.to_thread(self._store.save, conversation)
            except OSError as error:
                print(f"a session can not be written: {error.strerror}", file=sys.stderr)

    def _remember(self, conversation: Conversation) -> None:
        self._sessions[conversation.session_id] = conversation
        if len(self._sessions) > MAX_SESSIONS:
            idle = next(each for each in self._sessions if each not in self._turns)
            del self._sessions[idle]
