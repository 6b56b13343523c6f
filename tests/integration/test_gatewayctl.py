"""gatewayctl against a real gateway, both processes of their own."""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import gateway

pytestmark = pytest.mark.integration

ROOT = Path(gateway.__file__).parent.parent
READY = "gateway ready url="
TIMEOUT_S = 20


def clean_environ(**more: str) -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("GATEWAY_")} | more


class Gateway:
    """``twistd -n gateway`` until it is told to stop."""

    def __init__(self, *args: str, **environ: str) -> None:
        self.lines: queue.Queue[str] = queue.Queue()
        self.printed: list[str] = []
        self.process = subprocess.Popen(
            [Path(sys.executable).parent / "twistd", "-n", "gateway", *args],
            cwd=ROOT,
            env=clean_environ(**environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.url = self.wait_for(READY).partition(READY)[2].strip()
        except BaseException:
            self.stop()
            raise

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put("")

    def wait_for(self, text: str) -> str:
        """Return the next line printed that has a text in it."""
        while True:
            try:
                line = self.lines.get(timeout=TIMEOUT_S)
            except queue.Empty:
                line = ""
            assert line, f"no {text!r} in:\n{''.join(self.printed)}"
            self.printed.append(line)
            if text in line:
                return line

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status


class Ctl:
    """Runs gatewayctl with an environment that says where the gateway is."""

    def __init__(self, **environ: str) -> None:
        self.environ = clean_environ(**environ)

    def __call__(self, *args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "gateway.cli", *args],
            cwd=ROOT,
            env=self.environ,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )

    def start(self, *args: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "gateway.cli", *args],
            cwd=ROOT,
            env=self.environ,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gatewayctl") / "state"


@pytest.fixture(scope="module")
def running(state: Path) -> Iterator[Gateway]:
    running = Gateway("--listen", "127.0.0.1:0", "--state-dir", str(state))
    yield running
    running.stop()


@pytest.fixture
def ctl(running: Gateway, state: Path) -> Ctl:
    return Ctl(GATEWAY_URL=running.url, GATEWAY_STATE_DIR=str(state))


def answer(done: subprocess.CompletedProcess[str]) -> Any:
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_health(ctl):
    """The state directory's token is enough to call a method, and the payload comes out as JSON."""
    assert answer(ctl("call", "health"))["ok"] is True


def test_methods_are_those_that_work(ctl):
    """What is advertised has the methods of a conversation."""
    names = ctl("methods").stdout.splitlines()

    assert {"health", "chat.send", "chat.abort", "chat.history", "agent"} <= set(names)
    assert len(names) == len(set(names))


def test_the_grant_is_whole(ctl):
    """The local command line is granted what it asks for: a method that needs admin answers."""
    text = {"sessionKey": "ctl-inject", "message": "noted"}

    assert ctl("chat", "hello", "--session", "ctl-inject").returncode == 0
    assert answer(ctl("call", "chat.inject", json.dumps(text)))["ok"] is True


@pytest.mark.parametrize("message", ["hello", "two  blanks\tand a tab ", "üñí \N{PILE OF POO}"])
def test_the_demo_agent_says_it_back(ctl, message):
    """The answer of the demo agent arrives as it was said, and its line is ended."""
    done = ctl("chat", message)

    assert (done.returncode, done.stdout, done.stderr) == (0, message + "\n", "")


def test_a_long_answer_is_whole(ctl):
    """A streamed answer of many words has each of them once."""
    done = ctl("chat", "/tokens 50")

    assert done.stdout.split() == [f"word{number}" for number in range(50)]


def test_sessions_are_apart(ctl):
    """A message goes to the session that was named."""
    ctl("chat", "only here", "--session", "ctl-apart")

    here = answer(ctl("call", "chat.history", '{"sessionKey": "ctl-apart"}'))
    there = answer(ctl("call", "chat.history", '{"sessionKey": "ctl-elsewhere"}'))

    assert "only here" in json.dumps(here["messages"])
    assert there["messages"] == []


def test_a_failing_agent(ctl):
    """An agent that fails is told on stderr, with exit status 1."""
    done = ctl("chat", "/error out of ideas", "--session", "ctl-error")

    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "out of ideas" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_lines_of_a_pipe(ctl):
    """Every line of standard input is a message of one conversation."""
    done = ctl("chat", "--session", "ctl-pipe", stdin="one\ntwo\nthree\n")

    assert (done.returncode, done.stdout) == (0, "one\ntwo\nthree\n")


def test_the_final_answer_of_an_agent(ctl):
    """With --expect-final the outcome of an agent's run is printed."""
    params = {"message": "hi there", "sessionKey": "ctl-agent", "idempotencyKey": "ctl-agent-1"}

    outcome = answer(ctl("call", "agent", json.dumps(params), "--expect-final"))

    assert outcome["status"] == "ok"
    assert [payload["text"] for payload in outcome["result"]["payloads"]] == ["hi there"]


def test_an_error_of_the_gateway(ctl):
    """An unknown method is an error on stderr as JSON, with exit status 1."""
    done = ctl("call", "no.such.method")

    assert (done.returncode, done.stdout) == (1, "")
    error = json.loads(done.stderr)
    assert error["code"] == "INVALID_REQUEST"
    assert "no.such.method" in error["message"]
    assert "details" in error


def test_a_wrong_token(ctl):
    """A wrong token is one line with the reason, without the token, and exit status 2."""
    done = ctl("call", "health", "--token", "s3cret-but-wrong")

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "AUTH_TOKEN_MISMATCH" in done.stderr
    assert "s3cret" not in done.stderr


def test_the_token_of_the_state_directory(ctl, state):
    """The token's path, and with --show the token, are those of the gateway's state directory."""
    assert ctl("token").stdout == f"{state / 'token'}\n"
    assert ctl("token", "--show").stdout == (state / "token").read_text()


def test_ctrl_c_stops_the_run(ctl):
    """Ctrl-C ends with 130 and stops the run: its session takes the next message at once."""
    hanging = ctl.start("chat", "/hang", "--session", "ctl-hang")
    session = {"sessionKey": "ctl-hang"}
    while not answer(ctl("call", "chat.history", json.dumps(session)))["messages"]:
        assert hanging.poll() is None
    hanging.send_signal(signal.SIGINT)
    _, stderr = hanging.communicate(timeout=TIMEOUT_S)

    assert (hanging.returncode, stderr) == (130, "")
    assert ctl("chat", "next", "--session", "ctl-hang").stdout == "next\n"


def test_nothing_is_needed_on_the_gateways_host(tmp_path):
    """With the gateway's own configuration in the environment no option is needed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    config = tmp_path / "gateway.toml"
    config.write_text(f'[server]\nlisten = ["127.0.0.1:{port}"]\n')
    environ = {"GATEWAY_CONFIG": str(config), "XDG_STATE_HOME": str(tmp_path / "state")}
    own = Gateway(**environ)

    try:
        done = Ctl(**environ)("chat", "hello")
    finally:
        own.stop()

    assert (done.returncode, done.stdout, done.stderr) == (0, "hello\n", "")


def test_a_gateway_that_stops_during_a_conversation(tmp_path):
    """When the gateway has stopped, the conversation ends in one line, with exit status 2."""
    own = Gateway("--listen", "127.0.0.1:0", "--state-dir", str(tmp_path / "state"))
    ctl = Ctl(GATEWAY_URL=own.url, GATEWAY_STATE_DIR=str(tmp_path / "state"))
    talking = ctl.start("chat", stdin=subprocess.PIPE)
    assert talking.stdin is not None
    assert talking.stdout is not None
    try:
        talking.stdin.write("one\n")
        talking.stdin.flush()
        first = talking.stdout.readline()
    finally:
        own.stop()

    stdout, stderr = talking.communicate("two\n", timeout=TIMEOUT_S)

    assert (talking.returncode, first, stdout) == (2, "one\n", "")
    assert "service restart (1012)" in stderr
    assert stderr.count("\n") == 1


def test_an_approval(ctl):
    """Who watches is shown what a client asks, another answers it, and everybody hears of the answer."""
    watching = ctl.start("approvals", "watch")
    asking = None
    try:
        connected = 0
        while connected < 2:
            connected = len(answer(ctl("connections", "--json"))["connections"])
        asked = json.dumps({"command": "make clean", "agentId": "main", "timeoutMs": 20_000})
        asking = ctl.start("call", "exec.approval.request", asked, "--expect-final")
        shown = [watching.stderr.readline() for _ in range(3)]
        approval_id = shown[0].split()[-1].rstrip(":")
        listed = ctl("approvals")
        decided = ctl("approvals", "approve", approval_id[:8])
        told = watching.stdout.readline()
        stdout, stderr = asking.communicate(timeout=TIMEOUT_S)
    finally:
        for process in filter(None, (watching, asking)):
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=TIMEOUT_S)

    assert shown[1] == "    make clean\n"
    assert listed.stdout.splitlines()[1].endswith("main   make clean")
    assert (decided.returncode, decided.stderr) == (0, "")
    assert told == f"{approval_id} allow-once by cli\n"
    assert (asking.returncode, stderr) == (0, "")
    assert json.loads(stdout)["decision"] == "allow-once"
    assert ctl("approvals").stdout == "Nothing waits for approval.\n"
