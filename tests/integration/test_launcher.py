"""The launcher, as the program that it is, with agents that misbehave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.agents import launcher
from tests.agents import misbehaving

LAUNCHER = [sys.executable, "-I", "-S", launcher.__file__]
REPORT = (
    "import os; print(os.getpid() == os.getpgid(0) != os.getsid(0) == os.getppid(), os.getcwd())"
)
# The agent's interpreter must not need another's time to start: no site, no path hooks.
PYTHON = [sys.executable, "-I", "-S"]

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(sys.platform != "linux", reason="what it promises wants Linux"),
]


class Launched:
    """A launcher under the test: its pipes, what it told, and what is left of its agent."""

    def __init__(self, *argv: str, options: tuple[str, ...] = (), cwd: str | None = None) -> None:
        self.mark = f"TEST_MARK={uuid.uuid4()}"
        name, _, value = self.mark.partition("=")
        ours, theirs = os.pipe()
        self.told = os.fdopen(ours, "rb")
        status = ["--parent", str(os.getpid()), "--status", str(theirs)]
        self.process = subprocess.Popen(
            [*LAUNCHER, *status, *options, "--", *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[theirs],
            env=os.environ | {name: value},
            cwd=cwd,
        )
        os.close(theirs)
        self.pid = int(self.line().split()[1])

    def line(self) -> str:
        return self.told.readline().decode().strip()

    def said(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().strip()

    def end(self, within_s: float = 5) -> tuple[int, list[str]]:
        """Wait for the launcher; return its exit status, and what it told."""
        code = self.process.wait(within_s)
        return code, [line.decode().strip() for line in self.told]

    def left(self) -> list[int]:
        """Return the processes that are left, the launcher included."""
        variable = self.mark.encode()
        return [
            pid
            for pid in launcher.processes()
            if launcher.has_variable(pid, variable) and launcher.parent_of(pid) is not None
        ]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        sweep(self.mark)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr, self.told):
            assert pipe is not None
            pipe.close()


def sweep(mark: str) -> int:
    return subprocess.run([*LAUNCHER, "--sweep", mark], check=False, timeout=20).returncode


@pytest.fixture
def launch() -> Iterator[Any]:
    """Give what starts a launcher; whatever the test leaves is ended."""
    all_of_them: list[Launched] = []

    def start(*argv: str, **options: Any) -> Launched:
        all_of_them.append(Launched(*argv, **options))
        return all_of_them[-1]

    yield start
    for each in all_of_them:
        each.close()


@pytest.fixture
def misbehave(launch: Any) -> Any:
    """Give what starts a program that misbehaves, and waits until it has begun to."""

    def start(name: str, **options: Any) -> Launched:
        launched: Launched = launch(*PYTHON, misbehaving.__file__, name, **options)
        assert launched.said() == "ready"
        return launched

    return start


def test_the_command_leads_a_group_in_the_launchers_session(launch: Any, tmp_path: Path) -> None:
    """What the command sends to its process group does not hit the launcher, its parent."""
    launched = launch(sys.executable, "-c", REPORT, cwd=str(tmp_path))

    assert launched.said() == f"True {tmp_path}"
    assert launched.end() == (0, ["exit 0"])


def test_the_keys_of_the_model_worker_are_forgotten(
    launch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent has the variable, and nobody finds its value in the environment of the launcher."""
    monkeypatch.setenv("GATEWAY_LLM_KEYS", "sk-secret")
    script = "import os; print(os.environ['GATEWAY_LLM_KEYS']); input()"
    launched = launch(*PYTHON, "-c", script)

    assert launched.said() == "sk-secret"

    assert b"sk-secret" not in Path(f"/proc/{launched.process.pid}/environ").read_bytes()


@pytest.mark.parametrize(
    ("script", "told"), [("exit 7", "exit 7"), ("kill -9 $$", "signal 9"), ("kill $$", "signal 15")]
)
def test_the_agents_end_is_told(launch: Any, script: str, told: str) -> None:
    """How the agent ended is told as it was; the launcher's own status says that nothing is left."""
    assert launch("sh", "-c", script).end() == (0, [told])


def test_a_missing_command_is_named(launch: Any) -> None:
    """A command that is not there is 127, one that can not be run 126, each with a line."""
    missing, refused = launch("no-such-command"), launch("/")

    assert missing.end() == (0, ["exit 127"])
    assert missing.process.stderr.read() == b"no such command: no-such-command\n"
    assert refused.end() == (0, ["exit 126"])
    assert refused.process.stderr.read() == b"can not run /: Permission denied\n"


@pytest.mark.parametrize("argv", [[], ["--"], ["sh", "-c", "exit 0"], ["--", "sh"]])
def test_a_command_is_wanted(argv: list[str]) -> None:
    """Without a command after --, or somebody to tell, the launcher says how it is used."""
    done = subprocess.run([*LAUNCHER, *argv], capture_output=True, check=False, timeout=20)

    assert done.returncode == 2
    assert done.stderr.startswith(b"usage:")


