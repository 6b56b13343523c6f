"""The servers of the Model Context Protocol that an agent may use: ``[agents.ID.mcp_servers.NAME]``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from gateway.config import Secret, resolve_secret
from gateway.limits import Table

SERVERS_MAX = 50
"""Servers of one agent."""


class McpServer(Table, frozen=True, omit_defaults=True):
    """A server of tools: a program that is started (``command``), or an address (``url``)."""

    command: str | None = None
    """The program; it speaks MCP on its standard input and output."""
    args: list[str] = []
    """Its arguments."""
    env: dict[str, Secret] = {}
    """Environment variables for it."""
    url: str | None = None
    """Address of a server that speaks streamable HTTP, instead of a program."""
    headers: dict[str, Secret] = {}
    """HTTP headers for it, such as Authorization."""

    def __post_init__(self) -> None:
        if (self.command is None) == (self.url is None):
            raise ValueError('give exactly one of "command" and "url"')
        if self.command is not None and (not self.command or self.headers):
            raise ValueError("command: is a program, and headers are for a url")
        if self.url is not None:
            if not self.url.startswith(("http://", "https://")):
                raise ValueError("url: http://… or https://… is wanted")
            if self.args or self.env:
                raise ValueError("url: args and env are for a command")
        check_variables(self.env)


def check_variables(names: Iterable[str]) -> None:
    """Raise ValueError for a name that no environment variable can have."""
    if wrong := [name for name in names if not name or "=" in name or "\0" in name]:
        raise ValueError(f"env: {wrong[0][:100]!r} is no name of an environment variable")


class ResolvedServer(msgspec.Struct, frozen=True, kw_only=True):
    """One server with its secrets read: never logged, never shown."""

    name: str
    command: str | None = None
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}
    url: str | None = None
    headers: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"ResolvedServer({self.name!r})"


def resolve_servers(
    servers: Mapping[str, McpServer], environ: Mapping[str, str], base_dir: Path, key: str
) -> tuple[ResolvedServer, ...]:
    """Return the servers of an agent with their secrets.

    ``key`` is the dotted key of the agent's table. Raises ConfigError for a secret that is missing.
    """

    def values(name: str, field: str, table: Mapping[str, Secret]) -> dict[str, str]:
        where = f"{key}.mcp_servers.{name}.{field}"
        return {
            each: resolve_secret(secret, environ, base_dir, key=f"{where}.{each}")
            for each, secret in table.items()
        }

    return tuple(
        ResolvedServer(
            name=name,
            command=server.command,
            args=tuple(server.args),
            env=values(name, "env", server.env),
            url=server.url,
            headers=values(name, "headers", server.headers),
        )
        for name, server in servers.items()
    )


def acp_servers(servers: tuple[ResolvedServer, ...], *, http: bool) -> list[dict[str, Any]]:
    """Return them as ``mcpServers`` of ACP; those with a URL only for an agent that can use them."""
    shapes: list[dict[str, Any]] = []
    for server in servers:
        if server.command is not None:
            program = {"command": server.command, "args": list(server.args)}
            shapes.append({"name": server.name} | program | {"env": _pairs(server.env)})
        elif http:
            address = {"url": server.url, "headers": _pairs(server.headers)}
            shapes.append({"type": "http", "name": server.name} | address)
    return shapes


def _pairs(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in values.items()]
