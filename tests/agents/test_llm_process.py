"""The model worker as a process of its own, with a provider that says what the test wants."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("pydantic_ai")
pytest.importorskip("openai")

from gateway.agents.llm import WORKER_ARGV, import_path
from gateway.agents.llmspec import (
    SECRETS_VARIABLE,
    SPEC_VARIABLE,
    ModelSpec,
    WorkerSecrets,
    WorkerSpec,
)

pytestmark = pytest.mark.model

KEY = "sk-a-secret-key"


class Provider(ThreadingHTTPServer):
    """An API in OpenAI's shape: each request is answered by the next of ``answers``."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[dict[str, Any]] = []
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []

    def __enter__(self) -> Provider:
        serve = {"poll_interval": 0.02}
        self.thread = threading.Thread(target=self.serve_forever, kwargs=serve)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.thread.join()
        self.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    """One chunk with the whole delta, one with the usage."""

    server: Provider

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.requests.append(json.loads(body))
        self.server.keys.append(self.headers["authorization"])
        delta = self.server.answers.pop(0)
        reason = "tool_calls" if "tool_calls" in delta else "stop"
        usage = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        for choices, extra in (
            ([{"index": 0, "delta": delta, "finish_reason": None}], {}),
            ([{"index": 0, "delta": {}, "finish_reason": reason}], {"usage": usage}),
        ):
            chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "small"}
            data = json.dumps(chunk | {"choices": choices} | extra)
            self.wfile.write(f"data: {data}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as server:
        yield server


class Worker:
    """A worker, asked line by line."""

    def __init__(self, spec: WorkerSpec, cwd: Path) -> None:
        env = dict(os.environ) | import_path()
        env[SPEC_VARIABLE] = msgspec.json.encode(spec).decode()
        env[SECRETS_VARIABLE] = msgspec.json.encode(WorkerSecrets(models=((KEY,),))).decode()
        self.process = subprocess.Popen(
            WORKER_ARGV, env=env, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.told: list[dict[str, Any]] = []

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a request; return its answer, and keep what came before it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            answer: dict[str, Any] = json.loads(line)
            if answer.get("id") == 1:
                return answer
            self.told.append(answer)
        pytest.fail("the worker has ended")

    def prompt(self, session_id: str, text: str) -> dict[str, Any]:
        return self.ask(
            "session/prompt", sessionId=session_id, prompt=[{"type": "text", "text": text}]
        )

    def end(self) -> int:
        """Close its input; return its exit status."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        status = self.process.wait(20)
        self.process.stdout.close()
        return status

    def kill(self) -> None:
        self.process.kill()
        self.end()


def test_a_worker_runs_tools_and_goes_on_after_a_crash(provider: Provider, tmp_path: Path) -> None:
    """A command sees no key, another worker goes on with the conversation, and an end of input ends it."""
    look = "(env; tr '\\0' '\\n' < /proc/$PPID/environ) | grep -c -e sk-a-secret"
    command = {"command": f"echo printed; {look}"}
    function = {"name": "shell", "arguments": json.dumps(command)}
    called = {"index": 0, "id": "c1", "type": "function", "function": function}
    provider.answers = [{"tool_calls": [called]}, {"content": "none"}, {"content": "still here"}]
    spec = WorkerSpec(
        models=(ModelSpec(model="openai-chat:small", base_url=provider.url),),
        state_dir=str(tmp_path / "state"),
        workspace=str(tmp_path),
        shell="allow",
    )
    worker = Worker(spec, tmp_path)
    session_id = worker.ask("session/new", cwd="/", mcpServers=[])["result"]["sessionId"]

    answer = worker.prompt(session_id, "look")["result"]

    worker.kill()
    (result,) = [m for m in provider.requests[1]["messages"] if m["role"] == "tool"]
    assert result["content"] == "exit status 1\nprinted\n0\n"
    assert provider.keys == [f"Bearer {KEY}"] * 2
    usage = answer["_meta"]["gateway"]["usage"]
    assert (usage["inputTokens"], usage["outputTokens"], usage["contextTokens"]) == (20, 4, 12)

    worker = Worker(spec, tmp_path)
    worker.ask("session/load", sessionId=session_id, cwd="/", mcpServers=[])
    answer = worker.prompt(session_id, "and now?")["result"]
    assert answer["stopReason"] == "end_turn"
    roles = [message["role"] for message in provider.requests[2]["messages"]]
    assert roles == ["user", "assistant", "tool", "assistant", "user"]
    assert worker.end() == 0


def test_too_little_memory_is_one_line(tmp_path: Path) -> None:
    """A worker whose libraries do not fit into its limit says which key to raise, without a traceback."""
    few = 1 << 26

    done = subprocess.run(
        [sys.executable, *WORKER_ARGV[1:]],
        env={**os.environ, **import_path()},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (few, few)),
    )

    assert done.returncode == 1
    assert "raise it" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "the gateway starts this program"),
        ('{"models": [{"model": "nobody:x"}]}', "the model can not be made"),
    ],
)
def test_a_worker_that_can_not_start_says_why(tmp_path: Path, value: str | None, text: str) -> None:
    """Without a specification, or with a model that nobody has, it ends with one line."""
    env = {**os.environ, **import_path()} | ({} if value is None else {SPEC_VARIABLE: value})

    done = subprocess.run(
        [sys.executable, *WORKER_ARGV[1:]], env=env, cwd=tmp_path, capture_output=True, text=True
    )

    assert done.returncode == 1
    assert done.stdout == ""
    assert text in done.stderr.splitlines()[-1]
