"""A gateway's store that is killed: whatever was acknowledged is there afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import gateway
from gateway.model import RunState, SessionQuery
from gateway.store.store import SQLStore
from gateway.testing import FakeClock, result_of

pytestmark = pytest.mark.integration

ROOT = Path(gateway.__file__).parent.parent
WRITER = Path(__file__).parent / "store_writer.py"
SESSIONS = 4
"""As many as the writer has."""


def run_and_kill(url: str, lines: int) -> set[str]:
    """Run the writer, kill it after so many lines; return all that it printed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, str(WRITER), url], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            acknowledged = [process.stdout.readline() for _ in range(lines)]
        finally:
            process.kill()
        acknowledged += process.stdout.readlines()
    return {line.strip() for line in acknowledged if line.endswith("\n")}


def test_acknowledged_writes_survive_a_kill(tmp_path: Path) -> None:
    """After SIGKILL every acknowledged turn is whole, and none is there by half."""
    for round_number, lines in enumerate((1, 57, 400)):
        url = f"sqlite:///{tmp_path / f'{round_number}.db'}"
        acknowledged = run_and_kill(url, lines)
        assert len(acknowledged) >= lines

        store = SQLStore(
            url, clock=FakeClock(), call_from_thread=lambda *arguments: None, threads=False
        )
        store.open()
        store.startService()
        for line in acknowledged:
            what, number = line.split()
            record = result_of(store.get_run(f"run-{number}"))
            assert record is not None
            assert what == "accepted" or record.state is RunState.DONE
        check_whole(store)
        result_of(store.stopService())


def check_whole(store: SQLStore) -> None:
    """Assert that every turn is stored with all its parts or not at all."""
    for session in result_of(store.find_sessions(SessionQuery(limit=SESSIONS))).sessions:
        messages = result_of(store.list_messages(session.session_id, limit=100_000))
        assert [message.seq for message in messages] == list(range(1, len(messages) + 1))
        for number in {message.message_id.removeprefix("m") for message in messages}:
            mine = [message for message in messages if message.message_id == f"m{number}"]
            record = result_of(store.get_run(f"run-{number}"))
            assert record is not None
            done = record.state is RunState.DONE
            assert len(mine) == (2 if done else 1)
            events = result_of(store.list_events(record.run_id, after_seq=0, limit=9))
            assert len(events) == (1 if done else 0)
