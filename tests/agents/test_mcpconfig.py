"""The table of MCP servers of an agent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.agents.mcpconfig import McpServer, acp_servers, resolve_servers
from gateway.config import AgentConfig, SecretRef, decode_agent
from gateway.errors import ConfigError


class Agent(AgentConfig, frozen=True):
    """An agent with servers."""

    mcp_servers: dict[str, McpServer] = {}
    """Servers."""


TABLE = {
    "files": {"command": "files", "args": ["--root", "."], "env": {"KEY": {"file": "key"}}},
    "web": {"url": "https://mcp.example/", "headers": {"Authorization": {"env": "AUTH"}}},
}


def test_servers_are_resolved(tmp_path: Path) -> None:
    """Secrets come from the environment and from files beside the configuration, and are not shown."""
    (tmp_path / "key").write_text("k\n")
    agent = decode_agent("main", {"mcp_servers": TABLE}, Agent, tmp_path / "gateway.toml")
    assert agent.mcp_servers["files"].env["KEY"] == SecretRef(file=str(tmp_path / "key"))

    servers = resolve_servers(agent.mcp_servers, {"AUTH": "Bearer x"}, tmp_path, "agents.main")

    assert acp_servers(servers, http=True) == [
        {
            "name": "files",
            "command": "files",
            "args": ["--root", "."],
            "env": [{"name": "KEY", "value": "k"}],
        },
        {
            "type": "http",
            "name": "web",
            "url": "https://mcp.example/",
            "headers": [{"name": "Authorization", "value": "Bearer x"}],
        },
    ]
    assert [server["name"] for server in acp_servers(servers, http=False)] == ["files"]
    assert "Bearer" not in repr(servers)


def test_a_missing_secret_names_its_key(tmp_path: Path) -> None:
    """The message says which key of which server is missing."""
    servers = msgspec.convert(TABLE, dict[str, McpServer])

    with pytest.raises(ConfigError, match=r"agents\.main\.mcp_servers\.files\.env\.KEY"):
        resolve_servers(servers, {}, tmp_path, "agents.main")


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ({}, "exactly one"),
        ({"command": "a", "url": "http://b"}, "exactly one"),
        ({"command": ""}, "command"),
        ({"command": "a", "headers": {"a": "b"}}, "headers"),
        ({"url": "ftp://x"}, "url"),
        ({"url": "http://x", "args": ["a"]}, "args"),
        ({"uri": "http://x"}, "uri"),
    ],
)
def test_a_wrong_table_is_refused(table: dict[str, Any], text: str) -> None:
    """A server is a command or a URL, with what belongs to it."""
    with pytest.raises(ConfigError, match=text):
        decode_agent("main", {"mcp_servers": {"x": table}}, Agent, None)
