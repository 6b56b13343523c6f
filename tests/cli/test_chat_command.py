"""gatewayctl chat: a message, a pipe, a terminal."""

from __future__ import annotations

import io
import os
import pty
import select
import signal
import subprocess
from contextlib import suppress

import pytest

from gateway.cli.chat import show
from gateway.client import Outcome, RunEnded, TextDelta, TextReplaced
from tests.cli.ctl import Ctl, one_line, run_id_of


def test_a_message_is_answered(to_script, script):
    """The answer is printed with one newline after it, nothing else."""
    result = to_script("chat", "hello  big\tworld", "--session", "agent:main:other")

    assert (result.exit_code, result.stdout, result.stderr) == (0, "hello  big\tworld\n", "")
    assert script.params("chat.send")["sessionKey"] == "agent:main:other"


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


END = RunEnded(Outcome.FINAL, "")


@pytest.mark.parametrize(
    ("events", "shown"),
    [
        ([TextDelta("a "), TextDelta("b"), END], "a b\n"),
        ([TextDelta("a\n"), END], "a\n"),
        ([END], ""),
        (
            [TextDelta("first try"), TextReplaced("second"), TextDelta("!"), END],
            "first try\nsecond!\n",
        ),
        ([TextDelta("same "), TextReplaced("same"), END], "same \n"),
        ([TextReplaced("whole"), END], "whole\n"),
    ],
)
def test_an_answer_is_shown_as_it_comes(events, shown):
    """Text is printed once and its line ended; what is rewritten is printed again on its own line."""
    out = io.StringIO()

    assert show(events, out) is None
    assert out.getvalue() == shown


def test_an_answer_can_not_steer_the_terminal():
    """On a terminal control characters of an answer are replaced, in a pipe they are kept."""
    screen, pipe = Screen(), io.StringIO()

    for stream in (screen, pipe):
        show([TextDelta("a\x1b]0;x\x07\tb\n"), END], stream)

    assert screen.getvalue() == "a\ufffd]0;x\ufffd\tb\n"
    assert pipe.getvalue() == "a\x1b]0;x\x07\tb\n"


@pytest.mark.parametrize(
    ("end", "problem"),
    [
        (RunEnded(Outcome.ABORTED, "", stop_reason="timeout"), "aborted (timeout)"),
        (RunEnded(Outcome.ABORTED, ""), "aborted"),
        (RunEnded(Outcome.ERROR, "", error_message="no key"), "no key"),
    ],
)
def test_an_end_that_is_no_success_is_told(end, problem):
    """A run that was aborted or failed is a problem with its reason."""
    assert show([TextDelta("x"), end], io.StringIO()) == problem


@pytest.mark.parametrize(
    ("message", "stdout", "problem"),
    [("/error", "half\n", "401 bad key"), ("/refuse", "", "send blocked (INVALID_REQUEST)")],
)
def test_a_failed_message(to_script, message, stdout, problem):
    """What went wrong is one line on stderr after the text so far, with exit status 1."""
    result = to_script("chat", message)

    assert (result.exit_code, result.stdout) == (1, stdout)
    assert result.stderr == f"gatewayctl: {problem}\n"


def test_a_restart_during_an_answer(to_script):
    """A connection that ends during the answer is one line and exit status 2."""
    assert "service restart" in one_line(to_script("chat", "/restart"))


def test_lines_of_a_pipe_are_messages(to_script, script):
    """Each line of standard input is a message, blank ones aside; a failure does not stop the rest."""
    result = to_script("chat", stdin="one\n\n/error\ntwo\n")

    assert result.exit_code == 1
    assert result.stdout == "one\nhalf\ntwo\n"
    assert result.stderr == "gatewayctl: 401 bad key\n"
    assert script.methods == ["chat.send"] * 3


