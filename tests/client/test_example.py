"""The example of the README is a program that works."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from gateway.client.testing import FakeGateway
from tests.client.test_aio import served

EXAMPLE = Path(__file__).with_name("example.py")


def test_the_example_prints_the_answer(tmp_path):
    """It connects with the token of a file, and prints the answer as it comes, also over a cut."""

    def answer(run):
        run.say("hello ")
        for connection in list(gateway.connections):
            connection.cut()
        run.say("there")
        run.finish()

    gateway = FakeGateway(token="t", on_send=answer)
    token_file = tmp_path / "token"
    token_file.write_text("t\n")

    with served(gateway) as url:
        command = [sys.executable, str(EXAMPLE), url, str(token_file), "hi"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)

    assert (done.stdout, done.stderr) == ("hello there\n", "")
    assert gateway.accepted == 2
    assert gateway.calls("chat.send")[0]["message"] == "hi"
