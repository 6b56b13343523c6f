"""A gateway that is killed at random moments keeps what it promised; the long version is bench/kill9.py."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.integration.daemon import ROOT

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

POINTS = 10
SEEDS: dict[int, tuple[str, ...]] = {
    11: (),
    12: ("--collect", "0.4", "--steer", "0.3", "--interrupt", "0.1"),
}
"""With the first every message is a turn of its own, with the second most have another queue mode."""


def test_kill_at_random_moments() -> None:
    """In 20 kills -9 under load no accepted message is lost or run twice, and every run has one end."""
    options = ["--points", str(POINTS), "--messages", "8", "--within", "0.15"]
    going = [
        subprocess.Popen(
            [sys.executable, "-m", "bench.kill9", *options, "--seed", str(seed), *more],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for seed, more in SEEDS.items()
    ]
    try:
        outputs = [each.communicate()[0] for each in going]
    finally:
        for each in going:
            if each.poll() is None:
                each.send_signal(signal.SIGINT)  # it ends its gateway
                each.wait()

    for process, output in zip(going, outputs, strict=True):
        assert process.returncode == 0, output
        figures = json.loads(output.splitlines()[0])
        assert figures["violations"] == 0
        assert figures["messages"] == POINTS * 8
        assert figures["open_when_killed"] > 0
