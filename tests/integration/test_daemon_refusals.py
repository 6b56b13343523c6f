"""Starts that fail: one line on stderr that names what is wrong and where, and exit status 1."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gateway.statedir import StateDirectory
from gateway.store.store import SQLStore
from gateway.tap import Options, makeService
from gateway.testing import FakeClock
from tests.integration.daemon import TWISTD, Ended, World, assert_clean

pytestmark = pytest.mark.integration


@dataclass(frozen=True)
class Case:
    """A start that fails with a line that begins so.

    In texts {dir}, {config}, {state} and {port}, which is taken, are filled in.
    """

    line: str
    config: str | None = None
    options: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    """Files that are there before, by their path in the state directory."""
    listen: str = "127.0.0.1:0"
    """GATEWAY_LISTEN."""
    background: bool = False


CASES = {
    "port in use": Case(
        "cannot listen on 127.0.0.1:{port}: address already in use (server.listen)",
        options=("--listen", "127.0.0.1:{port}"),
    ),
    "port in use, in the background": Case(
        "cannot listen on 127.0.0.1:{port}: address already in use (server.listen)",
        options=("--listen", "127.0.0.1:{port}"),
        background=True,
    ),
    "port of the file in use": Case(
        "{config}: cannot listen on tcp:{port}:interface=127.0.0.1: address already in use"
        " (server.listen)",
        config='[server]\nlisten = ["tcp:{port}:interface=127.0.0.1"]',
        listen="",
    ),
    "no address": Case(
        'cannot listen on host.test:1: "host.test" is no IP address, and host names are not looked up'
        " (server.listen)",
        options=("--listen", "host.test:1"),
    ),
    "open door": Case(
        '{config}: 0.0.0.0:0: auth.mode "none" is for loopback addresses only; set a token or listen'
        " on 127.0.0.1 (server.listen)",
        config='[auth]\nmode = "none"',
        options=("--listen", "0.0.0.0:0"),
    ),
    "no configuration file": Case(
        "{dir}/other.toml: No such file or directory", options=("--config", "{dir}/other.toml")
    ),
    "no TOML": Case("{config}: not TOML: ", config="[server"),
    "unknown key": Case(
        '{config}: server.lisen: unknown key (did you mean "listen"?)',
        config='[server]\nlisen = ["127.0.0.1:0"]',
    ),
    "unknown backend": Case(
        '{config}: agents.main.backend: unknown backend "dmeo" (known: acp, demo, llm)',
        config='[agents.main]\nbackend = "dmeo"',
    ),
    "unknown program": Case(
        "{config}: agents.main.command: no such program: no-such-agent",
        config='[agents.main]\nbackend = "acp"\ncommand = ["no-such-agent"]',
    ),
    "agent without a workspace": Case(
        "workspace of agent main: {state}/workspace/main: File exists",
        config='[agents.main]\nbackend = "acp"\ncommand = ["cat"]',
        files={"workspace/main": ""},
    ),
    "no token file": Case(
        "token: file {dir}/secret: No such file or directory",
        options=("--token-file", "{dir}/secret"),
    ),
    "no token file of the configuration": Case(
        "{config}: auth.token: file {dir}/secret: No such file or directory",
        config='[auth]\ntoken = {{ file = "secret" }}',
    ),
    "no password in the environment": Case(
        "{config}: auth.password: environment variable GATEWAY_PASSWORD is not set",
        config='[auth]\nmode = "password"\npassword = {{ env = "GATEWAY_PASSWORD" }}',
    ),
    "corrupt database": Case("database {state}/gateway.db: ", files={"gateway.db": "x" * 4096}),
    "database of another kind": Case(
        "{config}: store.url names postgresql; only sqlite is supported",
        config='[store]\nurl = "postgresql://localhost/gateway"',
    ),
    "state directory is a file": Case(
        "state directory {dir}/plain is not a directory", options=("--state-dir", "{dir}/plain")
    ),
    "state directory of nobody": Case(
        "state directory ~no-such-user/x: Could not determine home directory.",
        options=("--state-dir", "~no-such-user/x"),
    ),
}


REAL = (
    "port in use",
    "port in use, in the background",
    "open door",
    "unknown key",
    "agent without a workspace",
    "corrupt database",
)
"""What is tried with a process of its own; all else is told by the same lines of code."""


class Prepared:
    """One case, its files written."""

    def __init__(self, case: Case, directory: Path, port: int) -> None:
        self.state = directory / "xdg" / "gateway"
        config = directory / "gateway.toml"
        self._filled = {"dir": directory, "config": config, "state": self.state, "port": port}
        self.line = f"gateway: {self._fill(case.line)}"
        self.options = [self._fill(option) for option in case.options]
        self.world = World(directory, GATEWAY_LISTEN=case.listen)
        (directory / "plain").touch()
        for name, text in case.files.items():
            (self.state / name).parent.mkdir(parents=True, exist_ok=True)
            (self.state / name).write_text(text)
        if case.config is not None:
            config.write_text(self._fill(case.config))
            self.options += ["--config", str(config)]

    def _fill(self, text: str) -> str:
        return text.format(**self._filled)


class Failed(Prepared):
    """One case, carried out by a real process."""

    def __init__(self, case: Case, directory: Path, port: int) -> None:
        super().__init__(case, directory, port)
        self.pidfile = directory / "pid"
        before = ["--logfile", str(directory / "log")] if case.background else ["-n"]
        self.ended: Ended = self.world.run(
            TWISTD, *before, "--pidfile", self.pidfile, "gateway", *self.options
        )


@pytest.fixture(scope="module")
def taken() -> Iterator[int]:
    """A port that another program listens on."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


