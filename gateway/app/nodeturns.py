"""Turns that begin at a node: which session they are of, and what is asked of the runs."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import msgspec

from gateway.app.agents import AgentDirectory
from gateway.app.context import Caller
from gateway.app.runs import Runs
from gateway.app.turn import Turn
from gateway.core.registry import Registry
from gateway.core.sessionkey import agent_of, is_malformed
from gateway.core.transcript import user_content
from gateway.errors import Unavailable
from gateway.interfaces import IClock, IEntropy
from gateway.limits import LimitsConfig
from gateway.model import InputProvenance, Message, RunRequest

MAX_CHARS = 20_000
MAX_KEY_CHARS = 1024
NEW_SESSIONS_TTL_S = 3600.0

SPOKEN_BY: Final = "voice"
ASKED_BY: Final = "node"
"""The origins of runs that begin at nodes."""


class NodeTurns:
    """Makes turns of what nodes send; its registry is to be swept.

    A node speaks for the person who paired it, in any session that there is. Sessions that there are not
    it may name a few of in an hour: a device that went bad must not fill the store with them, nor keep every
    agent busy at once. Nor may it keep a session from people: few of its turns may wait in one, and a quarter
    of the places there is for who is no node.
    """

    def __init__(
        self,
        *,
        clock: IClock,
        entropy: IEntropy,
        runs: Runs,
        agents: AgentDirectory,
        limits: LimitsConfig,
    ) -> None:
        self._clock = clock
        self._entropy = entropy
        self._sessions = runs.sessions
        self._agents = agents
        self._runs = runs
        self._most = limits.node_new_sessions
        self._waiting_of_one = limits.node_turns_waiting
        self._waiting_of_all = limits.lane_depth * 3 // 4
        self.named: Registry[set[str]] = Registry(
            "node-new-sessions", maximum=limits.node_facts_max, ttl_s=NEW_SESSIONS_TTL_S
        )
        """The sessions that were not there when a node named them, by node; for an hour from the first."""

    def own(self, node: str) -> str:
        """Return how a node's own session is spelled."""
        return f"node-{node}"

    def key(self, given: object, default: str | None = None) -> str | None:
        """Return the canonical key of a session that a node names, None where there can't be one.

        :param default: of which session it is if none is named; without it the main session.
        """
        keys = self._agents.keys
        if not isinstance(given, str) or not given.strip():
            if default is None:
                return keys.main_session()
            given = default
        if len(given) > MAX_KEY_CHARS:
            return None
        key = keys.canonical(given)
        known = not is_malformed(key) and self._agents.get(agent_of(key, keys)) is not None
        return key if known else None

    async def refused(self, node: str, key: str) -> str | None:
        """Return why a node's message is not taken in a session, None if it is."""
        session = await self._sessions.get(key)
        if session is None:
            return None if self._has_room(node, key) else "too_many_sessions"
        return "send_policy" if session.settings.get("sendPolicy") == "deny" else None

    async def may_name(self, node: str, key: str) -> bool:
        """Whether a node may tell something in a session: it is there, or not one too many that is not."""
        return await self._sessions.get(key) is not None or self._has_room(node, key)

    def _has_room(self, node: str, key: str) -> bool:
        """Enter a session that is not there as named by a node; return whether it may have that many."""
        keys = self._agents.keys
        if key in (keys.main_session(agent_of(key, keys)), keys.canonical(self.own(node))):
            return True
        now = self._clock.seconds()
        named = self.named.fresh(node, now)
        if named is None:
            named = set()
            self.named.put(node, named, now)
        if key not in named and len(named) >= self._most:
            return False
        named.add(key)
        return True

    def turn(
        self,
        caller: Caller,
        key: str,
        text: str,
        *,
        run_id: str,
        origin: str,
        fingerprint: str,
        provenance: InputProvenance,
        **fields: Any,
    ) -> Turn:
        """Return what is asked of the runs.

        :param provenance: kept with the message: a device's words are not those of an operator's client.
        :param fields: further fields of the request.
        """
        request = RunRequest(
            run_id=run_id,
            session_key=key,
            session_id="",
            agent_id=agent_of(key, self._agents.keys),
            text=text,
            provenance=provenance,
            **fields,
        )
        return Turn(
            request=request,
            message=Message(
                message_id=self._entropy.uuid4(),
                role="user",
                content=user_content(text, request.attachments),
                timestamp_ms=self._clock.now_ms(),
                run_id=run_id,
                meta={"provenance": msgspec.to_builtins(provenance)},
            ),
            fingerprint=fingerprint,
            origin=origin,
            actor=caller.principal.actor,
            conn_id=caller.conn_id,
            check_room=partial(self._check_room, caller.principal.actor, key),
        )

    def _check_room(self, actor: str, key: str) -> None:
        """Raise Unavailable where too many turns of this node, or of all nodes, wait in a session."""
        lane = self._runs.lanes.runs(key)
        if not lane:
            return  # it goes at once
        waiting = [run for run in map(self._runs.get, lane[1:]) if run is not None]
        of_nodes = [run.actor for run in waiting if run.origin in (SPOKEN_BY, ASKED_BY)]
        if of_nodes.count(actor) >= self._waiting_of_one:
            whose = "of this node"
        elif len(of_nodes) >= self._waiting_of_all:
            whose = "of nodes"
        else:
            return
        raise Unavailable(
            f"too many messages {whose} wait in this session",
            details={"reason": "session-busy", "waiting": len(waiting)},
            retryable=True,
            retry_after_ms=1000,
        )


def text_of(value: object) -> str | None:
    """Return the text of a message, trimmed; None if it is none, blank, or over 20,000 characters."""
    text = value.strip() if isinstance(value, str) else ""
    return text if 0 < len(text) <= MAX_CHARS else None
