"""Runs for the tests of the core."""

from __future__ import annotations

from typing import Any

from gateway.core.run import Run
from gateway.model import RunRequest

SESSION = "agent:main:main"


def make_run(**extra: Any) -> Run:
    """Return an accepted run."""
    request = RunRequest(
        run_id="r1", session_key=SESSION, session_id="s0", agent_id="main", text="hi"
    )
    facts = {"epoch": "e1", "origin": "chat", "actor": "shared:token", "fingerprint": "f"}
    return Run(request, accepted_at_ms=1_000, **{**facts, **extra})


def started_run(**extra: Any) -> Run:
    """Return a run that goes."""
    run = make_run(**extra)
    run.start(1_010)
    return run
