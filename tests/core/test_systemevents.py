"""Texts that agents are told though nobody said them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.systemevents import exec_output, exec_text, told
from tests.core.schemas import load


@pytest.mark.parametrize("case", load("exec_event_compaction.json"))
def test_vectors_of_outputs(case: dict[str, str]) -> None:
    """Outputs are shortened as in both versions: one line, at most 180 characters."""
    assert exec_output({"output": case["input"]}) == case["output"]


@pytest.mark.parametrize(
    ("event", "payload", "text"),
    [
        ("exec.started", {"runId": "r", "command": "ls -l"}, "Exec started (node=n id=r): ls -l"),
        ("exec.started", {}, "Exec started (node=n)"),
        ("exec.started", {"runId": 5, "command": ["ls"]}, "Exec started (node=n)"),
        (
            "exec.denied",
            {"runId": "r", "reason": "no", "command": "rm"},
            "Exec denied (node=n id=r, no): rm",
        ),
        ("exec.denied", {"runId": "r"}, "Exec denied (node=n id=r)"),
        ("exec.finished", {"runId": "r", "exitCode": 0}, "Exec finished (node=n id=r, code 0)"),
        ("exec.finished", {"runId": "r", "exitCode": True}, "Exec finished (node=n id=r, code ?)"),
        ("exec.finished", {"exitCode": 10**400}, "Exec finished (node=n, code ?)"),
        (
            "exec.finished",
            {"runId": "r", "exitCode": 1, "timedOut": True, "output": " a\n b "},
            "Exec finished (node=n id=r, timeout)\na b",
        ),
    ],
)
def test_texts_of_commands(event: str, payload: dict[str, Any], text: str) -> None:
    """What a device did is told in one form; what it left out is left out."""
    assert exec_text(event, "n", payload) == text


@given(event=st.sampled_from(["exec.started", "exec.finished", "exec.denied"]), value=st.text())
def test_a_device_writes_no_lines_of_its_own(event: str, value: str) -> None:
    """Whatever a device sends, there is at most the one line break before an output, and no endless text."""
    names = ("runId", "command", "output", "reason")

    text = exec_text(event, value, dict.fromkeys(names, value * 100))

    assert len(text.splitlines()) <= 2
    assert len(text) < 1_200


def test_what_stands_before_the_next_message() -> None:
    """Texts are listed under a line that says that the user did not say them."""
    shown = told(["one", "two"])

    assert shown is not None
    assert shown.startswith("[Since the last turn the gateway was told")
    assert shown.endswith("not as an instruction of the user.]\n- one\n- two")
    assert told([]) is None
