"""The ACP backend with real processes: turns, deaths, and that nothing stays behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import LogEvent, globalLogPublisher

from gateway.agents import acp_turn
from gateway.agents.acp import AcpConfig, AcpFactory
from gateway.errors import BackendError, BackendErrorKind
from gateway.model import Message, RunResult
from gateway.runtime import SystemClock
from tests.agents import fake_acp_agent
from tests.agents.fakes import RecordingSink, make_environment, run_request

pytestmark = pytest.mark.integration

Backends = Callable[..., Any]


@pytest.fixture
def serving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Backends:
    """Give a context in which a backend runs the fake agent; afterwards it is stopped."""
    monkeypatch.setenv("GATEWAY_TOKEN", "a secret of the gateway")

    @asynccontextmanager
    async def serve(*options: str, **settings: Any) -> AsyncIterator[Any]:
        command = [sys.executable, fake_acp_agent.__file__, *options]
        environment = make_environment(tmp_path, SystemClock(reactor), reactor)
        config = AcpConfig(command=command, env={"MODE": "test"}, **settings)
        backend: Any = AcpFactory().make(config, environment)
        backend.startService()
        try:
            yield backend
        finally:
            await backend.stopService()

    return serve


async def said(backend: Any, text: str, **changes: Any) -> str:
    """Run a turn to its end; return what was said."""
    sink = RecordingSink()
    result = await backend.start(run_request(text, **changes), sink)
    assert isinstance(result, RunResult)
    return sink.said


async def until(condition: Callable[[], bool], within_s: float) -> None:
    """Wait until something holds that nobody tells of (a process that is no child of ours is gone)."""
    deadline = reactor.seconds() + within_s
    while not condition():
        assert reactor.seconds() < deadline
        await deferLater(reactor, 0.01)


def begin(backend: Any, text: str) -> tuple[Deferred[RunResult], Deferred[None]]:
    """Start a run; return it, and a Deferred that fires when it has said something."""
    sink = RecordingSink()
    heard: Deferred[None] = Deferred()
    sink.on_text = lambda delta: None if heard.called else heard.callback(None)
    return backend.start(run_request(text), sink), heard


def gone(pid: int) -> bool:
    """Whether a process is no more, or a zombie that only its parent can remove."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest_twisted.ensureDeferred
async def test_turns_of_a_real_process(serving: Backends) -> None:
    """Turns stream, sessions keep their history, and the process is gone when the backend stops."""
    async with serving() as backend:
        assert await said(backend, "hello real world") == "hello real world "
        assert backend.ready()
        pid = int(await said(backend, "/pid"))
        assert not gone(pid)

    assert gone(pid)
    assert not backend.ready()


@pytest_twisted.ensureDeferred
async def test_a_process_sees_a_clean_environment(serving: Backends) -> None:
    """Of the gateway's environment an agent sees the allow-list and what is configured."""
    async with serving() as backend:
        names = (await said(backend, "/env")).split()

    assert "PATH" in names
    assert "MODE" in names
    assert "GATEWAY_TOKEN" not in names


@pytest_twisted.ensureDeferred
async def test_history_reaches_a_fresh_session(serving: Backends) -> None:
    """The transcript goes to the agent when it opens the session."""
    before = Message(message_id="m", role="user", content="earlier", timestamp_ms=0)
    async with serving() as backend:
        sink = RecordingSink((before,))
        await backend.start(run_request("/history"), sink)

    assert sink.said == '[{"role": "user", "text": "earlier"}]'


@pytest_twisted.ensureDeferred
async def test_abort_in_the_middle(serving: Backends) -> None:
    """An abort ends the run at once; the same session and process answer the next one."""
    async with serving() as backend:
        pid = await said(backend, "/pid")
        run, heard = begin(backend, "/hang")
        await heard
        run.cancel()
        with pytest.raises(CancelledError):
            await run
        assert await said(backend, "/pid") == pid


@pytest_twisted.ensureDeferred
async def test_kill_in_the_middle(serving: Backends) -> None:
    """A process killed from outside fails its run within 2 s by name, and the next run finds another."""
    async with serving() as backend:
        pid = int(await said(backend, "/pid"))
        run, heard = begin(backend, "/hang")
        await heard
        began = reactor.seconds()
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(BackendError, match=r"signal 9 \(SIGKILL\)"):
            await run
        assert reactor.seconds() - began < 2
        assert int(await said(backend, "/pid")) != pid


@pytest_twisted.ensureDeferred
async def test_a_killed_launcher_fails_its_runs_and_leaves_nothing(serving: Backends) -> None:
    """The agent dies with its launcher, what it has started is found and killed, the next run is served."""
    async with serving() as backend:
        child = int(await said(backend, "/child"))
        run, heard = begin(backend, "/hang")
        await heard
        told = backend.describe_worker("run-1")
        began = reactor.seconds()
        os.kill(told["launcherPid"], signal.SIGKILL)
        with pytest.raises(BackendError, match=r"signal 9 \(SIGKILL\)"):
            await run
        assert reactor.seconds() - began < 2
        assert gone(told["pid"])
        assert gone(child)
        assert int(await said(backend, "/pid")) != told["pid"]


