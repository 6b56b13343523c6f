"""The params of ``chat.send``, ``chat.abort``, ``agent`` and ``agent.wait``, of both versions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from gateway.core.params import SINCE_4, UNTIL_3, Natural, NonEmpty, Params, given, v3_max_length

MAX_SESSION_KEY_V4 = 512

Ignored = Annotated[Any | UnsetType, SINCE_4]
"""A field of version 4 that is accepted and has no effect here."""


class Provenance(Params, frozen=True):
    """Where an input came from."""

    kind: Literal["external_user", "inter_session", "internal_system"]
    source_channel: str | UnsetType = UNSET
    source_session_key: str | UnsetType = UNSET
    source_tool: str | UnsetType = UNSET
    job_id: Annotated[str | UnsetType, SINCE_4] = UNSET
    origin_session_id: Annotated[str | UnsetType, SINCE_4] = UNSET
    run_id: Annotated[str | UnsetType, SINCE_4] = UNSET
    source_prompt_prefix: Annotated[str | UnsetType, SINCE_4] = UNSET
    source_role: Annotated[Literal["subagent"] | UnsetType, SINCE_4] = UNSET


class ChatSendParams(Params, frozen=True):
    """A message to a session."""

    session_key: NonEmpty
    message: str
    idempotency_key: NonEmpty
    thinking: str | UnsetType = UNSET
    deliver: bool | UnsetType = UNSET
    attachments: list[Any] | UnsetType = UNSET
    timeout_ms: Natural | UnsetType = UNSET
    agent_id: Annotated[NonEmpty | UnsetType, SINCE_4] = UNSET
    session_id: Annotated[NonEmpty | UnsetType, SINCE_4] = UNSET
    queue_mode: Annotated[
        Literal["steer", "followup", "collect", "interrupt"] | UnsetType, SINCE_4
    ] = UNSET
    suppress_command_interpretation: Annotated[bool | UnsetType, SINCE_4] = UNSET
    expected_leaf_entry_id: Annotated[NonEmpty | UnsetType | None, SINCE_4] = UNSET
    expected_permission_mode: Ignored = UNSET
    expected_session_routing_contract: Annotated[NonEmpty | UnsetType, SINCE_4] = UNSET
    expected_tool_overrides: Ignored = UNSET
    fast_auto_on_seconds: Ignored = UNSET
    fast_mode: Ignored = UNSET
    intent: Ignored = UNSET
    mentions: Annotated[list[Any] | UnsetType, SINCE_4] = UNSET
    originating_account_id: Annotated[str | UnsetType, SINCE_4] = UNSET
    originating_channel: Annotated[str | UnsetType, SINCE_4] = UNSET
    originating_thread_id: Annotated[str | UnsetType, SINCE_4] = UNSET
    originating_to: Annotated[str | UnsetType, SINCE_4] = UNSET
    reply_to_id: Annotated[NonEmpty | UnsetType, SINCE_4] = UNSET
    system_input_provenance: Annotated[Provenance | UnsetType, SINCE_4] = UNSET
    system_provenance_receipt: Annotated[str | UnsetType, SINCE_4] = UNSET
    tool_bindings: Annotated[dict[str, Any] | UnsetType, SINCE_4] = UNSET
    work_context: Annotated[dict[str, Any] | UnsetType, SINCE_4] = UNSET

    def violation(self, protocol: int) -> str | None:
        """Return what only version 4 refuses."""
        if protocol < 4:
            return None
        if len(self.session_key) > MAX_SESSION_KEY_V4:
            return f"at /sessionKey: must not have more than {MAX_SESSION_KEY_V4} characters"
        for index, item in enumerate(given(self.attachments, [])):
            if not isinstance(item, dict):
                return f"at /attachments/{index}: must be object"
        return None


class ChatAbortParams(Params, frozen=True):
    """Which run, or which session's runs, to end."""

    session_key: NonEmpty
    run_id: NonEmpty | UnsetType = UNSET
    agent_id: Annotated[NonEmpty | UnsetType, SINCE_4] = UNSET
    preserve_side_runs: Annotated[bool | UnsetType, SINCE_4] = UNSET


