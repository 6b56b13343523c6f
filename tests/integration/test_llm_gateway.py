"""An llm agent behind a real gateway, with a provider that says what the test wants."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as installed_reactor
from twisted.internet.threads import deferToThread

from gateway.client import Outcome
from tests.agents.fake_provider import Behaviour, FakeProvider
from tests.integration.daemon import Daemon, Watched, soon, waited

for library in ("pydantic_ai", "openai"):
    pytest.importorskip(library)

pytestmark = [pytest.mark.model, pytest.mark.integration]

reactor: Any = installed_reactor
WORKER = b"gateway.agents.workers.llm"
CONFIG = """
[agents.main]
backend = "llm"
shell = "allow"
model = "openai-chat:first"
fallbacks = ["openai-chat:second"]
base_url = "{url}"
"""


@pytest_twisted.ensureDeferred
async def test_a_conversation_from_end_to_end(tmp_path: Path) -> None:
    """Compaction by hand, a killed worker, another model, a steered message and a reset, seen by a client."""
    provider = FakeProvider(Behaviour(words=("fine",)))
    await waited(provider.__aenter__())
    config = tmp_path / "gateway.toml"
    config.write_text(CONFIG.format(url=provider.url))
    daemon = await deferToThread(Daemon, tmp_path, "--config", config)
    try:
        watched = Watched(await daemon.connect(reactor, protocol=4))
        await converse(daemon, watched, provider)
        await watched.client.close()
        await deferToThread(daemon.stop)
    finally:
        if daemon.process.poll() is None:
            daemon.kill()
        await waited(provider.__aexit__())


async def converse(daemon: Daemon, watched: Watched, provider: FakeProvider) -> None:
    client = watched.client

    async def say(text: str) -> list[tuple[str, str]]:
        ended = await client.chat(text, "s").result()
        assert ended.outcome is Outcome.FINAL, ended
        return provider.texts()

    for number in range(3):
        await say(f"question {number} " + "blah " * 50)
    provider.special = ("You shorten conversations", Behaviour(words=("the summary",)))
    done = await client.call("sessions.compact", {"key": "s"})
    assert (done["compacted"], done["result"]["summary"]) == (True, "the summary")
    history = (await client.call("chat.history", {"sessionKey": "s"}))["messages"]
    assert [each["role"] for each in history] == ["user", "assistant"] * 3 + ["system"]

    os.kill(worker(daemon), signal.SIGKILL)
    await soon(reactor, lambda: daemon.lines("process ended"))
    said = await say("go on")
    assert said[0][1].endswith("the summary")
    assert [text[:10] for _, text in said[1:]] == ["question 2", "fine", "go on"]

    for model, answers in (("openai-chat/second", "second"), ("openai-chat/gone", "first")):
        await client.call("sessions.patch", {"key": "s", "model": model})
        await say("who?")
        assert provider.requests[-1]["model"] == answers
    notices = [each for each in watched.payloads("agent") if each["stream"] == "notice"]
    assert [each["data"]["kind"] for each in notices] == ["model"]

    shell = json.dumps({"command": "touch begun; while [ ! -e go ]; do sleep 0.02; done"})
    provider.script = [Behaviour(tool=("shell", shell)), Behaviour(words=("done",))]
    run = client.chat("work", "s")
    workspace = daemon.state / "workspace" / "main"
    await soon(reactor, (workspace / "begun").exists)
    more = {"sessionKey": "s", "message": "rather so", "idempotencyKey": "m", "queueMode": "steer"}
    await client.call("chat.send", more)
    await soon(reactor, lambda: watched.chat("m", "final"))
    (workspace / "go").touch()
    assert (await run.result()).text == "done"
    assert provider.texts()[-1] == ("user", "rather so")
    assert watched.chat("m", "final")[0]["stopReason"] == "steered"

    await client.call("sessions.reset", {"key": "s"})
    assert await say("who am I?") == [("user", "who am I?")]
    files = daemon.state / "agents" / "main" / "sessions"
    await soon(reactor, lambda: len(list(files.glob("*.json"))) == 1)


def worker(daemon: Daemon) -> int:
    """Return the process id of the agent's worker."""
    mark = daemon.world.mark.encode()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if words[2:4] == [b"-m", WORKER] and mark in (entry / "environ").read_bytes():
                return int(entry.name)
        except OSError:
            continue
    raise AssertionError("there is no worker")
