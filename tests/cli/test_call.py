"""gatewayctl call: outputs and exit statuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from tests.cli.ctl import ROOT
from tests.client.scripted import HELLO, TOKEN


def test_call_prints_the_payload(to_script, script):
    """A call prints its payload as indented JSON, keys in the order received."""
    script.handlers["x"] = lambda c, f: c.answer(f, {"b": 1, "a": {"ü": [None, 1.5]}})

    result = to_script("call", "x", '{"limit": 5}')

    assert result.exit_code == 0
    assert (
        result.stdout
        == '{\n  "b": 1,\n  "a": {\n    "ü": [\n      null,\n      1.5\n    ]\n  }\n}\n'
    )
    assert result.stderr == ""
    assert script.params("x") == {"limit": 5}


def test_call_without_a_payload_prints_null(to_script, script):
    """An answer without a payload is null."""
    script.handlers["x"] = lambda c, f: c.send(type="res", id=f["id"], ok=True)

    assert to_script("call", "x").stdout == "null\n"


def test_it_connects_as_the_local_command_line(to_script, script):
    """It connects as client cli in mode cli, without a device, with all five operator scopes."""
    to_script("call", "health")

    params = script.frames[0]["params"]
    assert (params["client"]["id"], params["client"]["mode"]) == ("cli", "cli")
    assert (params["minProtocol"], params["maxProtocol"]) == (3, 4)
    assert params["scopes"] == [
        "operator.admin",
        "operator.read",
        "operator.write",
        "operator.approvals",
        "operator.pairing",
    ]
    assert "device" not in params
    assert params["auth"] == {"token": TOKEN}


def test_an_error_is_json_on_stderr(to_script, script):
    """An error answer is printed as {code, message, details} on stderr, with exit status 1."""
    details = {"code": "MISSING_SCOPE", "missingScope": "operator.admin"}
    script.handlers["x"] = lambda c, f: c.refuse(f, "FORBIDDEN", "missing scope", details=details)

    with_details, without = to_script("call", "x"), to_script("call", "nope")

    assert with_details.exit_code == without.exit_code == 1
    assert with_details.stdout == without.stdout == ""
    assert json.loads(with_details.stderr) == {
        "code": "FORBIDDEN",
        "message": "missing scope",
        "details": details,
    }
    assert json.loads(without.stderr) == {
        "code": "INVALID_REQUEST",
        "message": "unknown method: nope",
        "details": None,
    }


@pytest.mark.parametrize("final", [True, False])
def test_expect_final_waits_for_the_second_answer(to_script, script, final):
    """With --expect-final the outcome is printed, without it the first answer."""

    def agent(connection, frame):
        connection.answer(frame, {"status": "accepted"})
        connection.answer(frame, {"status": "ok"})

    script.handlers["agent"] = agent

    result = to_script("call", "agent", "{}", *(["--expect-final"] if final else []))

    assert json.loads(result.stdout)["status"] == ("ok" if final else "accepted")


def test_a_call_without_an_answer_times_out(to_script, script):
    """A call whose answer does not come in time is an error with code TIMEOUT."""
    script.handlers["x"] = lambda c, f: None

    result = to_script("call", "x", "--timeout", "0.05")

    assert result.exit_code == 1
    assert json.loads(result.stderr)["code"] == "TIMEOUT"


def test_a_call_that_is_too_large_is_not_sent(to_script, script):
    """Params that the gateway would not take are an error with code NOT_SENT."""
    script.hello = {**HELLO, "policy": {"maxPayload": 100}}

    result = to_script("call", "health", json.dumps({"x": "y" * 200}))

    assert result.exit_code == 1
    assert json.loads(result.stderr)["code"] == "NOT_SENT"


@pytest.mark.parametrize("params", ["{bad", "[1]", "7", '"x"', ""])
def test_params_must_be_an_object(ctl, params):
    """Params that are no JSON object are a mistake in the command line, found before connecting."""
    result = ctl("call", "health", params)

    assert result.exit_code == 2
    assert "params" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "soon"])
def test_a_timeout_must_be_a_time(ctl, seconds):
    """A timeout that is no positive number is a mistake in the command line."""
    assert ctl("call", "health", "--timeout", seconds).exit_code == 2


def test_params_from_stdin(to_script, script):
    """With - as params they are read from standard input."""
    script.handlers["x"] = lambda c, f: c.answer(f, {})

    to_script("call", "x", "-", stdin='{"from": "stdin"}')

    assert script.params("x") == {"from": "stdin"}


def test_ctrl_c_ends_a_call(ctl, url, script):
    """Ctrl-C while waiting for an answer ends with 130, without a traceback."""
    arrived = threading.Event()
    script.handlers["x"] = lambda connection, frame: arrived.set()
    process = ctl.process("call", "x", "--url", url)
    assert arrived.wait(20)

    process.send_signal(signal.SIGINT)

    stdout, stderr = process.communicate(timeout=20)

    assert (process.returncode, stdout, stderr) == (130, b"", b"")


def test_nothing_waits_on_the_global_reactor(to_script, url):
    """A call runs on a reactor of its own: a timer on the global one would never fire."""
    code = (
        "from click.testing import CliRunner\n"
        "from gateway.cli import cli\n"
        "assert CliRunner().invoke(cli, ['call', 'health']).exit_code == 0\n"
        "from twisted.internet import reactor\n"
        "print(reactor.getDelayedCalls())\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **to_script.environ},
        capture_output=True,
        check=True,
        text=True,
    )

    assert done.stdout == "[]\n"
