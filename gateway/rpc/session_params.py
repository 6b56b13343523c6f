"""The params of ``sessions.*``, of both versions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from gateway.core.params import SINCE_4, Natural, NonEmpty, Params, Positive, v3_max_length
from gateway.core.sessionpatch import PatchFields

Label = Annotated[str, msgspec.Meta(min_length=1, max_length=512), v3_max_length(64)]
Expected = Annotated[NonEmpty | UnsetType, SINCE_4]
Ignored = Annotated[Any | UnsetType, SINCE_4]
"""A filter or field of version 4 that is accepted and has no effect here."""


class SessionsListParams(Params, frozen=True):
    """Which sessions, and how much of each."""

    limit: Positive | UnsetType = UNSET
    active_minutes: Positive | UnsetType = UNSET
    include_global: bool | UnsetType = UNSET
    include_unknown: bool | UnsetType = UNSET
    include_derived_titles: bool | UnsetType = UNSET
    include_last_message: bool | UnsetType = UNSET
    label: Label | UnsetType = UNSET
    spawned_by: NonEmpty | UnsetType = UNSET
    agent_id: NonEmpty | UnsetType = UNSET
    search: str | UnsetType = UNSET
    offset: Annotated[Natural | UnsetType, SINCE_4] = UNSET
    active_only: Annotated[bool | UnsetType, SINCE_4] = UNSET
    archived: Annotated[bool | Literal["all"] | UnsetType, SINCE_4] = UNSET
    board_face: Annotated[Literal["chat", "dashboard"] | UnsetType, SINCE_4] = UNSET
    configured_agents_only: Annotated[bool | UnsetType, SINCE_4] = UNSET
    creator_id: Expected = UNSET
    exclude_cron: Annotated[bool | UnsetType, SINCE_4] = UNSET
    exclude_subagents: Annotated[bool | UnsetType, SINCE_4] = UNSET
    exclude_system: Annotated[bool | UnsetType, SINCE_4] = UNSET
    group: Annotated[str | UnsetType, SINCE_4] = UNSET
    has_board: Annotated[bool | UnsetType, SINCE_4] = UNSET
    include_activity_summary: Annotated[bool | UnsetType, SINCE_4] = UNSET
    include_people: Annotated[bool | UnsetType, SINCE_4] = UNSET
    involving_me: Annotated[bool | UnsetType, SINCE_4] = UNSET
    involving_profile_id: Expected = UNSET
    owner_first: Annotated[bool | UnsetType, SINCE_4] = UNSET
    owner_id: Expected = UNSET
    pinned: Annotated[bool | UnsetType, SINCE_4] = UNSET
    profile_relation: Ignored = UNSET
    project_id: Expected = UNSET
    require_last_interaction: Annotated[bool | UnsetType, SINCE_4] = UNSET
    sort_by: Annotated[
        Literal["updatedAt", "lastInteractionAt", "activity"] | UnsetType, SINCE_4
    ] = UNSET
    workspace_dir: Expected = UNSET


class SessionsDescribeParams(Params, frozen=True):
    """Which session."""

    key: NonEmpty
    agent_id: NonEmpty | UnsetType = UNSET
    include_derived_titles: bool | UnsetType = UNSET
    include_last_message: bool | UnsetType = UNSET


class SessionsCreateParams(Params, frozen=True):
    """A session to make; without a key it gets one of its own."""

    key: NonEmpty | UnsetType = UNSET
    label: Annotated[str, msgspec.Meta(min_length=1, max_length=512)] | UnsetType = UNSET
    agent_id: NonEmpty | UnsetType = UNSET
    parent_session_key: NonEmpty | UnsetType = UNSET
    thinking_level: NonEmpty | UnsetType = UNSET
    display_name: Annotated[str, msgspec.Meta(min_length=1, max_length=500)] | UnsetType = UNSET
    succeeds_parent: bool | UnsetType = UNSET
    emit_command_hooks: bool | UnsetType = UNSET
    idempotency_key: NonEmpty | UnsetType = UNSET
    category: Annotated[str, msgspec.Meta(min_length=1, max_length=512)] | UnsetType = UNSET
    title_source: Annotated[str, msgspec.Meta(max_length=1000)] | UnsetType = UNSET
    spawn_depth: Positive | UnsetType = UNSET
    visibility: Literal["shared", "read-only", "suggest", "draft"] | UnsetType = UNSET


class SessionsResolveParams(Params, frozen=True):
    """A session by exactly one of its names."""

    key: NonEmpty | UnsetType = UNSET
    session_id: NonEmpty | UnsetType = UNSET
    label: Label | UnsetType = UNSET
    agent_id: NonEmpty | UnsetType = UNSET
    spawned_by: NonEmpty | UnsetType = UNSET
    include_global: bool | UnsetType = UNSET
    include_unknown: bool | UnsetType = UNSET
    short_id: Expected = UNSET
    slug_hint: Expected = UNSET
    reference: Annotated[dict[str, NonEmpty] | UnsetType, SINCE_4] = UNSET
    allow_missing: Annotated[bool | UnsetType, SINCE_4] = UNSET


class SessionsPreviewParams(Params, frozen=True):
    """The last messages of some sessions, shortened."""

    keys: Annotated[list[NonEmpty], msgspec.Meta(min_length=1)]
    limit: Positive | UnsetType = UNSET
    max_chars: Annotated[int, msgspec.Meta(ge=20)] | UnsetType = UNSET


class SessionsPatchParams(PatchFields, frozen=True, kw_only=True):
    """Settings to change; null clears one."""

    key: NonEmpty


class SessionsResetParams(Params, frozen=True):
    """Which session to begin anew."""

    key: NonEmpty
    reason: Literal["new", "reset"] | UnsetType = UNSET
    agent_id: Expected = UNSET
    expected_session_id: Expected = UNSET


class SessionsDeleteParams(Params, frozen=True):
    """Which session to delete."""

    key: NonEmpty
    delete_transcript: bool | UnsetType = UNSET
    emit_lifecycle_hooks: bool | UnsetType = UNSET
    agent_id: Expected = UNSET
    archived_only: Annotated[bool | UnsetType, SINCE_4] = UNSET
    expected_lifecycle_revision: Expected = UNSET
    expected_session_id: Expected = UNSET
    expected_session_updated_at: Annotated[
        Annotated[float, msgspec.Meta(ge=0)] | UnsetType, SINCE_4
    ] = UNSET


class SessionsCompactParams(Params, frozen=True):
    """Which session to shorten; with ``maxLines`` to its last messages, else by a summary of its agent."""

    key: NonEmpty
    max_lines: Positive | UnsetType = UNSET
    agent_id: Expected = UNSET


class SessionsMessagesSubscribeParams(Params, frozen=True):
    """Which session to listen to."""

    key: NonEmpty
    agent_id: NonEmpty | UnsetType = UNSET
    include_approvals: Literal[True] | UnsetType = UNSET


class SessionsMessagesUnsubscribeParams(Params, frozen=True):
    """Which session to listen to no more."""

    key: NonEmpty
    agent_id: NonEmpty | UnsetType = UNSET
