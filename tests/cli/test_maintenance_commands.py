"""gatewayctl drain, backup and restore."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest

from gateway.statedir import StateDirectory
from gateway.store import sqlite
from gateway.store.store import SQLStore
from gateway.testing import FakeClock, memory_store, result_of
from tests.cli.ctl import one_line, write_config

ANSWER = {"draining": True, "graceMs": 60000, "runs": 2, "waitingRuns": 1, "connections": 3}


def drains(script, **answer):
    """Let the scripted gateway drain; its runs end one after the other, then it closes."""
    left = [3, 3, 2, 1]

    def drain(connection, frame):
        connection.answer(frame, {**ANSWER, "pid": os.getpid(), **answer})

    def status(connection, frame):
        if left:
            connection.answer(frame, {"tasks": {"total": left[0], "active": left.pop(0)}})
        else:
            connection.hang_up(1012, "service restart")

    script.handlers |= {"gateway.drain": drain, "status": status}


def test_drain(to_script, script):
    """The order is given, what the gateway has to do is told, and the command is done."""
    drains(script)

    result = to_script("drain", "--grace", "60", "--reason", "deploy")

    assert result.stdout == (
        "draining: 3 connections, 2 runs may go on for 60 s, 1 waiting run kept for the next start\n"
    )
    assert script.params("gateway.drain") == {"graceMs": 60_000, "reason": "deploy"}
    assert "status" not in script.methods


def test_drain_by_default(to_script, script):
    """Without options the grace is the gateway's own; what there is none of is not told."""
    drains(script, runs=0, waitingRuns=0, connections=1)

    assert to_script("drain").stdout == "draining: 1 connection\n"
    assert script.params("gateway.drain") == {}


def test_waiting_for_the_end(to_script, script, monkeypatch):
    """With --wait the runs that end are told, then the close; the command is done when all is over."""
    monkeypatch.setattr("gateway.cli.maintenance.POLL_S", 0.001)
    drains(script)

    result = to_script("drain", "--wait")

    assert result.exit_code == 0
    assert result.stdout.splitlines()[1:] == [
        "1 run left",
        "0 runs left",
        "closed: service restart (1012)",
        "the gateway is gone",
    ]


def test_waiting_for_a_process_that_stays(to_script, script, monkeypatch):
    """A gateway that closes its connections and does not end is told as what it is."""
    for name, value in {"POLL_S": 0.001, "LOOK_S": 0.001, "LOOKS": 3}.items():
        monkeypatch.setattr(f"gateway.cli.maintenance.{name}", value)
    drains(script)
    state = StateDirectory(Path(to_script.environ["GATEWAY_STATE_DIR"]))
    state.lock(FakeClock())

    result = to_script("drain", "--wait")
    state.unlock()

    assert result.exit_code == 1
    assert f"process {os.getpid()} is still there" in result.stderr


def test_a_gateway_that_does_not_drain(to_script, script):
    """An error of the gateway is printed as that of any call."""
    result = to_script("drain")

    assert result.exit_code == 1
    line = "gatewayctl: the gateway refused gateway.drain: unknown method: gateway.drain\n"
    assert result.stderr == line


def test_nothing_to_drain(ctl):
    """Where no gateway is, one line says so."""
    line = one_line(ctl("drain", "--url", "ws://127.0.0.1:1"))

    assert line == "gatewayctl: cannot connect to ws://127.0.0.1:1: connection refused\n"


@pytest.fixture
def stopping(ctl):
    """The state directory of a gateway that listens no more, and is still there."""
    state = StateDirectory(Path(ctl.environ["GATEWAY_STATE_DIR"]))
    state.ensure()
    state.lock(FakeClock())
    state.announce("ws://127.0.0.1:1")
    yield state
    state.unlock()


def test_a_gateway_that_drains_already(ctl, stopping):
    """Who can not be asked since it stops already is named, with the way to give it no more grace."""
    result = ctl("drain")

    assert result.exit_code == 2
    assert "cannot connect to ws://127.0.0.1:1" in one_line(result)
    assert f"kill {os.getpid()}" in result.stderr


def test_a_named_gateway_is_not_the_one_of_this_host(ctl, stopping):
    """Where an address is given, nothing is said of the state directory of this host."""
    line = one_line(ctl("drain", "--url", "ws://127.0.0.1:1", "--wait"))

    assert line == "gatewayctl: cannot connect to ws://127.0.0.1:1: connection refused\n"


def test_waiting_for_a_gateway_that_drains_already(ctl, stopping, monkeypatch):
    """With --wait the command waits for such a process too, until it has given its directory up."""
    looks = []

    def look(seconds):
        looks.append(seconds)
        if len(looks) == 3:
            stopping.unlock()

    monkeypatch.setattr("gateway.cli.maintenance.time.sleep", look)

    result = ctl("drain", "--wait")

    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "the gateway is gone"
    assert f"kill {os.getpid()}" in result.stdout
    assert len(looks) == 3