class AgentParams(Params, frozen=True):
    """One turn of an agent; the delivery fields are kept for channels."""

    message: NonEmpty
    idempotency_key: NonEmpty
    agent_id: NonEmpty | UnsetType = UNSET
    session_key: str | UnsetType = UNSET
    session_id: str | UnsetType = UNSET
    to: str | UnsetType = UNSET
    reply_to: str | UnsetType = UNSET
    channel: str | UnsetType = UNSET
    reply_channel: str | UnsetType = UNSET
    account_id: str | UnsetType = UNSET
    reply_account_id: str | UnsetType = UNSET
    thread_id: str | UnsetType = UNSET
    group_id: str | UnsetType = UNSET
    group_channel: str | UnsetType = UNSET
    group_space: str | UnsetType = UNSET
    thinking: str | UnsetType = UNSET
    deliver: bool | UnsetType = UNSET
    best_effort_deliver: bool | UnsetType = UNSET
    attachments: list[Any] | UnsetType = UNSET
    timeout: Natural | UnsetType = UNSET
    lane: str | UnsetType = UNSET
    extra_system_prompt: str | UnsetType = UNSET
    input_provenance: Provenance | UnsetType = UNSET
    label: (
        Annotated[str, msgspec.Meta(min_length=1, max_length=512), v3_max_length(64)] | UnsetType
    ) = UNSET
    spawned_by: Annotated[str | UnsetType, UNTIL_3] = UNSET
    acp_turn_source: Ignored = UNSET
    bootstrap_context_mode: Ignored = UNSET
    bootstrap_context_run_kind: Ignored = UNSET
    cleanup_bundle_mcp_on_run_end: Ignored = UNSET
    cwd: Annotated[NonEmpty | UnsetType, SINCE_4] = UNSET
    disable_message_tool: Ignored = UNSET
    exec_approval_followup_expected_session_id: Ignored = UNSET
    expected_existing_session_id: Annotated[NonEmpty | UnsetType, SINCE_4] = UNSET
    force_code_mode_tools: Ignored = UNSET
    force_restart_safe_tools: Ignored = UNSET
    internal_events: Ignored = UNSET
    internal_execution_identity_recovery_attempt: Ignored = UNSET
    internal_execution_identity_retry: Ignored = UNSET
    internal_runtime_handoff_id: Ignored = UNSET
    model: Annotated[str | UnsetType, SINCE_4] = UNSET
    model_run: Ignored = UNSET
    prompt_mode: Ignored = UNSET
    provider: Annotated[str | UnsetType, SINCE_4] = UNSET
    session_effects: Ignored = UNSET
    source_reply_delivery_mode: Ignored = UNSET
    suppress_prompt_persistence: Annotated[bool | UnsetType, SINCE_4] = UNSET
    swarm_collector: Ignored = UNSET
    swarm_output_schema: Ignored = UNSET
    voice_wake_trigger: Annotated[str | UnsetType, SINCE_4] = UNSET


class SessionsSendParams(Params, frozen=True):
    """A message to a session that exists; without a key of its own the run gets one."""

    key: NonEmpty
    message: str
    agent_id: NonEmpty | UnsetType = UNSET
    attachments: list[Any] | UnsetType = UNSET
    idempotency_key: NonEmpty | UnsetType = UNSET
    mentions: list[Any] | UnsetType = UNSET
    thinking: str | UnsetType = UNSET
    timeout_ms: Natural | UnsetType = UNSET


class SessionsAbortParams(Params, frozen=True):
    """Which run to end: one by its id, or the one that goes in a session."""

    key: NonEmpty | UnsetType = UNSET
    run_id: NonEmpty | UnsetType = UNSET
    agent_id: NonEmpty | UnsetType = UNSET
    clear_queued: bool | UnsetType = UNSET


class AgentWaitParams(Params, frozen=True):
    """Which run to wait for, and how long (default 30 s)."""

    run_id: NonEmpty
    timeout_ms: Natural | UnsetType = UNSET
