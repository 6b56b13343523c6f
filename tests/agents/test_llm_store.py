"""Conversations that survive the model worker. Needs the extra llm, no model."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

pytest.importorskip("pydantic_ai")
pytest.importorskip("openai")

from gateway.agents.workers.conversation import Conversation
from gateway.agents.workers.store import MAX_FILES, ConversationStore, UnknownConversation
from tests.agents.llm_client import Client, Model, call, talk
from tests.agents.test_llm_tools import returns

pytestmark = pytest.mark.model


def test_a_conversation_survives_the_worker(tmp_path: Path) -> Deferred[None]:
    """A new process goes on with a session, its tool calls and its summary included."""
    first = Model("done", steps=[[call("list")]])
    second = Model("again")
    spec: dict[str, Any] = {"workspace": str(tmp_path), "state_dir": str(tmp_path / "state")}
    opened: list[str] = []

    async def before(client: Client) -> None:
        hello = (await client.ask("initialize", {"protocolVersion": 1}))["result"]
        assert hello["agentCapabilities"]["loadSession"] is True
        assert hello["agentCapabilities"]["sessionCapabilities"] == {"close": {}, "resume": {}}
        session_id = await client.open(history=[{"role": "summary", "text": "cats"}])
        await client.answer(client.prompt(session_id, "list it"))
        opened.append(session_id)

    async def after(client: Client) -> None:
        params = {"sessionId": opened[0], "cwd": "/", "mcpServers": []}
        assert (await client.ask("session/load", params))["result"] == {}
        assert (await client.ask("session/close", params))["result"] == {}
        assert "error" in await client.answer(client.prompt(opened[0], "closed"))
        assert (await client.ask("session/resume", params))["result"] == {}
        await client.answer(client.prompt(opened[0], "and now?"))
        assert returns(second) == [("success", "[empty]")]
        texts = [text for _, text in second.texts()]
        assert "cats" in texts[0]
        assert texts[-1] == "and now?"
        (path,) = (tmp_path / "state" / "agents" / "main" / "sessions").iterdir()
        assert path.stat().st_mode & 0o777 == 0o600

    return talk(first, before, **spec).addCallback(lambda _: talk(second, after, **spec))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"version": 2}', '{"version": 1, "turns": [[7]]}']
)
def test_a_broken_file_is_an_unknown_session(tmp_path: Path, text: str) -> Deferred[None]:
    """A session that can not be read is refused, so that another one is opened."""
    folder = tmp_path / "agents" / "main" / "sessions"
    folder.mkdir(parents=True)
    (folder / f"{'0' * 32}.json").write_text(text)

    async def scenario(client: Client) -> None:
        for session_id in ("0" * 32, "1" * 32, "../../x"):
            answer = await client.ask("session/load", {"sessionId": session_id})
            assert answer["error"]["code"] == -32002

    return talk(Model("x"), scenario, state_dir=str(tmp_path))


def test_a_session_is_forgotten_when_told(tmp_path: Path) -> Deferred[None]:
    """A deleted session leaves nothing in the memory nor on the disk; not in the middle of a turn."""
    wait = asyncio.Event()

    async def scenario(client: Client) -> None:
        session_id = await client.open()
        id_ = client.prompt(session_id, "x")
        while not client.chunks():
            await asyncio.sleep(0)
        for method in ("_gateway/forget", "session/close"):
            assert "error" in await client.ask(method, {"sessionId": session_id})
        wait.set()
        await client.answer(id_)
        folder = tmp_path / "agents" / "main" / "sessions"
        assert len(list(folder.iterdir())) == 1

        assert (await client.ask("_gateway/forget", {"sessionId": session_id}))["result"] == {}
        assert list(folder.iterdir()) == []
        answer = await client.answer(client.prompt(session_id, "x"))
        assert answer["error"]["code"] == -32002

    return talk(Model("a", wait), scenario, state_dir=str(tmp_path))


def test_the_number_of_files_is_bounded(tmp_path: Path) -> None:
    """The conversation that was written longest ago goes first."""
    store = ConversationStore(tmp_path)
    now = time.time()
    for number in range(MAX_FILES + 1):
        path = tmp_path / f"{number:032x}.json"
        path.write_text("{}")
        os.utime(path, (now - 9000 + number, now - 9000 + number))

    store.save(Conversation("f" * 32))

    names = {path.stem for path in tmp_path.iterdir()}
    assert len(names) == MAX_FILES
    assert "f" * 32 in names
    assert f"{1:032x}" not in names
    assert json.loads((tmp_path / f"{'f' * 32}.json").read_text())["turns"] == []
    assert store.load("f" * 32).messages() == []

    for path in tmp_path.iterdir():
        os.utime(path, (now - 91 * 86_400, now - 91 * 86_400))
    store.save(Conversation("e" * 32))
    assert [path.stem for path in tmp_path.iterdir()] == ["e" * 32]


def test_a_conversation_that_is_too_large_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file over the bound is removed instead of written."""
    store = ConversationStore(tmp_path)
    store.save(Conversation("a" * 32))
    monkeypatch.setattr("gateway.agents.workers.store.MAX_FILE_BYTES", 10)

    with pytest.raises(UnknownConversation, match="too large"):
        store.load("a" * 32)
    store.save(Conversation("a" * 32))
    with pytest.raises(UnknownConversation, match="no such"):
        store.load("a" * 32)