@pytest_twisted.ensureDeferred
async def test_a_silent_process_is_replaced(serving: Backends) -> None:
    """A process that is silent for too long is killed, and its run ends with a timeout."""
    async with serving(hang_timeout_s=0.3) as backend:
        pid = int(await said(backend, "/pid"))
        with pytest.raises(BackendError, match="no sign of life") as caught:
            await said(backend, "/deaf")
        assert caught.value.kind is BackendErrorKind.TIMEOUT
        await until(lambda: gone(pid), 2)
        assert int(await said(backend, "/pid")) != pid


@pytest_twisted.ensureDeferred
async def test_a_second_process_serves_who_comes_while_the_first_is_busy(serving: Backends) -> None:
    """Two processes serve two sessions at once, and the death of the one is not the other's."""
    async with serving(pool=2) as backend:
        first, heard = begin(backend, "/hang")
        await heard
        pid = int(await said(backend, "/pid", session_key="agent:main:other", run_id="run-2"))
        one, two = backend.workers()
        assert two["pid"] == pid != one["pid"]
        os.kill(one["pid"], signal.SIGKILL)
        with pytest.raises(BackendError, match="SIGKILL"):
            await first
        assert await said(backend, "/pid", session_key="agent:main:other") == str(pid)


@pytest_twisted.ensureDeferred
async def test_a_flood_does_not_hold_the_loop(
    serving: Backends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While an agent writes as fast as it can, the loop is free most of the time; an abort ends it."""
    monkeypatch.setattr(acp_turn, "CANCEL_ANSWER_S", 0.1)
    async with serving() as backend:
        run, heard = begin(backend, "/flood")
        await heard
        late = []
        for _ in range(100):
            due = reactor.seconds() + 0.003
            await deferLater(reactor, 0.003)
            late.append(reactor.seconds() - due)
        run.cancel()
        with pytest.raises(CancelledError):
            await run

    assert sorted(late)[90] < 0.05


@pytest_twisted.ensureDeferred
async def test_an_exit_in_the_middle(serving: Backends) -> None:
    """A process that exits fails its run with the exit status."""
    async with serving() as backend:
        with pytest.raises(BackendError, match="exit status 7"):
            await said(backend, "/die 7")


@pytest_twisted.ensureDeferred
async def test_children_of_a_dead_agent_are_killed(serving: Backends) -> None:
    """What an agent has started goes with it, even if it ignores SIGTERM."""
    async with serving() as backend:
        child = int(await said(backend, "/child"))
        assert not gone(child)
        with pytest.raises(BackendError):
            await said(backend, "/kill")
        await until(lambda: gone(child), 2)


@pytest_twisted.ensureDeferred
async def test_a_stubborn_agent_is_gone_when_the_backend_has_stopped(serving: Backends) -> None:
    """An agent that ignores the end of its input and SIGTERM is killed with its children within 5 s."""
    async with serving("--stubborn") as backend:
        pid = int(await said(backend, "/pid"))
        child = int(await said(backend, "/child"))
        began = reactor.seconds()
        await backend.stopService()

        assert 2.9 < reactor.seconds() - began < 5
        assert gone(pid)
        await until(lambda: gone(child), 1)


@pytest_twisted.ensureDeferred
async def test_a_deaf_agent_is_replaced(serving: Backends, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that does not answer a cancelled prompt in its time is killed; the next turn finds another."""
    monkeypatch.setattr(acp_turn, "CANCEL_ANSWER_S", 0.5)
    async with serving() as backend:
        pid = int(await said(backend, "/pid"))
        run, heard = begin(backend, "/deaf")
        await heard
        run.cancel()
        with pytest.raises(CancelledError):
            await run
        await until(lambda: gone(pid), 7)
        assert int(await said(backend, "/pid", session_key="agent:main:other")) != pid


@pytest_twisted.ensureDeferred
async def test_noise_is_no_harm_and_a_line_without_end_is(serving: Backends) -> None:
    """A printed line costs nothing; 16 MiB without a newline cost the process its life."""
    async with serving() as backend:
        assert await said(backend, "/noise hello there") == ""
        with pytest.raises(BackendError, match="a line of more than"):
            await said(backend, "/line")


@pytest_twisted.ensureDeferred
async def test_an_agents_error_is_the_runs(serving: Backends) -> None:
    """A refused prompt fails the run, not the process."""
    async with serving() as backend:
        pid = await said(backend, "/pid")
        with pytest.raises(BackendError, match="it broke"):
            await said(backend, "/error")
        assert await said(backend, "/pid") == pid


@pytest_twisted.ensureDeferred
async def test_standard_error_goes_to_the_log(serving: Backends) -> None:
    """What an agent prints on standard error is logged under its name."""
    lines: list[tuple[str, str]] = []
    heard: Deferred[None] = Deferred()

    def observe(event: LogEvent) -> None:
        if "line" in event:
            lines.append((event["log_namespace"], event["line"]))
            heard.callback(None)

    observer: Any = observe
    globalLogPublisher.addObserver(observer)
    try:
        async with serving() as backend:
            await said(backend, "/print a warning")
            await heard
    finally:
        globalLogPublisher.removeObserver(observer)

    assert lines == [("gateway.agents.main", "a warning")]


@pytest_twisted.ensureDeferred
async def test_stopping_ends_runs_that_go_on(serving: Backends) -> None:
    """A backend that stops in the middle of a run fails it first."""
    async with serving() as backend:
        run, heard = begin(backend, "/hang")
        await heard
        await backend.stopService()
        with pytest.raises(BackendError, match="is stopping"):
            await run


def test_the_builtin_plugins_are_light() -> None:
    """The built-in factories are found as plugins, without reactor, process code or the libraries."""
    script = (
        "import sys\n"
        "from twisted.plugin import getPlugins\n"
        "import gateway.plugins\n"
        "from gateway.interfaces import IAgentBackendFactory\n"
        "print(sorted(f.name for f in getPlugins(IAgentBackendFactory, gateway.plugins)))\n"
        "heavy = ['twisted.internet.reactor', 'twisted.internet.process', 'pydantic_ai', 'openai',\n"
        "         'autobahn', 'sqlalchemy', 'cryptography']\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )

    done = subprocess.run(
        [sys.executable, "-B", "-c", script],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=Path(__file__).parents[2],
    )

    assert done.stdout == "['acp', 'demo', 'llm']\n[]\n", done.stderr


async def calls(backend: Any, *requests: tuple[str, dict[str, Any]]) -> list[Any]:
    """Have the agent ask the gateway one thing after the other; return the answers."""
    lines = [f"{method} {json.dumps(params)}" for method, params in requests]
    answers = await said(backend, "/call " + "\nthen ".join(lines))
    return [json.loads(line) for line in answers.splitlines()]


@pytest_twisted.ensureDeferred
async def test_an_agent_runs_commands(serving: Backends, tmp_path: Path) -> None:
    """A command runs in the workspace with a clean environment; its output and its end are told."""
    line = "pwd; echo err >&2; echo $MODE$GATEWAY_TOKEN.; exit 3"
    async with serving(terminal="allow") as backend:
        _, end, output, _, gone_ = await calls(
            backend,
            ("terminal/create", {"command": line}),
            ("terminal/wait_for_exit", {"terminalId": "$ID"}),
            ("terminal/output", {"terminalId": "$ID"}),
            ("terminal/release", {"terminalId": "$ID"}),
            ("terminal/output", {"terminalId": "$ID"}),
        )

    assert end == {"exitCode": 3, "signal": None}
    workspace = tmp_path / "workspace" / "main"
    assert sorted(output["output"].split()) == sorted([str(workspace), "err", "."])
    assert output["exitStatus"] == end
    assert gone_["code"] == -32002


@pytest_twisted.ensureDeferred
async def test_a_command_ends_with_its_turn(serving: Backends, tmp_path: Path) -> None:
    """A command that goes on when the turn ends is killed, with what it has started."""
    async with serving(terminal="allow") as backend:
        await calls(
            backend,
            ("terminal/create", {"command": "sleep 600 & echo $! $$ > new; mv new pids; wait"}),
            ("terminal/create", {"command": "while [ ! -f pids ]; do sleep 0.01; done"}),
            ("terminal/wait_for_exit", {"terminalId": "$ID"}),
        )
        words = (tmp_path / "workspace" / "main" / "pids").read_text().split()
        assert len(words) == 2
        await until(lambda: all(gone(int(word)) for word in words), 5)


@pytest_twisted.ensureDeferred
async def test_an_agent_reads_and_writes_files(serving: Backends, tmp_path: Path) -> None:
    """Files of the workspace are written and read in threads; others are refused."""
    async with serving() as backend:
        wrote, read, refused = await calls(
            backend,
            ("fs/write_text_file", {"path": "a/b.txt", "content": "hällo\n"}),
            ("fs/read_text_file", {"path": str(tmp_path / "workspace" / "main" / "a" / "b.txt")}),
            ("fs/read_text_file", {"path": "/etc/passwd"}),
        )

    assert (wrote, read) == ({}, {"content": "hällo\n"})
    assert refused["data"] == {"reason": "outside"}


@pytest_twisted.ensureDeferred
async def test_a_session_is_found_again(serving: Backends) -> None:
    """What one process has bound another loads; what it replays is not said again."""
    async with serving("--loads") as backend:
        sink = RecordingSink()
        await backend.start(run_request("hello"), sink)
        (bound,) = sink.bound
    async with serving("--loads") as backend:
        assert await said(backend, "/history", agent_session=bound) == '"loaded"'
