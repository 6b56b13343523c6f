"""The programs of the README and of the client library's page, run as they are printed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.daemon import ROOT, START_S, running

pytestmark = pytest.mark.integration

EXPECTED = {
    "README.md": ["hello there\n"],
    "docs/client.md": [
        "final hello there\n[('user', 'hello there'), ('assistant', 'hello there')]\n",
        "word0 word1 word2\nfinal\n",
        "AUTH_TOKEN_MISMATCH\nINVALID_REQUEST\nerror no such luck\nConnectionLost\n",
        "hello again\n",
    ],
}


def programs(name: str) -> list[str]:
    """Return the Python programs of a page."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def test_the_readmes_program_is_short() -> None:
    """The README shows one program, of a dozen lines at most."""
    (program,) = programs("README.md")

    assert len([line for line in program.splitlines() if line]) <= 12


def test_programs_do_what_is_said(tmp_path: Path) -> None:
    """Every program prints what it should, and nothing to stderr, on a gateway with its defaults."""
    with running(tmp_path) as daemon:
        environ = {**daemon.world.environ, "GATEWAY_TOKEN": daemon.token}
        for name, outputs in EXPECTED.items():
            shown = programs(name)
            assert len(shown) == len(outputs)
            for number, (program, expected) in enumerate(zip(shown, outputs, strict=True)):
                path = tmp_path / f"program-{number}.py"
                path.write_text(program, encoding="utf-8")
                command = [sys.executable, "-W", "error", str(path), daemon.url]
                done = subprocess.run(
                    command, capture_output=True, text=True, env=environ, timeout=START_S
                )
                assert (done.stdout, done.stderr) == (expected, ""), (name, number)
