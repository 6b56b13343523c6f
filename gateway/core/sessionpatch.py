"""``sessions.patch``: which settings a session has, and what they may be.

The rules are a table: a setting, its values, and the text that refuses another one. Version 3 and
version 4 differ in a few fields and values; the fields carry that in their annotations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from gateway.core.params import SINCE_4, UNTIL_3, Natural, NonEmpty, Params, v3_max_length
from gateway.core.sessionkey import is_subagent
from gateway.errors import InvalidRequest

Text = NonEmpty | UnsetType | None
Text4 = Annotated[NonEmpty | UnsetType | None, SINCE_4]

Long4 = Annotated[
    Annotated[str, msgspec.Meta(min_length=1, max_length=512)] | UnsetType | None, SINCE_4
]
Time4 = Annotated[Annotated[float, msgspec.Meta(ge=0)] | UnsetType | None, SINCE_4]


class PatchFields(Params, frozen=True):
    """The settings that a patch may name, in the order of the protocol."""

    label: (
        Annotated[str, msgspec.Meta(min_length=1, max_length=512), v3_max_length(64)]
        | UnsetType
        | None
    ) = UNSET
    thinking_level: Text = UNSET
    verbose_level: Text = UNSET
    reasoning_level: Text = UNSET
    elevated_level: Text = UNSET
    response_usage: Literal["off", "tokens", "full", "on"] | UnsetType | None = UNSET
    send_policy: Literal["allow", "deny"] | UnsetType | None = UNSET
    group_activation: Literal["mention", "always"] | UnsetType | None = UNSET
    exec_host: Text = UNSET
    exec_security: Text = UNSET
    exec_ask: Text = UNSET
    exec_node: Text = UNSET
    model: Text = UNSET
    spawned_by: Annotated[NonEmpty | UnsetType | None, UNTIL_3] = UNSET
    spawn_depth: Annotated[Natural | UnsetType | None, UNTIL_3] = UNSET
    agent_id: Annotated[NonEmpty | UnsetType, SINCE_4] = UNSET
    expected_session_id: Annotated[NonEmpty | UnsetType, SINCE_4] = UNSET
    expected_lifecycle_revision: Annotated[NonEmpty | UnsetType, SINCE_4] = UNSET
    expected_marked_unread_at: Time4 = UNSET
    archived: Annotated[bool | UnsetType, SINCE_4] = UNSET
    pinned: Annotated[bool | UnsetType, SINCE_4] = UNSET
    unread: Annotated[bool | UnsetType, SINCE_4] = UNSET
    category: Long4 = UNSET
    color: Annotated[str | UnsetType | None, SINCE_4] = UNSET
    icon: Annotated[str | UnsetType | None, SINCE_4] = UNSET
    fast_mode: Annotated[bool | Literal["auto"] | UnsetType | None, SINCE_4] = UNSET
    trace_level: Text4 = UNSET
    context_window: Text4 = UNSET

    def changes(self) -> dict[str, Any]:
        """Return the settings that the patch names, by their wire names."""
        return {
            wire: value
            for name, wire in _SETTINGS.items()
            if (value := getattr(self, name)) is not UNSET
        }


_NOT_SETTINGS: Final = frozenset(
    {"agent_id", "expected_session_id", "expected_lifecycle_revision", "expected_marked_unread_at"}
)
_SETTINGS: Final = {
    field.name: field.encode_name
    for field in msgspec.structs.fields(PatchFields)
    if field.name not in _NOT_SETTINGS
}

_LEVELS: Final = ("off", "minimal", "low", "medium", "high")
_VALUES: Final[dict[str, tuple[str, ...]]] = {
    "thinkingLevel": (*_LEVELS, "xhigh"),
    "verboseLevel": ("on", "off", "full"),
    "reasoningLevel": ("on", "off", "stream"),
    "elevatedLevel": ("on", "off", "ask", "full"),
    "execHost": ("auto", "sandbox", "gateway", "node"),
    "execSecurity": ("deny", "allowlist", "full"),
    "execAsk": ("off", "on-miss", "always"),
}
_VALUES_V3: Final[dict[str, tuple[str, ...]]] = {
    **_VALUES,
    "thinkingLevel": _LEVELS,
    "execHost": ("sandbox", "gateway", "node"),
}
_TEXTS_V3: Final = {"verboseLevel": ("on", "off")}
"""Where version 3's refusal names fewer values than it takes."""

_ADMIN_ONLY: Final = frozenset(
    {"sendPolicy", "elevatedLevel", "execHost", "execSecurity", "execAsk", "execNode"}
)


def write_safe(patch: PatchFields) -> bool:
    """Whether a patch of version 4 needs no more than ``operator.write``."""
    return _ADMIN_ONLY.isdisjoint(patch.changes())


def apply_patch(
    settings: Mapping[str, Any], changes: Mapping[str, Any], *, protocol: int, key: str = ""
) -> dict[str, Any]:
    """Return the settings after a patch; the label is not one of them. Raises InvalidRequest."""
    result = dict(settings)
    for name, value in changes.items():
        if name == "label":
            continue
        if value is None:
            if name in _SPAWN and name in settings:
                raise InvalidRequest(f"{name} cannot be cleared once set")
            result.pop(name, None)
        else:
            result[name] = _checked(name, value, protocol, key, settings)
    return result


_SPAWN: Final = frozenset({"spawnedBy", "spawnDepth"})


def _checked(name: str, value: Any, protocol: int, key: str, settings: Mapping[str, Any]) -> Any:
    if name in _SPAWN:
        if not is_subagent(key):
            raise InvalidRequest(f"{name} is only supported for subagent:* sessions")
        if settings.get(name, value) != value:
            raise InvalidRequest(f"{name} cannot be changed once set")
        return value
    if name == "responseUsage":
        return "tokens" if value == "on" else value
    allowed = (_VALUES if protocol >= 4 else _VALUES_V3).get(name)
    if allowed is None:
        return value
    word = value.strip().lower()
    if word not in allowed:
        shown = allowed if protocol >= 4 else _TEXTS_V3.get(name, allowed)
        quote = "" if name == "thinkingLevel" else '"'
        options = "|".join(f"{quote}{option}{quote}" for option in shown)
        raise InvalidRequest(f"invalid {name} (use {options})")
    return word
