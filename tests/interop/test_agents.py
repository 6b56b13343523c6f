"""Agent programs that others wrote, behind a real gateway: OpenCode, and the example of the Python SDK."""

from __future__ import annotations

import json
import os
import platform
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as installed_reactor
from twisted.internet.task import deferLater

from gateway.client import Outcome
from tests.integration.daemon import Daemon, Watched, running, soon

from .install import InstallError, install_acp_example, install_opencode

pytestmark = [pytest.mark.interop, pytest.mark.timeout(180)]
reactor: Any = installed_reactor

CONFIG = """
[agents.main]
backend = "demo"

[agents.code]
backend = "acp"
command = [{opencode}, "acp"]
cwd = "work"
env = {{ XDG_DATA_HOME = "data" }}

[agents.example]
backend = "acp"
command = [{python}, {example}]
"""
NOTE = "note.txt"
WRITTEN = "written by the agent\n"


class Provider(BaseHTTPRequestHandler):
    """An OpenAI-compatible API whose model writes a file if it is asked to, else counts what it was told."""

    def do_POST(self) -> None:
        """Answer a chat completion, as a stream."""
        size = int(self.headers["content-length"])
        asked = json.loads(self.rfile.read(size))
        said = [message for message in asked["messages"] if message["role"] in ("user", "tool")]
        last = said[-1]
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        if last["role"] == "user" and "write a note" in _text(last) and asked.get("tools"):
            cwd = self.server.cwd  # type: ignore[attr-defined]
            arguments = json.dumps({"filePath": f"{cwd}/{NOTE}", "content": WRITTEN})
            call = {"name": "write", "arguments": arguments}
            delta = {"tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": call}]}
            self._chunk(delta, "tool_calls")
        else:
            users = [_text(message) for message in said if message["role"] == "user"]
            self._chunk({"role": "assistant", "content": f"I was told {len(users)} things. "}, None)
            self._chunk({"content": "The end."}, "stop")
        self.wfile.write(b"data: [DONE]\n\n")

    def _chunk(self, delta: dict[str, Any], reason: str | None) -> None:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
        shape = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        chunk = shape | {"choices": [choice]} | ({"usage": usage} if reason else {})
        self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def _text(message: dict[str, Any]) -> str:
    content = message["content"]
    if isinstance(content, str):
        return content
    return " ".join(part.get("text", "") for part in content)


@contextmanager
def provider(cwd: Path) -> Iterator[str]:
    """Serve the API while the context lasts; give its base URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    server.cwd = cwd  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A gateway with both agents; OpenCode's model is the provider here, and it asks before it writes."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        pytest.skip("OpenCode is installed for Linux on x86-64 only")
    try:
        opencode, (python, example) = install_opencode(), install_acp_example()
    except InstallError as error:
        pytest.fail(str(error), pytrace=False)
    directory = tmp_path_factory.mktemp("agents")
    work = directory / "work"
    work.mkdir()
    with provider(work) as url:
        model = {"name": "m", "limit": {"context": 100_000, "output": 1000}}
        local = {"npm": "@ai-sdk/openai-compatible", "options": {"baseURL": url}}
        settings = {
            "provider": {"local": local | {"models": {"m": model}}},
            "model": "local/m",
            "small_model": "local/m",
            "permission": {"edit": "ask"},
        }
        (work / "opencode.json").write_text(json.dumps(settings))
        config = directory / "gateway.toml"
        words = {"opencode": opencode, "python": python, "example": example}
        config.write_text(CONFIG.format(**{k: json.dumps(str(v)) for k, v in words.items()}))
        with running(directory, "--config", config) as daemon:
            yield daemon


@pytest_twisted.ensureDeferred
async def test_the_example_of_the_sdk(daemon: Daemon) -> None:
    """The example agent of the Python SDK is attached by two lines, and answers."""
    client = await daemon.connect(reactor)

    ended = await client.chat("hello", "agent:example:main").result()

    assert ended.outcome is Outcome.FINAL, ended
    assert ended.text == "Client sent:hello"
    await client.close()


@pytest_twisted.ensureDeferred
async def test_opencode_answers_and_remembers_after_its_process_died(daemon: Daemon) -> None:
    """A turn of OpenCode is streamed; after its process was killed the session is loaded again."""
    client = await daemon.connect(reactor)

    first = await client.chat("one", "agent:code:talk").result()
    again = await client.chat("two", "agent:code:talk").result()
    (before,) = await _workers(client, "code")
    os.kill(before["pid"], signal.SIGKILL)
    while (await _workers(client, "code"))[0].get("pid") in (None, before["pid"]):
        await deferLater(reactor, 0.05, lambda: None)
    after = await client.chat("three", "agent:code:talk").result()

    assert [each.outcome for each in (first, again, after)] == [Outcome.FINAL] * 3
    assert first.text == "I was told 1 things. The end."
    assert again.text == "I was told 2 things. The end."
    assert after.text == "I was told 3 things. The end."
    await client.close()


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("decision", ["deny", "allow-once"])
async def test_opencode_asks_before_it_writes(daemon: Daemon, decision: str) -> None:
    """What OpenCode asks is an approval that an operator answers; only then is the file written."""
    note = daemon.world.directory / "work" / NOTE
    note.unlink(missing_ok=True)
    watched = Watched(await daemon.connect(reactor, caps=("approvals", "tool-events")))
    client = watched.client

    run = client.chat("write a note", f"agent:code:{decision}")
    await soon(reactor, lambda: watched.payloads("exec.approval.requested"))
    (asked,) = watched.payloads("exec.approval.requested")
    assert not note.exists()
    await client.call("exec.approval.resolve", {"id": asked["id"], "decision": decision})
    ended = await run.result()

    assert ended.outcome is Outcome.FINAL, ended
    assert note.exists() == (decision == "allow-once")
    tools = [each for each in watched.payloads("agent") if each["stream"] == "tool"]
    assert {each["data"]["phase"] for each in tools} >= {"start", "result"}
    if note.exists():
        assert note.read_text() == WRITTEN
    await client.close()


async def _workers(client: Any, agent_id: str) -> list[dict[str, Any]]:
    """Return what the gateway tells of the processes of an agent."""
    agents = (await client.call("agents.status", {}))["agents"]
    workers: list[dict[str, Any]] = next(
        each["workers"] for each in agents if each["agentId"] == agent_id
    )
    return workers