@pytest.fixture(scope="module")
def failures(
    taken: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Failed]]]:
    """The cases with processes, each in a directory of its own, several at a time."""
    with ThreadPoolExecutor(4) as pool:
        yield {
            name: pool.submit(Failed, CASES[name], tmp_path_factory.mktemp("refused"), taken)
            for name in REAL
        }


@pytest.mark.parametrize("name", REAL)
def test_refusals(failures: dict[str, Future[Failed]], name: str) -> None:
    """A start that fails is one line on stderr, exit status 1, no pidfile and no process."""
    failed = failures[name].result()
    status, stdout, stderr = failed.ended

    assert stderr.startswith(failed.line), stderr
    assert stderr.endswith("\n")
    assert stderr.count("\n") == 1
    assert status == 1
    assert_clean(stdout, failed.state)
    assert failed.world.processes() == []
    if name != "agent without a workspace":  # found last, when twistd has written its pidfile
        assert not failed.pidfile.exists()


@pytest.mark.parametrize("name", [name for name in CASES if name not in REAL])
def test_lines(tmp_path: Path, taken: int, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A service that can't be made says in one line why, with the key and the file."""
    prepared = Prepared(CASES[name], tmp_path, taken)
    for variable in ("HOME", "XDG_STATE_HOME", "GATEWAY_LISTEN"):
        monkeypatch.setenv(variable, prepared.world.environ[variable])
    for variable in ("GATEWAY_CONFIG", "GATEWAY_STATE_DIR", "GATEWAY_TOKEN", "GATEWAY_PASSWORD"):
        monkeypatch.delenv(variable, raising=False)
    options: Any = Options()
    options.parseOptions(prepared.options)
    options.parent = {"nodaemon": True}

    with pytest.raises(SystemExit) as caught:
        makeService(options)

    assert str(caught.value.code).startswith(prepared.line)
    assert "\n" not in str(caught.value.code)


def test_read_only_database(tmp_path: Path) -> None:
    """A database that can not be written is refused at the start, not at the first message."""
    database = tmp_path / "database" / "gateway.db"
    StateDirectory(database.parent).ensure()
    store = SQLStore(f"sqlite:///{database}", clock=FakeClock(), call_from_thread=print)
    store.open()
    config = tmp_path / "gateway.toml"
    config.write_text(f'[store]\nurl = "sqlite:///{database}"')
    world = World(tmp_path, GATEWAY_CONFIG=str(config), GATEWAY_LISTEN="127.0.0.1:0")

    status, _, stderr = world.run(*read_only(database.parent), TWISTD, "-n", "gateway")

    assert stderr.startswith(f"gateway: {config}: database {database}: "), stderr
    assert stderr.count("\n") == 1
    assert status == 1


def read_only(directory: Path) -> list[str]:
    """Return how to run a command for which a directory is read-only; skip where that can't be done."""
    if os.geteuid() != 0:
        for path in [*directory.iterdir(), directory]:
            path.chmod(0o500 if path.is_dir() else 0o400)
        return []
    script = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'
    prefix = ["unshare", "--mount", "sh", "-c", script, "sh", str(directory)]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*prefix, "true"], capture_output=True).returncode
    ):
        pytest.skip("root writes to every file, and here it may not mount one read-only")
    return prefix
