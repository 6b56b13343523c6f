"""The policy file as clients write and read it: what is taken of it, and what each version is shown.

Version 3 knows nothing of arguments, sources and tools of MCP servers: it is shown entries without them,
and what it writes back gets them again by the ids of the entries. So a client that can not see a
restriction does not remove it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec
from msgspec import UNSET

from gateway.core.execpolicy import EVERY_AGENT, MAX_ENTRIES, flaw
from gateway.core.sessionkey import normalise_agent_id
from gateway.errors import InvalidRequest
from gateway.model import ExecAgentPolicy, ExecAllowlistEntry, ExecPolicyFile, ExecUsage

EMPTY: Final = ExecPolicyFile(version=1)

_OF_4: Final = ("argPattern", "commandText", "source")
_USAGE: Final = {"last_used_at": UNSET, "last_used_command": UNSET, "last_resolved_path": UNSET}


def adopted(
    file: ExecPolicyFile, current: ExecPolicyFile | None, new_id: Callable[[], str], protocol: int
) -> ExecPolicyFile:
    """Return a file that a client has written as it is kept: every entry with an id, without uses and tokens.

    Raises InvalidRequest for what could never match, or is not what it seems to be.
    """
    known = {entry.id: entry for entry in entries_of(current)}
    agents: dict[str, ExecAgentPolicy] = {}
    taken: set[str] = set()
    for agent_id, agent in _agents(file).items():
        if agent_id not in (EVERY_AGENT, normalise_agent_id(agent_id)):
            raise InvalidRequest(
                f"exec approvals: agent {agent_id!r} would never be found; its id is "
                f"{normalise_agent_id(agent_id)!r}"
            )
        if protocol < 4:
            before = _agents(current).get(agent_id)
            tools = UNSET if before is None else before.mcp_tools
            agent = msgspec.structs.replace(agent, mcp_tools=tools)
        if agent.allowlist is not UNSET:
            if len(agent.allowlist) > MAX_ENTRIES:
                raise InvalidRequest(
                    f"exec approvals: agent {agent_id!r} has more than {MAX_ENTRIES} entries"
                )
            entries = [_entry(e, known if protocol < 4 else {}) for e in agent.allowlist]
            agent = msgspec.structs.replace(agent, allowlist=_with_ids(entries, taken, new_id))
        agents[agent_id] = agent
    socket = file.socket
    if socket is not UNSET:
        socket = msgspec.structs.replace(socket, token=UNSET)
    return msgspec.structs.replace(
        file, socket=socket, agents=agents if file.agents is not UNSET else UNSET
    )


def shown(file: ExecPolicyFile, usage: Mapping[str, ExecUsage], protocol: int) -> dict[str, Any]:
    """Return a file as a version's clients know it, with when its entries were last used."""
    shape: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(file))
    for agent in shape.get("agents", {}).values():
        if protocol < 4:
            agent.pop("mcpTools", None)
        for entry in agent.get("allowlist", ()):
            if protocol < 4:
                for name in _OF_4:
                    entry.pop(name, None)
            used = usage.get(entry["id"])
            if used is not None:
                entry |= {
                    "lastUsedAt": used.at_ms,
                    "lastUsedCommand": used.command,
                    "lastResolvedPath": used.path,
                }
    return shape


def entries_of(file: ExecPolicyFile | None) -> Iterator[ExecAllowlistEntry]:
    """Yield the entries of all agents."""
    for agent in _agents(file).values():
        if agent.allowlist is not UNSET:
            yield from agent.allowlist


def beyond_3(file: ExecPolicyFile) -> str | None:
    """Return the name of something in a file that version 3 does not have."""
    for agent in _agents(file).values():
        if agent.mcp_tools is not UNSET:
            return "mcpTools"
    for entry in entries_of(file):
        for name in _OF_4:
            if name in msgspec.to_builtins(entry):
                return name
    return None


def _entry(
    entry: ExecAllowlistEntry, known: Mapping[Any, ExecAllowlistEntry]
) -> ExecAllowlistEntry:
    """Return an entry without uses, and with what its writer could not see. Raises InvalidRequest."""
    before = known.get(entry.id)
    if before is not None:
        entry = msgspec.structs.replace(
            entry,
            arg_pattern=before.arg_pattern,
            command_text=before.command_text,
            source=before.source,
        )
    wrong = flaw(entry)
    if wrong is not None:
        raise InvalidRequest(f"exec approvals: {entry.pattern!r}: {wrong}")
    return msgspec.structs.replace(entry, **_USAGE)


def _with_ids(
    entries: Iterable[ExecAllowlistEntry], taken: set[str], new_id: Callable[[], str]
) -> tuple[ExecAllowlistEntry, ...]:
    """Return entries that each have an id of their own."""
    kept = []
    for entry in entries:
        entry_id = entry.id
        if entry_id is UNSET or entry_id in taken:
            entry_id = new_id()
        taken.add(entry_id)
        kept.append(msgspec.structs.replace(entry, id=entry_id))
    return tuple(kept)


def _agents(file: ExecPolicyFile | None) -> dict[str, ExecAgentPolicy]:
    return {} if file is None or file.agents is UNSET else file.agents
