"""Servers of the protocol's own library behind an llm agent: table → worker → server, by both transports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as installed_reactor

from gateway.agents.llm import LlmFactory
from gateway.agents.llmconfig import LlmConfig
from gateway.agents.mcpconfig import McpServer
from gateway.runtime import SystemClock
from tests.agents.fake_provider import Behaviour, FakeProvider
from tests.agents.fakes import RecordingSink, make_environment, run_request
from tests.integration.daemon import free_port, probe, until, waited

pytestmark = [pytest.mark.model, pytest.mark.integration]

for library in ("pydantic_ai", "openai", "fastmcp", "mcp.server.mcpserver"):
    pytest.importorskip(library)

reactor: Any = installed_reactor
SCRIPT = str(Path(__file__).parent.parent / "agents" / "mcp_library_server.py")
KEY = "key-of-the-server"


@pytest.fixture
def address() -> Iterator[str]:
    """A server on streamable HTTP."""
    port = free_port()
    environ = os.environ | {"MCP_KEY": KEY}
    with subprocess.Popen([sys.executable, SCRIPT, str(port)], env=environ) as process:
        until(lambda: probe(port, "/mcp").status, 20)
        yield f"http://127.0.0.1:{port}/mcp"
        process.kill()


@pytest_twisted.ensureDeferred
async def test_tools_of_the_librarys_servers_are_called(tmp_path: Path, address: str) -> None:
    """Both are listed and called; a tool's error, and rubbish between messages, cost one call at most."""
    calls = [("io_shout", {"text": "a"}), ("web_shout", {"text": "b"}), ("io_fail", {})]
    calls += [("web_fail", {}), ("io_noise", {}), ("io_shout", {"text": "c"})]
    script = [Behaviour(tool=(name, json.dumps(args))) for name, args in calls]
    provider = FakeProvider(*script, Behaviour(words=("done",)))
    await waited(provider.__aenter__())
    config = LlmConfig(
        model="openai-chat:m",
        base_url=provider.url,
        mcp_servers={
            "io": McpServer(command=sys.executable, args=[SCRIPT]),
            "web": McpServer(url=address, headers={"Authorization": f"Bearer {KEY}"}),
            "refused": McpServer(url=address),
        },
    )
    environment = make_environment(tmp_path, SystemClock(reactor), reactor)
    backend: Any = LlmFactory().make(config, environment)
    backend.startService()
    sink = RecordingSink()
    try:
        await backend.start(run_request("go"), sink)
    finally:
        await backend.stopService()
        await waited(provider.__aexit__())

    assert sink.said == "done"
    names = {tool["function"]["name"] for tool in provider.requests[0]["tools"]}
    assert {"io_shout", "io_slow", "web_shout", "web_slow"} <= names
    assert not [name for name in names if name.startswith("refused")]
    results = [text for role, text in provider.texts() if role == "tool"]
    assert results[:2] == ["A", "B"]
    assert ["it is broken" in each for each in results[2:4]] == [True, True]
    assert results[-1] == "C"
