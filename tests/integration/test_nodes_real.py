"""A node that is the client library, asked over real connections."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from gateway.client import OPERATOR_SCOPES, RequestFailed, client_info, twisted
from gateway.core.deviceproof import DeviceIdentity
from gateway.model import Role
from tests.integration.test_client_real import Served

pytestmark = pytest.mark.integration

reactor: Any = installed_reactor
DEVICE = DeviceIdentity.from_seed(b"n" * 32)


class Node:
    """A node that says which programs it has, and refuses everything else."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.asked: list[str] = []
        client.on_event(self._heard)

    def _heard(self, notice: Any) -> None:
        if getattr(notice, "name", None) != "node.invoke.request":
            return
        request = notice.payload
        self.asked.append(request["command"])
        answer: dict[str, Any] = {"id": request["id"], "nodeId": request["nodeId"]}
        if request["command"] == "system.which":
            wanted = json.loads(request["paramsJSON"])["bins"]
            found = {name: f"/bin/{name}" for name in wanted}
            answer |= {"ok": True, "payloadJSON": json.dumps({"bins": found})}
        else:
            answer |= {"ok": False, "error": {"code": "NO", "message": "not me"}}
        self.client.call("node.invoke.result", answer)


def next_request(operator: Any) -> Deferred[str]:
    """Return the next request for the approval of what a node offers."""
    heard: Deferred[str] = Deferred()

    def listen(notice: Any) -> None:
        if getattr(notice, "name", None) == "node.pair.requested" and not heard.called:
            heard.callback(notice.payload["requestId"])

    operator.on_event(listen)
    return heard


async def live_row(operator: Any) -> dict[str, Any]:
    """Return the row of the one node, once the store said what of it is live."""
    for _ in range(100):
        [row] = (await operator.call("node.list", {}))["nodes"]
        if row["commands"]:
            break
        await deferLater(reactor, 0.05, lambda: None)
    return dict(row)


@pytest.mark.parametrize("protocol", [3, 4])
@pytest_twisted.ensureDeferred
async def test_a_node_is_asked(tmp_path: Path, protocol: int) -> None:
    """A node comes, is approved where its version has that, answers, refuses, and goes."""
    served = Served(tmp_path)
    await served.start()
    try:
        await scenario(served, protocol)
    finally:
        await served.stop()


async def scenario(served: Served, protocol: int) -> None:
    """Let an operator ask a node."""
    operator = await twisted.connect(reactor, served.url, served.options(scopes=OPERATOR_SCOPES))
    options = served.options(
        client=client_info("node-host", "node"),
        role=Role.NODE,
        scopes=(),
        device=DEVICE,
        commands=("system.which", "system.notify", "fs.read"),
        min_protocol=protocol,
        max_protocol=protocol,
    )
    requested = next_request(operator)
    node = Node(await twisted.connect(reactor, served.url, options))
    if protocol == 4:
        await operator.call("node.pair.approve", {"requestId": await requested})
    row = await live_row(operator)
    assert row["commands"] == ["system.notify", "system.which"]

    def ask(command: str, key: str, **more: Any) -> Deferred[Any]:
        params = {"nodeId": row["nodeId"], "command": command, "idempotencyKey": key}
        asking: Deferred[Any] = operator.call("node.invoke", {**params, **more})
        return asking

    answer = await ask("system.which", "1", params={"bins": ["sh"]})
    assert answer["payload"] == {"bins": {"sh": "/bin/sh"}}
    for command, key in (("system.notify", "2"), ("fs.read", "3")):
        with pytest.raises(RequestFailed):
            await ask(command, key)
    assert node.asked == ["system.which", "system.notify"]
    await node.client.close()
    with pytest.raises(RequestFailed, match="node not connected"):
        await ask("system.which", "4")
    await operator.close()
