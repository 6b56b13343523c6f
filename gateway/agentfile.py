"""Agents that were made, changed or deleted over the protocol: ``agents.toml`` of the state directory.

Requirements. What a client does to an agent survives a restart, and takes nothing from the operator: their
file, its comments, its secrets and its permissions stay as they are, it may lie on a read-only disk, or not
exist. No secret is copied.

Design. A file of the gateway's own holds the differences, one table per agent, and is laid over the
configuration when that is read::

    [agents.research]        # made over the protocol: has ``like``
    like = "main"            # what it does not say, this agent of the configuration says
    name = "Research"

    [agents.main]            # an agent of the configuration: only the keys that were changed
    name = "Ann"

    [agents.old]             # an agent of the configuration that was deleted
    deleted = true

Rejected: writing into the operator's file with a parser that keeps comments. It fails where the file is
managed by something else, a copy of one agent's table takes its secrets along, and two writers (an editor,
the gateway) lose each other's changes.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from gateway.config import check_agents
from gateway.errors import ConfigError
from gateway.settings import one_line, toml_value

Table = Mapping[str, Any]
Tables = Mapping[str, Table]

OWN: Final = frozenset({"name", "default", "emoji", "avatar", "workspace", "cwd"})
"""What an agent does not take over from the one it is like."""
_WRITTEN: Final = OWN - {"default"} | {"model", "like", "deleted"}
"""The keys that this file may have: none of them runs a program or names a place on the network."""
_HEAD: Final = "# Agents as clients have made and changed them. The gateway writes this file.\n"
_MAX_BYTES: Final = 16 * 1024 * 1024


class AgentFile:
    """The file at ``path``, and what was last read from it or written to it.

    :ivar changes: the tables in it, by agent id.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.changes: dict[str, dict[str, Any]] = {}

    def read(self) -> None:
        """Read the file, if there is one. Raises ConfigError."""
        try:
            with self.path.open("rb") as stream:
                text = stream.read(_MAX_BYTES).decode()
            parsed = tomllib.loads(text)
        except (FileNotFoundError, NotADirectoryError):  # what the directory is, it says itself
            self.changes = {}
            return
        except OSError as error:
            raise self._wrong("", error.strerror or "can not be read") from error
        except ValueError as error:
            raise self._wrong("", f"not TOML: {error}") from error
        agents = parsed.get("agents", {})
        if set(parsed) - {"agents"} or not isinstance(agents, dict):
            raise self._wrong("", "only tables of agents are expected here")
        for agent_id, table in agents.items():
            unknown = set(table) - _WRITTEN if isinstance(table, dict) else {"?"}
            if unknown:
                raise self._wrong(f"agents.{agent_id}", f"unknown key {min(unknown)}")
        check_agents(agents, str(self.path))
        self.changes = agents

    def write(self, changes: Tables) -> None:
        """Put ``changes`` in the place of what is there, as a whole; blocks. Raises OSError, ConfigError."""
        text = rendered(changes)
        partial = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        descriptor = os.open(partial, flags, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(text.encode())
                stream.flush()
                os.fsync(descriptor)
            os.replace(partial, self.path)
        except BaseException:
            with suppress(FileNotFoundError):
                partial.unlink()
            raise
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        self.changes = {agent_id: dict(table) for agent_id, table in changes.items()}

    def merged(self, base: Tables, changes: Tables | None = None) -> dict[str, dict[str, Any]]:
        """Return the tables of ``base`` with ``changes`` (default: what was read) laid over them.

        Changes of an agent that the configuration has no more are left aside. Raises ConfigError for an
        agent that is like one that there is not.
        """
        own = self.changes if changes is None else changes
        tables = {
            agent_id: _laid_over(table, own.get(agent_id, {}))
            for agent_id, table in base.items()
            if not own.get(agent_id, {}).get("deleted")
        }
        for agent_id, table in own.items():
            if agent_id in base or "like" not in table:
                continue
            model = base.get(table["like"])
            if model is None:
                text = f'no agent "{table["like"]}" in the configuration'
                raise self._wrong(f"agents.{agent_id}.like", text)
            kept = {k: v for k, v in model.items() if k not in OWN}
            tables[agent_id] = _laid_over(kept, table)
        for made in tables.values():
            made.pop("like", None)
        return tables

    def hash(self) -> str:
        """Return the SHA-256 of what the file holds, in hexadecimal."""
        return sha256(rendered(self.changes).encode()).hexdigest()

    def _wrong(self, key: str, text: str) -> ConfigError:
        return ConfigError(one_line(str(self.path), key, text))


def _laid_over(table: Table, changes: Table) -> dict[str, Any]:
    """Return a table with changes; a model that it knows already becomes its first."""
    merged = {**table, **changes}
    wanted, models, fallbacks = (merged.get(k) for k in ("model", "models", "fallbacks"))
    if "model" not in changes:
        return merged
    if isinstance(models, list):
        first = [each for each in models if isinstance(each, dict) and each.get("model") == wanted]
        if first:
            merged["models"] = first + [each for each in models if each not in first]
            del merged["model"]
    elif isinstance(fallbacks, list) and wanted in fallbacks:
        merged["fallbacks"] = [table.get("model") if f == wanted else f for f in fallbacks]
    return merged


def rendered(changes: Tables) -> str:
    """Return the file's text. Raises ConfigError for what would not be read back as it is."""
    parts = [_HEAD]
    for agent_id, table in changes.items():
        lines = [f"{key} = {toml_value(value)}\n" for key, value in table.items()]
        parts.append(f"\n[agents.{agent_id}]\n{''.join(lines)}")
    text = "".join(parts)
    try:
        same = tomllib.loads(text).get("agents", {}) == changes
        text.encode()
    except ValueError:
        same = False
    if not same:
        raise ConfigError("not a text that can be kept")
    return text
