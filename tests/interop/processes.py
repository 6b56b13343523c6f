"""Start programs in sessions of their own, and end them with everything that they started."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Finished:
    """What a command left behind when it ended."""

    status: int
    stdout: str
    stderr: str

    def __str__(self) -> str:
        return f"exit status {self.status}\n--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Poll ``condition`` until it holds or the time is up; return whether it held."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


class Program:
    """A program that goes on until it is stopped; what it prints is kept in a file."""

    def __init__(self, argv: list[str], environment: Mapping[str, str], cwd: Path) -> None:
        self._output = cwd / f"program-{len(list(cwd.glob('program-*')))}.output"
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                argv,
                env=dict(environment),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def printed(self) -> str:
        """Return what it has printed so far."""
        return self._output.read_text(encoding="utf-8", errors="replace")

    def stop(self) -> None:
        """End it and everything that it started."""
        stop(self.process, 5.0)


def run(argv: list[str], environment: Mapping[str, str], cwd: Path, seconds: float) -> Finished:
    """Run a command to its end; raise :class:`TimeoutError` with its output if it takes longer."""
    process = subprocess.Popen(
        argv,
        env=dict(environment),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        kill_tree(process.pid)
        stdout, stderr = process.communicate()
        late = Finished(process.wait(), stdout, stderr)
        raise TimeoutError(f"{' '.join(argv)} took more than {seconds} s\n{late}") from None
    finally:
        kill_tree(process.pid)
    return Finished(process.returncode, stdout, stderr)


def stop(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Ask a program to end, end its whole tree in any case; return whether it obeyed in time."""
    started = descendants(process.pid)
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(timeout=seconds)
        obeyed = True
    except subprocess.TimeoutExpired:
        obeyed = False
    kill_tree(process.pid, started)
    process.wait()
    return obeyed


def kill_tree(pid: int, also: Iterable[int] = ()) -> None:
    """Kill a process that leads a session, its session, its descendants, and ``also``."""
    doomed = {*also, *descendants(pid), *session_members(pid)}
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    for other in doomed:
        with suppress(ProcessLookupError):
            os.kill(other, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """Return the process ids below ``pid``, nearest first; on systems without /proc, none."""
    children: dict[int, list[int]] = {}
    for child, parent, _ in _process_table():
        children.setdefault(parent, []).append(child)
    found = list(children.get(pid, ()))
    for one in found:
        found.extend(children.get(one, ()))
    return found


def session_members(pid: int) -> list[int]:
    """Return the processes of the session that ``pid`` leads, orphans included."""
    return [member for member, _, session in _process_table() if session == pid]


def _process_table() -> list[tuple[int, int, int]]:
    """Return (process, parent, session) of every process that can be seen."""
    rows = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            # The second field is the program's name in brackets and may hold anything.
            fields = (place / "stat").read_text(errors="replace").rpartition(")")[2].split()
            rows.append((int(place.name), int(fields[1]), int(fields[3])))
    return rows
