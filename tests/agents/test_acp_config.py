"""The table of an ACP agent, and what is made of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from zope.interface.verify import verifyObject

from gateway.agents.acp import AcpConfig, AcpFactory
from gateway.agents.acp_access import access_of
from gateway.config import decode_agent
from gateway.errors import ConfigError, StartError
from gateway.interfaces import IAgentBackend, IAgentBackendFactory
from gateway.model import ModelInfo
from gateway.testing import FakeClock
from tests.agents.acp_setup import make_backend
from tests.agents.fakes import (
    FakeReactor,
    make_environment,
)


def test_a_workspace_that_can_not_be_made_stops_the_start(tmp_path: Path) -> None:
    """A file where the workspace should be is one line for the operator."""
    (tmp_path / "workspace").write_text("")
    backend = make_backend(tmp_path, FakeClock(), FakeReactor())

    with pytest.raises(StartError, match="workspace of agent main"):
        backend.startService()


def test_the_factory_makes_acp_agents(tmp_path: Path) -> None:
    """The table gives command, environment and directory; secrets are looked up."""
    (tmp_path / "key").write_text("s3cret\n")
    factory = AcpFactory()
    table = {
        "backend": "acp",
        "command": [sys.executable, "-m", "agent"],
        "env": {"MODE": "fast", "KEY": {"file": "key"}},
        "name": "My agent",
    }
    reactor = FakeReactor()

    config = decode_agent("main", table, factory.config_type, None)
    backend = factory.make(config, make_environment(tmp_path, FakeClock(), reactor))
    backend.startService()

    (process,) = reactor.processes
    assert verifyObject(IAgentBackendFactory, factory)
    assert verifyObject(IAgentBackend, backend)
    assert process.argv == [sys.executable, "-m", "agent"]
    assert process.env["MODE"] == "fast"
    assert process.env["KEY"] == "s3cret"
    assert "PATH" in process.env
    assert process.path == str(tmp_path / "workspace" / "main")
    assert backend.models == (ModelInfo(id="main", name="My agent", provider="acp"),)


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ({}, "agents.main: .*command"),
        ({"command": []}, "agents.main.command"),
        ({"command": ["sh"], "pool": 0}, "pool"),
        ({"command": ["sh"], "env": {"A=B": "x"}}, "agents.main: env: 'A=B' is no name"),
        ({"command": ["sh"], "mcp_servers": {"m": {"command": "x", "env": {"": "x"}}}}, "no name"),
        ({"command": ["sh"], "comand": 1}, "comand"),
    ],
)
def test_a_wrong_table_is_named(table: dict[str, Any], text: str) -> None:
    """Mistakes in the table are refused with the key."""
    with pytest.raises(ConfigError, match=text):
        decode_agent("main", table, AcpConfig, None)


@pytest.mark.parametrize("program", ["no-such-program-here", "./agent", "/no/such/agent"])
def test_a_missing_program_is_named(tmp_path: Path, program: str) -> None:
    """A program that is not there is refused before anything starts."""
    config = msgspec.convert({"command": [program]}, AcpConfig)

    with pytest.raises(ConfigError, match=r"agents\.main\.command: no such program"):
        AcpFactory().make(config, make_environment(tmp_path, FakeClock()))


def test_a_program_beside_its_work_is_found(tmp_path: Path) -> None:
    """A relative program is looked up in the agent's directory."""
    (tmp_path / "agent").write_text("#!/bin/sh\n")
    (tmp_path / "agent").chmod(0o755)
    config = msgspec.convert({"command": ["./agent"], "cwd": str(tmp_path)}, AcpConfig)

    assert result_of_make(config, tmp_path).models[0].id == "main"


def result_of_make(config: AcpConfig, directory: Path) -> IAgentBackend:
    return AcpFactory().make(config, make_environment(directory, FakeClock()))


def test_a_missing_secret_is_named(tmp_path: Path) -> None:
    """A secret that is not there is refused with the key of the table."""
    config = msgspec.convert({"command": ["sh"], "env": {"K": {"file": "gone"}}}, AcpConfig)

    with pytest.raises(ConfigError, match=r"agents\.main\.env\.K"):
        result_of_make(config, tmp_path)


@pytest.mark.parametrize(
    ("value", "mode"),
    [(False, "off"), (True, "ask"), ("ask", "ask"), ("allow", "allow")],
)
def test_access_by_the_table(tmp_path: Path, value: Any, mode: str) -> None:
    """Files, terminals and servers of tools are set in the agent's table."""
    table = {
        "command": ["sh"],
        "fs": False,
        "terminal": value,
        "mcp_servers": {"files": {"command": "files", "env": {"K": "v"}}},
    }
    config = decode_agent("main", table, AcpConfig, None)
    environ = {"PATH": "/bin", "OPENAI_API_KEY": "k"}

    access = access_of(config, environ, tmp_path, "agents.main")

    assert (access.files, access.terminal) == (False, mode)
    assert access.terminal_env == {"PATH": "/bin"}
    assert [server.name for server in access.servers] == ["files"]
    assert access.capabilities == {
        "fs": {"readTextFile": False, "writeTextFile": False},
        "terminal": mode != "off",
    }


def test_a_wrong_access_is_named() -> None:
    """A word that is neither of the two is refused with the key."""
    with pytest.raises(ConfigError, match=r"agents\.main\.terminal"):
        decode_agent("main", {"command": ["sh"], "terminal": "maybe"}, AcpConfig, None)
