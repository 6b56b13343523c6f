"""A secret shows up in what is logged and told when something breaks (attack 22, beside the canaries)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import LogEvent

from gateway.logfile import LogFile, Redactor
from gateway.testing import TOKEN
from tests.net.gate import DEVICE, UI, Client, Gate, boom

CANARY = "canary-0f9a8b7c6d5e4f3a2b1c"
NODE = {"id": "node-host", "version": "1.0", "platform": "linux", "mode": "node"}


@pytest.fixture(autouse=True)
def failures(expected_failures: list[type[BaseException]]) -> None:
    """Here something is meant to break."""
    expected_failures.append(ZeroDivisionError)


@contextmanager
def broken(gate: Gate) -> Iterator[None]:
    """Let everything break that the store is asked about devices and nodes."""
    store: Any = gate.wiring.store
    names = ("get_pairing", "update_pairing", "update_node", "get_node")
    real = {name: getattr(store, name) for name in names}
    for name in names:
        setattr(store, name, boom)
    yield
    for name, method in real.items():
        setattr(store, name, method)


def left_by(log: list[LogEvent], directory: Path, client: Client) -> str:
    """Return all that was logged, as the log file has it, and all that the client was sent."""
    file = LogFile(directory, Redactor())
    for event in log:
        file(event)
    lines = "".join(path.read_text() for path in directory.iterdir())
    assert "ZeroDivisionError" in lines
    return lines + client.wire.sent.decode("latin-1")


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("field", ["token", "password", "deviceToken", "bootstrapToken"])
def test_s22_a_connect_that_breaks_tells_no_credential(
    gate: Gate, log: list[LogEvent], tmp_path: Path, field: str, protocol: int
) -> None:
    """Neither the traceback nor the answer nor the close line holds what a client has shown."""
    client = gate.open()
    shared = {} if field in ("token", "bootstrapToken") else {"token": TOKEN}
    with broken(gate):
        client.connect(protocol, client=UI, device=DEVICE, auth={**shared, field: CANARY})
        if not any(event.get("log_failure") for event in log):  # it was refused before the store
            gate.join().call("node.describe", {"nodeId": CANARY[:6]})
    client.wire.lose()
    assert CANARY not in left_by(log, tmp_path, client)


@pytest.mark.parametrize("protocol", [3, 4])
def test_s22_a_handler_that_breaks_tells_nothing_of_its_params(
    gate: Gate, log: list[LogEvent], tmp_path: Path, protocol: int
) -> None:
    """The address at which a node can be woken is in no traceback, though it was at hand."""
    node = gate.join(protocol, client=NODE, role="node", scopes=[], device=DEVICE)
    event = {"event": "push.apns.register", "payload": {"token": CANARY, "topic": "app"}}
    with broken(gate):
        answer = node.call("node.event", event)
    assert not answer["ok"]
    assert "correlation" in answer["error"]["message"]
    assert CANARY not in left_by(log, tmp_path, node)


def test_s22_the_address_for_waking_is_shown_to_nobody(gate: Gate, log: list[LogEvent]) -> None:
    """What a node tells of where it can be woken is in no answer about it, and in no event."""
    node = gate.join(client=NODE, role="node", scopes=[], device=DEVICE)
    event = {"event": "push.apns.register", "payload": {"token": CANARY, "topic": "app"}}
    assert node.call("node.event", event)["ok"]
    admin = gate.join()
    for method, params in (
        *(
            ("node.list", {}),
            ("node.describe", {"nodeId": DEVICE.device_id}),
            ("node.pair.list", {}),
        ),
        *(
            ("device.pair.list", {}),
            ("system-presence", {}),
            ("connections.list", {}),
            ("status", {}),
        ),
    ):
        assert admin.call(method, params)["ok"], method
    assert CANARY not in admin.wire.sent.decode("latin-1")
    assert CANARY not in repr(log)
