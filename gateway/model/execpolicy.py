"""What may be run unasked: the policy file of exec approvals, as both versions of the protocol have it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from gateway.model.base import Struct

_NonEmpty = Annotated[str, Meta(min_length=1)]
_Time = Annotated[int, Meta(ge=0)] | Annotated[float, Meta(ge=0)]


class ExecSecurity(StrEnum):
    """How much may be run, the strictest first."""

    DENY = "deny"
    """Nothing."""
    ALLOWLIST = "allowlist"
    """What the list names."""
    FULL = "full"
    """Everything."""


class ExecAsk(StrEnum):
    """When an operator is asked."""

    OFF = "off"
    ON_MISS = "on-miss"
    """For what the list does not name."""
    ALWAYS = "always"


class ExecAllowlistEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """One program that may be run, and with which arguments."""

    pattern: str
    """The absolute path of the program; ``*`` within a name, ``**`` for any directories."""
    id: _NonEmpty | UnsetType = UNSET
    arg_pattern: str | UnsetType = UNSET
    """The arguments, separated by blanks; ``*`` within one, ``**`` at the end for all that follow."""
    command_text: str | UnsetType = UNSET
    """The whole command, quoted as ``shlex.join`` does: nothing else is meant."""
    source: Literal["allow-always"] | UnsetType = UNSET
    """Set where an operator's answer made it."""
    last_used_at: _Time | UnsetType = UNSET
    last_used_command: str | UnsetType = UNSET
    last_resolved_path: str | UnsetType = UNSET


class ExecToolGrant(Struct, frozen=True, forbid_unknown_fields=True):
    """A tool of an MCP server that may be called; kept for clients, not judged here."""

    server: Annotated[str, Meta(min_length=1, pattern=r"\S")]
    tool: Annotated[str, Meta(min_length=1, pattern=r"\S")]
    source: Literal["allow-always"]
    added_at: _Time
    last_used_at: _Time | UnsetType = UNSET


class ExecDefaults(Struct, frozen=True, forbid_unknown_fields=True):
    """What holds where an agent says nothing."""

    security: ExecSecurity | UnsetType = UNSET
    ask: ExecAsk | UnsetType = UNSET
    ask_fallback: ExecSecurity | UnsetType = UNSET
    """What may be run where nobody answers."""
    auto_allow_skills: bool | UnsetType = UNSET


class ExecAgentPolicy(ExecDefaults, frozen=True, forbid_unknown_fields=True):
    """What holds for one agent."""

    allowlist: tuple[ExecAllowlistEntry, ...] | UnsetType = UNSET
    mcp_tools: tuple[ExecToolGrant, ...] | UnsetType = UNSET


class ExecSocket(Struct, frozen=True, forbid_unknown_fields=True):
    """Where a companion program of the protocol's own gateway listens; not used here."""

    path: str | UnsetType = UNSET
    token: str | UnsetType = UNSET

    def __repr__(self) -> str:
        return f"ExecSocket(path={self.path!r})"


class ExecPolicyFile(Struct, frozen=True, forbid_unknown_fields=True):
    """A policy: what holds by default, and for each agent; ``*`` stands for all of them."""

    version: Literal[1]
    socket: ExecSocket | UnsetType = UNSET
    defaults: ExecDefaults | UnsetType = UNSET
    agents: dict[str, ExecAgentPolicy] | UnsetType = UNSET


class ExecUsage(Struct, frozen=True):
    """When an entry last allowed something, and what."""

    at_ms: int
    command: str
    path: str


class ExecGrant(Struct, frozen=True):
    """Whose answer made an entry."""

    by: str
    at_ms: int
    approval_id: str


class ExecPolicyRecord(Struct, frozen=True):
    """What is stored: the file without what changes with every use, and what belongs to its entries."""

    file: ExecPolicyFile | None = None
    usage: dict[str, ExecUsage] = {}
    grants: dict[str, ExecGrant] = {}