def test_nothing_is_run_for_a_parent_that_is_gone() -> None:
    """If its parent has died in between, the launcher ends."""
    argv = [*LAUNCHER, "--parent", "1", "--status", "2", "--", "sh", "-c", "echo ran"]

    assert subprocess.run(argv, capture_output=True, check=False, timeout=20).stdout == b""


@pytest.mark.parametrize("name", ["daemons", "forker", "holder"])
def test_what_an_agent_leaves_is_killed(misbehave: Any, name: str) -> None:
    """Fifty daemons, a process that goes on forking, one that holds the pipes: gone with the agent."""
    launched = misbehave(name)

    assert launched.end() == (0, ["exit 0"])
    assert launched.left() == []
    assert launched.process.stdout.read() == b""


@pytest.mark.parametrize("name", ["deaf", "mute"])
def test_everything_is_killed_at_once_when_that_is_asked(misbehave: Any, name: str) -> None:
    """SIGUSR1 ends an agent that ignores SIGTERM, and one that has closed its output, with its daemons."""
    launched = misbehave(name)
    began = time.monotonic()
    launched.process.send_signal(signal.SIGUSR1)

    assert launched.end() == (0, ["signal 9"])
    assert time.monotonic() - began < 1.9
    assert launched.left() == []


def test_sigterm_is_handed_on(misbehave: Any) -> None:
    """An agent that heeds SIGTERM ends by it; its daemon that does not is killed."""
    launched = misbehave("waiter")
    launched.process.send_signal(signal.SIGTERM)

    assert launched.end() == (0, ["signal 15"])
    assert launched.left() == []


def test_who_ignores_sigterm_has_two_seconds(misbehave: Any) -> None:
    """An agent that does not heed SIGTERM is killed by the launcher alone."""
    launched = misbehave("deaf")
    began = time.monotonic()
    launched.process.send_signal(signal.SIGTERM)

    assert launched.end() == (0, ["signal 9"])
    assert time.monotonic() - began > 1.9
    assert launched.left() == []


def test_the_end_of_the_input_is_seen(misbehave: Any) -> None:
    """The launcher holds no end of the agent's pipes."""
    launched = misbehave("waiter")
    launched.process.stdin.close()

    assert launched.end() == (0, ["exit 0"])


def test_orphans_are_reaped_while_the_agent_lives(misbehave: Any) -> None:
    """Zombies do not gather below the launcher."""
    launched = misbehave("orphans")
    deadline = time.monotonic() + 3
    own = {str(launched.process.pid), str(launched.pid)}
    while True:
        family = [
            stat.split()[0]
            for stat in stats()
            if stat.rpartition(")")[2].split()[1] in own and stat.split()[0] not in own
        ]
        if not family:
            break
        assert time.monotonic() < deadline


def stats() -> Iterator[str]:
    for pid in launcher.processes():
        try:
            yield Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            continue


def test_the_limits_hold(launch: Any) -> None:
    """Open files, core files, niceness and the kernel's order of killing are as was asked."""
    options = ("--files", "64", "--nice", "7")
    launched = launch(*PYTHON, misbehaving.__file__, "limits", options=options)

    assert launched.said() == "(64, 64) (0, 0)"
    assert launched.said() == f"{min(19, os.nice(0) + 7)} 500"
    assert launched.said() == "True Too many open files"


def test_the_memory_is_bounded(launch: Any) -> None:
    """An agent with 256 MiB of address space does not get a GiB."""
    options = ("--memory", str(256 * 1024 * 1024))

    assert launch(*PYTHON, misbehaving.__file__, "hungry", options=options).said() == "refused"


def test_all_is_gone_when_the_gateway_is_killed(tmp_path: Path) -> None:
    """SIGKILL for who launched it ends the agent that ignores SIGTERM, and its daemon."""
    mark = f"TEST_MARK={uuid.uuid4()}"
    script = (
        "import os, subprocess, sys\n"
        "r, w = os.pipe()\n"
        f"argv = {LAUNCHER!r} + ['--parent', str(os.getpid()), '--status', str(w), '--']\n"
        f"subprocess.Popen(argv + {[*PYTHON, misbehaving.__file__, 'deaf']!r}, pass_fds=[w]).wait()\n"
    )
    name, _, value = mark.partition("=")
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, env=os.environ | {name: value}
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        parent.send_signal(signal.SIGKILL)
        # The end of the pipe is the end of the last process that has it open.
        began = time.monotonic()
        assert parent.stdout.read() == b""
        assert time.monotonic() - began < 20


def test_all_is_gone_when_nobody_listens_any_more(misbehave: Any) -> None:
    """A gateway that closes the pipe of the launcher's words is gone, or does not want the agent any more."""
    launched = misbehave("deaf")
    launched.told.close()

    assert launched.process.wait(20) == 0
    assert launched.left() == []


def test_a_killed_launcher_takes_the_agent_along_and_the_rest_is_swept(misbehave: Any) -> None:
    """The agent dies with its launcher; what it had started is found by its environment and killed."""
    launched = misbehave("regicide")

    assert launched.end() == (-signal.SIGKILL, [])
    assert sweep(launched.mark) == 0
    assert launched.left() == []
