"""Who lacks a right is told in one line where it is held, whatever the command."""

from __future__ import annotations

import pytest

from gateway.cli.call import FROM_THE_HOST
from tests.cli.ctl import one_line


@pytest.mark.parametrize(
    ("words", "method"),
    [
        (["drain"], "gateway.drain"),
        (["approvals", "watch"], "exec.approval.list"),
        (["approvals"], "exec.approval.list"),
        (["devices"], "device.pair.list"),
        (["nodes", "pending"], "node.pair.list"),
        (["connections"], "connections.list"),
    ],
)
def test_a_missing_scope(to_script, script, words, method):
    """No JSON, and what to do about it."""
    script.handlers[method] = lambda connection, frame: connection.refuse(
        frame, "INVALID_REQUEST", "missing scope: operator.x"
    )
    line = one_line(to_script(*words), 1)
    assert line == (
        f"gatewayctl: the gateway refused {method}: missing scope: operator.x. {FROM_THE_HOST}\n"
    )
