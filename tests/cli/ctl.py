"""gatewayctl for tests: run in this process or as one of its own, against the scripted gateway."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from click.testing import CliRunner

import gateway
from gateway.cli import cli
from tests.client.scripted import TOKEN, ScriptedConnection

ROOT = Path(gateway.__file__).parent.parent


def run_id_of(frame):
    return frame["params"]["idempotencyKey"]


def echo(connection: ScriptedConnection, frame: dict[str, Any]) -> None:
    """Answer a message with itself, word by word; some words make trouble."""
    run_id, text = run_id_of(frame), frame["params"]["message"]
    if text == "/refuse":
        connection.refuse(frame, "INVALID_REQUEST", "send blocked")
        return
    connection.answer(frame, {"runId": run_id, "status": "started"})
    if text == "/hang":
        connection.chat(run_id, "delta", text="working ")
    elif text == "/error":
        connection.chat(run_id, "delta", text="half")
        connection.chat(run_id, "error", errorMessage="401 bad\nkey")
    elif text == "/restart":
        connection.hang_up(1012, "service restart")
    else:
        for end in [i for i, char in enumerate(text) if char == " "]:
            connection.chat(run_id, "delta", text=text[: end + 1])
        connection.chat(run_id, "final", text=text)


def abort(connection: ScriptedConnection, frame: dict[str, Any]) -> None:
    run_id = frame["params"]["runId"]
    connection.answer(frame, {"ok": True, "aborted": True, "runIds": [run_id]})
    connection.chat(run_id, "aborted", stopReason="rpc")


class Ctl:
    """Runs gatewayctl in this process, or as one of its own."""

    def __init__(self, environ: dict[str, str]) -> None:
        self.environ = environ

    def __call__(self, *args: str, stdin: str | None = None, **environ: str) -> Any:
        result = CliRunner().invoke(cli, args, input=stdin, env={**self.environ, **environ})
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def process(self, *args: str, **more: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "gateway.cli", *args],
            cwd=ROOT,
            env={**os.environ, **self.environ, "GATEWAY_TOKEN": TOKEN},
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more},
        )


def one_line(result, exit_code=2):
    """Check that the command failed with one line on stderr, and return the line."""
    assert result.exit_code == exit_code
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("gatewayctl: ")
    return result.stderr


def write_config(tmp_path, text):
    path = tmp_path / "gateway.toml"
    path.write_text(text)
    return {"GATEWAY_CONFIG": str(path)}
