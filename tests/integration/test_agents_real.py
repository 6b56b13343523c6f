"""Agents that clients make and delete in a real gateway, with programs behind them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as installed_reactor

from tests.agents import fake_acp_agent
from tests.integration.daemon import Daemon, Watched, running, soon

pytestmark = pytest.mark.integration

reactor: Any = installed_reactor


def config_of(directory: Path) -> Path:
    """Write a configuration whose agent is a program, as its operator likes it."""
    file = directory / "gateway.toml"
    command = [sys.executable, fake_acp_agent.__file__]
    file.write_text(f"# mine\n[agents.main]\nbackend = 'acp'\ncommand = {command}\n")
    file.chmod(0o400)
    return file


async def ready(client: Any, agent_id: str) -> Any:
    """Return what is told of an agent's process once that is ready."""
    told: dict[str, Any] = {}

    async def look() -> None:
        rows = (await client.call("agents.status"))["agents"]
        (told[agent_id],) = [row for row in rows if row["agentId"] == agent_id]

    await look()
    while not told[agent_id]["ready"]:
        await look()
    return told[agent_id]["workers"][0]


async def asked(client: Any, key: str, run: str) -> str:
    """Return what an agent answers, which is its process id."""
    watched = Watched(client)
    params = {"sessionKey": key, "message": "/pid", "idempotencyKey": run}
    await client.call("chat.send", params)
    await soon(reactor, lambda: watched.chat(run, "final"))
    return watched.text(run)


async def made(daemon: Daemon) -> int:
    """Make an agent, talk to it, and return the process behind it."""
    client = await daemon.connect(reactor)
    await ready(client, "main")
    created = await client.call("agents.create", {"name": "Research"})
    assert created["workspace"] == str(daemon.state / "workspace" / "research")
    worker = await ready(client, "research")
    assert await asked(client, "agent:research:main", "r1") == str(worker["pid"])
    await client.call("agents.update", {"agentId": "research", "name": "Rosa"})
    params = {"agentId": "research", "name": "SOUL.md", "content": "be kind"}
    await client.call("agents.files.set", params)
    await client.close()
    return int(worker["pid"])


@pytest_twisted.ensureDeferred
async def test_an_agent_of_a_client(tmp_path: Path) -> None:
    """It answers at once and after a restart, beside an operator's file that nobody may write."""
    config = config_of(tmp_path)
    before = config.read_text()
    with running(tmp_path, "--config", config) as daemon:
        first = await made(daemon)

    with running(tmp_path, "--config", config) as daemon:
        client = await daemon.connect(reactor)
        rows = (await client.call("agents.list"))["agents"]
        assert [(row["id"], row["name"]) for row in rows] == [
            ("main", "main"),
            ("research", "Rosa"),
        ]
        worker = await ready(client, "research")
        assert worker["pid"] != first
        got = await client.call("agents.files.get", {"agentId": "research", "name": "SOUL.md"})
        assert got["file"]["content"] == "be kind"

        deleted = await client.call("agents.delete", {"agentId": "research"})
        assert deleted["removed"][0]["method"] == "trash"
        with pytest.raises(ProcessLookupError):
            os.kill(worker["pid"], 0)
        assert await asked(client, "main", "r2")
        await client.close()
    assert config.read_text() == before