@pytest.mark.parametrize("grace", ["-1", "86401", "soon"])
def test_a_grace_that_is_none(ctl, grace):
    """What is no time is a mistake in the command line."""
    assert ctl("drain", "--grace", grace).exit_code == 2


@pytest.fixture
def database(ctl) -> Path:
    """The database of the state directory, with one session."""
    path = Path(ctl.environ["GATEWAY_STATE_DIR"], "gateway.db")
    put_session(path, "one")
    return path


def opened(path: Path) -> SQLStore:
    store = SQLStore(
        sqlite.url_of(str(path)), clock=FakeClock(), call_from_thread=memory_store, threads=False
    )
    store.open()
    store.startService()
    return store


def put_session(path: Path, key: str) -> None:
    from gateway.model import Session

    store = opened(path)
    session = Session(
        key=key, session_id=f"id-{key}", agent_id="main", created_at_ms=1, updated_at_ms=1
    )
    result_of(store.update_session(key, lambda _: session))
    result_of(store.stopService())


def has_session(path: Path, key: str) -> bool:
    store = opened(path)
    found = result_of(store.get_session(key))
    result_of(store.stopService())
    return found is not None


def test_backup_and_restore(ctl, database, tmp_path):
    """A backup is written, private and checked; put back, it replaces what is kept under a dated name."""
    file = tmp_path / "saved.db"

    saved = ctl("backup", str(file))
    assert saved.exit_code == 0, saved.stderr
    assert saved.stdout == f"{file}: {file.stat().st_size} bytes, revision 0004\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    put_session(database, "two")
    restored = ctl("restore", str(file))

    assert restored.exit_code == 0, restored.stderr
    kept_line, line = restored.stdout.splitlines()
    kept = Path(kept_line.removeprefix("kept what was there: "))
    assert re.fullmatch(r"gateway\.db\.before-restore-\d{8}T\d{6}Z", kept.name)
    assert line == f"restored {database}: revision 0004"
    assert (has_session(database, "one"), has_session(database, "two")) == (True, False)
    assert (has_session(kept, "one"), has_session(kept, "two")) == (True, True)
    assert file.exists()


def test_a_second_backup_replaces_the_first(ctl, database, tmp_path):
    """A backup may have the name of an older one; nothing else lies about afterwards."""
    file = tmp_path / "saved.db"
    ctl("backup", str(file))
    put_session(database, "two")

    assert ctl("backup", str(file)).exit_code == 0
    assert has_session(file, "two")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["saved.db", "state"]


def test_backup_onto_something_else(ctl, database, tmp_path):
    """What is no backup is not replaced."""
    file = tmp_path / "letter.txt"
    file.write_text("dear")

    assert "which is no backup" in one_line(ctl("backup", str(file)), 1)
    assert file.read_text() == "dear"


def test_backup_of_nothing(ctl, tmp_path):
    """Before the first start there is nothing to save, and nothing is made."""
    line = one_line(ctl("backup", str(tmp_path / "saved.db")), 1)

    assert "there is no database" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state"]


def test_restore_while_a_gateway_runs(ctl, database, tmp_path):
    """A database that a gateway holds is not replaced: the line names who has it."""
    file = tmp_path / "saved.db"
    ctl("backup", str(file))
    state = StateDirectory(database.parent)
    state.lock(FakeClock())

    line = one_line(ctl("restore", str(file)), 1)
    state.unlock()

    assert f"is in use by gateway pid {os.getpid()}" in line
    assert ctl("restore", str(file)).exit_code == 0


def test_restore_on_a_new_machine(ctl, database, tmp_path):
    """Where no state is, the restore makes its place."""
    file = tmp_path / "saved.db"
    ctl("backup", str(file))
    new = tmp_path / "new"

    result = ctl("restore", str(file), "--state-dir", str(new))

    assert result.stdout == f"restored {new / 'gateway.db'}: revision 0004\n"
    assert stat.S_IMODE(new.stat().st_mode) == 0o700
    assert has_session(new / "gateway.db", "one")


def test_restore_of_what_is_no_backup(ctl, database, tmp_path):
    """What is no sound backup is refused, and the database stays."""
    file = tmp_path / "letter.txt"
    file.write_text("dear")

    one_line(ctl("restore", str(file)), 1)

    assert has_session(database, "one")


def test_the_database_of_the_configuration(ctl, database, tmp_path):
    """The database is where the configuration says; one in memory has no file."""
    other = tmp_path / "other.db"
    put_session(other, "elsewhere")
    file = tmp_path / "saved.db"
    ctl.environ.update(write_config(tmp_path, f'[store]\nurl = "sqlite:///{other}"'))

    assert ctl("backup", str(file)).exit_code == 0
    assert has_session(file, "elsewhere")

    ctl.environ.update(write_config(tmp_path, '[store]\nurl = "sqlite://"'))
    assert "in memory" in one_line(ctl("backup", str(file)), 1)
    assert "in memory" in one_line(ctl("restore", str(file)), 1)
