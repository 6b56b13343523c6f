"""Tools of MCP servers in the model worker. Needs the extras llm and mcp, no model."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

pytest.importorskip("pydantic_ai")
pytest.importorskip("openai")
pytest.importorskip("fastmcp")

from gateway.agents.mcpconfig import ResolvedServer
from gateway.agents.workers.toolservers import ServerPool, session_servers
from tests.agents.llm_client import Client, Model, call, talk
from tests.agents.test_llm_tools import alive, returns

pytestmark = pytest.mark.model

SCRIPT = str(Path(__file__).with_name("mcp_server.py"))


@pytest.fixture
def tiny(tmp_path: Path) -> dict[str, Any]:
    """The shape of a server in session/new."""
    env = [
        {"name": "MCP_SECRET", "value": "hidden"},
        {"name": "MCP_LOG", "value": str(tmp_path / "log")},
    ]
    return {"name": "tiny", "command": sys.executable, "args": [SCRIPT], "env": env}


async def open_session(client: Client, *servers: dict[str, Any]) -> str:
    answer = await client.ask("session/new", {"cwd": "/", "mcpServers": list(servers)})
    return str(answer["result"]["sessionId"])


def test_tools_of_a_server_are_called(tmp_path: Path, tiny: dict[str, Any]) -> Deferred[None]:
    """A server is started once for all sessions, its tools carry its name, it ends with the worker."""
    steps: list[list[Any]] = [
        [call("tiny_add", a=2, b=3)],
        ["five"],
        [call("tiny_where")],
        ["here"],
    ]
    model = Model("x", steps=[*steps, [call("tiny_long")], ["long"]])

    async def scenario(client: Client) -> None:
        hello = (await client.ask("initialize", {"protocolVersion": 1}))["result"]
        assert hello["agentCapabilities"]["mcpCapabilities"]["http"] is True
        await client.answer(client.prompt(await open_session(client, tiny), "add"))
        assert "tiny_add" in model.tools[0]
        assert "tiny_odd name" not in model.tools[0]
        assert returns(model) == [("success", "5")]
        assert client.updates("tool_call")[0]["kind"] == "other"

        await client.answer(client.prompt(await open_session(client, tiny), "where"))
        assert returns(model) == [("success", f"{tmp_path} hidden")]
        await client.answer(client.prompt(await open_session(client, tiny), "long"))
        ((_, content),) = returns(model)
        assert "characters are left out here" in content
        assert len((tmp_path / "log").read_text().split()) == 1

    def check(_: None) -> None:
        (pid,) = (tmp_path / "log").read_text().split()
        assert not alive(int(pid))

    return talk(model, scenario, workspace=str(tmp_path)).addCallback(check)


def test_the_death_of_a_server_is_one_failed_call(
    tmp_path: Path, tiny: dict[str, Any]
) -> Deferred[None]:
    """A server that dies in a call fails that call; the next one starts it again."""
    steps: list[list[Any]] = [
        [call("tiny_die")],
        [call("tiny_add", id_="call-2", a=1, b=1)],
        ["two"],
    ]
    model = Model("x", steps=[*steps, [call("tiny_fail")]])

    async def scenario(client: Client) -> None:
        session_id = await open_session(client, tiny)
        answer = await client.answer(client.prompt(session_id, "die"))
        assert answer["result"]["stopReason"] == "end_turn"
        (died, text), second = returns(model)
        assert died == "failed"
        assert "tiny failed" in text
        assert second == ("success", "2")
        assert len((tmp_path / "log").read_text().split()) == 2

        await client.answer(client.prompt(session_id, "fail"))
        assert returns(model)[-1] == ("failed", "it does not work")
        assert len((tmp_path / "log").read_text().split()) == 2

    return talk(model, scenario, workspace=str(tmp_path))


def test_a_server_that_can_not_be_used_is_left_out(tmp_path: Path) -> Deferred[None]:
    """A program that is not there, or an address without a server, costs its tools and nothing else."""
    model = Model("fine")
    gone = {"name": "gone", "command": str(tmp_path / "none"), "args": [], "env": []}
    mute = {"type": "http", "name": "mute", "url": "http://127.0.0.1:9/mcp", "headers": []}

    async def scenario(client: Client) -> None:
        session_id = await open_session(client, gone, mute)
        answer = await client.answer(client.prompt(session_id, "x"))
        assert answer["result"]["stopReason"] == "end_turn"
        assert [name for name in model.tools[0] if name.startswith(("gone", "mute"))] == []

    return talk(model, scenario, workspace=str(tmp_path))


def test_an_abort_in_a_servers_start_is_answered(tmp_path: Path) -> Deferred[None]:
    """A server that never says a word does not hold an abort up."""
    mute = {"name": "mute", "command": "/bin/sleep", "args": ["60"], "env": []}

    async def scenario(client: Client) -> None:
        session_id = await open_session(client, mute)
        id_ = client.prompt(session_id, "x")
        await asyncio.sleep(0.2)
        client.cancel(session_id)
        assert (await client.answer(id_))["result"] == {"stopReason": "cancelled"}

    return talk(Model("x"), scenario, workspace=str(tmp_path))


def test_servers_of_a_session_are_read_from_its_request() -> None:
    """Programs and addresses in ACP's shapes; what has another shape is left out."""
    pairs = [{"name": "A", "value": "1"}, {"odd": 1}]
    shapes = [
        {"name": "one", "command": "x", "args": ["-y"], "env": pairs},
        {"type": "http", "name": "two", "url": "http://h/", "headers": pairs},
        {"name": "three"},
        7,
    ]

    one, two = session_servers(shapes)

    assert one == ResolvedServer(name="one", command="x", args=("-y",), env={"A": "1"})
    assert two == ResolvedServer(name="two", url="http://h/", headers={"A": "1"})
    assert session_servers(None) == []


def test_servers_with_one_name_are_the_first(tmp_path: Path) -> None:
    """The configuration's server goes before one of the same name that a session brings."""
    pool = ServerPool(str(tmp_path))
    mine = ResolvedServer(name="a", command="x")

    (found,) = pool.get([mine, ResolvedServer(name="a", command="y")])

    assert pool.get([mine]) == [found]
    many = [ResolvedServer(name=str(n), command="x") for n in range(100)]
    assert len(pool.get(many)) == 63
