"""The launcher, as the program that it is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.agents import launcher

LAUNCHER = [sys.executable, "-I", "-S", launcher.__file__]
REPORT = "import os; print(os.getpid() == os.getsid(0) == os.getpgid(0), os.getcwd())"

pytestmark = pytest.mark.integration


def launch(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*LAUNCHER, *argv], capture_output=True, text=True, timeout=20)


def test_the_command_leads_its_own_session(tmp_path: Path) -> None:
    """The launcher becomes the command, in a session and a process group of its own."""
    done = subprocess.run(
        [*LAUNCHER, "--parent", str(os.getpid()), "--", sys.executable, "-c", REPORT],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=20,
    )

    assert done.stdout == f"True {tmp_path}\n"
    assert (done.returncode, done.stderr) == (0, "")


def test_the_exit_status_is_the_commands() -> None:
    """What the command ends with is what the launcher ends with."""
    assert launch("--", "sh", "-c", "exit 7").returncode == 7


def test_a_missing_command_is_named() -> None:
    """A command that is not there is 127, one that can not be run 126, each with a line."""
    missing = launch("--", "no-such-command")
    assert (missing.returncode, missing.stderr) == (127, "no such command: no-such-command\n")
    refused = launch("--", "/")
    assert (refused.returncode, refused.stderr) == (126, "can not run /: Permission denied\n")


@pytest.mark.parametrize("argv", [[], ["--"], ["sh", "-c", "exit 0"]])
def test_a_command_is_wanted(argv: list[str]) -> None:
    """Without a command after -- the launcher says how it is used."""
    done = launch(*argv)

    assert done.returncode == 2
    assert done.stderr.startswith("usage:")


def test_nothing_is_run_for_a_parent_that_is_gone() -> None:
    """If its parent has died in between, the launcher ends."""
    assert launch("--parent", "1", "--", "sh", "-c", "echo ran").stdout == ""


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_the_command_dies_with_its_parent() -> None:
    """When the process that launched it is killed, the agent does not live on."""
    script = (
        "import subprocess, sys, os\n"
        f"p = subprocess.Popen({LAUNCHER!r} + ['--parent', str(os.getpid()), '--', 'sleep', '60'],"
        " stdout=sys.stdout)\n"
        "print('started', flush=True)\n"
        "p.wait()\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"started\n"
        # The end of the pipe is the end of the last process that has it open.
        parent.send_signal(signal.SIGKILL)

        assert parent.stdout.read() == b""
