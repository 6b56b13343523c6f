"""``agent.request``: a node asks an agent something."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from gateway.app.context import Caller
from gateway.app.nodeevents import handled, ignored
from gateway.app.nodes import node_id
from gateway.app.nodeturns import ASKED_BY, NodeTurns, text_of
from gateway.app.runs import Runs
from gateway.core.incoming import attachments, clean_text, fingerprint
from gateway.core.voice import first_number, first_text
from gateway.interfaces import IEntropy
from gateway.limits import LimitsConfig
from gateway.model import InputProvenance

MAX_THINKING_CHARS = 64

BY_DEVICE = InputProvenance(
    kind="external_user", source_channel="node", source_role="device", source_tool="agent.request"
)
"""Any program of the device may have written it: its agent is told that it is not the operator's word."""


class AgentRequests:
    """Turns ``agent.request`` events into runs."""

    def __init__(
        self, *, entropy: IEntropy, runs: Runs, turns: NodeTurns, limits: LimitsConfig
    ) -> None:
        self._entropy = entropy
        self._runs = runs
        self._turns = turns
        self._limits = limits

    async def told(self, caller: Caller, payload: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Start a run; the same ``key`` of a node starts it once.

        A message is never a command here: a device has no scopes to reset a session with. There are no
        channels, so nothing is delivered to one, and that is said. Raises InvalidRequest for a bad
        attachment and for a key that was used for something else, and as
        :meth:`gateway.app.runs.Runs.start`.
        """
        message, node = text_of(payload.get("message")), node_id(caller)
        if message is None:
            return ignored("invalid_message")
        key = self._turns.key(payload.get("sessionKey"), self._turns.own(node))
        if key is None:
            return ignored("unknown_session")
        given = payload.get("attachments")
        files = attachments(given if isinstance(given, list) else [], self._limits.attachment_bytes)
        refused = await self._turns.refused(node, key)
        if refused is not None:
            return ignored(refused)
        text = clean_text(message)
        once = first_text(payload, "key")
        thinking = first_text(payload, "thinking")
        turn = self._turns.turn(
            caller,
            key,
            text,
            run_id=f"node-{self._entropy.uuid4()}" if once is None else _run_id(node, once),
            origin=ASKED_BY,
            fingerprint=fingerprint(key, text, [(f.mime_type, f.file_name, f.data) for f in files]),
            provenance=BY_DEVICE,
            attachments=files,
            thinking=None if thinking is None else thinking[:MAX_THINKING_CHARS],
            timeout_s=self._timeout(payload),
        )
        started = await self._runs.start(turn)
        if not started.fresh:
            return handled("duplicate")
        wanted = payload.get("deliver") is True or payload.get("receipt") is True
        return handled("no_channels") if wanted else None

    def _timeout(self, payload: Mapping[str, Any]) -> float | None:
        seconds = first_number(payload, "timeoutSeconds")
        if seconds is None or seconds <= 0:
            return None
        return float(min(seconds, self._limits.run_timeout_max_s))


def _run_id(node: str, key: str) -> str:
    """Return the id of the run that a node's key stands for: of another node it is another one."""
    digest = sha256(f"{node}\n{key}".encode("utf-8", "surrogatepass"))
    return f"node-{digest.hexdigest()[:32]}"