def test_ctrl_c_stops_a_pipe(ctl, url, script):
    """Ctrl-C aborts the run of a line as well, and ends with 130."""
    process = ctl.process("chat", "--url", url, stdin=subprocess.PIPE)
    process.stdin.write(b"/hang\n")
    process.stdin.flush()
    process.stdout.read(len("working "))

    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=20)

    assert (process.returncode, stderr) == (130, b"")
    assert script.methods == ["chat.send", "chat.abort"]


def test_an_empty_pipe_is_no_conversation(to_script, script):
    """Without a line nothing is sent, and that is no error."""
    result = to_script("chat", stdin="")

    assert (result.exit_code, result.stdout) == (0, "")
    assert script.methods == []


def test_ctrl_c_stops_a_single_message(ctl, url, script):
    """Ctrl-C aborts the run of a single message and ends with 130, without a traceback."""
    process = ctl.process("chat", "/hang", "--url", url)
    assert process.stdout is not None
    first = process.stdout.read(len("working "))

    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=20)

    assert process.returncode == 130
    assert first + stdout == b"working \n"
    assert stderr == b""
    assert script.methods == ["chat.send", "chat.abort"]


def test_a_reader_that_leaves_stops_the_run(ctl, url, script):
    """When nobody reads the output any more, the run is aborted rather than left running."""

    def endless(connection, frame):
        connection.answer(frame, {"runId": run_id_of(frame), "status": "started"})
        process.stdout.close()
        connection.chat(run_id_of(frame), "delta", text="into the void")

    script.handlers["chat.send"] = endless
    process = ctl.process("chat", "hi", "--url", url)

    process.wait(timeout=20)

    assert process.returncode == 1
    assert process.stderr.read() == b""
    process.stderr.close()
    assert script.methods == ["chat.send", "chat.abort"]


SILENCE_S = 30.0


class Terminal:
    """A process at a pseudo-terminal."""

    def __init__(self, ctl: Ctl, *args: str) -> None:
        self.master, slave = pty.openpty()
        self.process = ctl.process(
            *args, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
        )
        os.close(slave)
        self.seen = b""

    def expect(self, text: bytes) -> None:
        """Read until a text shows up after what was expected before."""
        while text not in self.seen:
            if not select.select([self.master], [], [], SILENCE_S)[0]:
                self.process.kill()
                self.process.wait()
                pytest.fail(f"{text!r} was expected after {self.seen!r}")
            self.seen += os.read(self.master, 4096)
        self.seen = self.seen.partition(text)[2]

    def interrupt(self, until: bytes) -> None:
        """Press Ctrl-C until a text shows up: input() misses a signal right before it waits."""
        while until not in self.seen:
            os.kill(self.process.pid, signal.SIGINT)
            while until not in self.seen and select.select([self.master], [], [], 1.0)[0]:
                self.seen += os.read(self.master, 4096)
        self.seen = self.seen.partition(until)[2]

    def interrupted(self) -> int:
        """Press Ctrl-C until the process ends, for the same reason; return its exit status."""
        for _ in range(20):
            self.process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                return self.process.wait(timeout=1)
        self.process.kill()
        self.process.wait()
        pytest.fail("Ctrl-C does not end it")

    def type(self, text: bytes) -> None:
        os.write(self.master, text)


def test_a_conversation_at_a_terminal(ctl, url, script):
    """At a terminal there is a prompt; Ctrl-C stops the answer and not the conversation, Ctrl-D ends."""
    terminal = Terminal(ctl, "chat", "--url", url)

    terminal.expect(b"> ")
    terminal.type(b"hello you\n")
    terminal.expect(b"hello you\r\n")
    terminal.expect(b"hello you\r\n")
    terminal.expect(b"> ")
    terminal.type(b"/hang\n")
    terminal.expect(b"working ")
    os.kill(terminal.process.pid, signal.SIGINT)
    terminal.expect(b"gatewayctl: aborted\r\n")
    terminal.expect(b"> ")
    terminal.interrupt(b"> ")
    terminal.type(b"\x04")

    assert terminal.process.wait(timeout=20) == 0
    os.close(terminal.master)
    assert script.methods == ["chat.send", "chat.send", "chat.abort"]
