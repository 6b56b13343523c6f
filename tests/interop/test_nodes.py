"""The headless node of both generations: paired, approved, asked, and gone, by their own commands."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .clients import OpenClaw
from .install import V4, Generation, Installation
from .processes import Finished, Program, wait_until
from .server import Gateway

pytestmark = [pytest.mark.interop, pytest.mark.timeout(240, func_only=True)]

NAME = "Workbench"
CONNECTED_SECONDS = 45.0


@pytest.fixture
def start_node() -> Iterator[Callable[[Program], Program]]:
    """Return what keeps a node until the test is over."""
    started: list[Program] = []

    def start(program: Program) -> Program:
        started.append(program)
        return program

    yield start
    for program in started:
        program.stop()


@pytest.fixture
def box(
    installations: dict[Generation, Installation],
    generation: Generation,
    gateway: Gateway,
    tmp_path: Path,
) -> OpenClaw:
    """Return an installation with an identity of its own, as if it were another machine."""
    return OpenClaw(installations[generation], tmp_path / "box", gateway.url, gateway.token)


def listed(openclaw: OpenClaw) -> list[dict[str, Any]]:
    """Return the nodes that ``nodes status`` tells of."""
    done = openclaw.nodes("status", "--json")
    assert done.status == 0, done
    found: list[dict[str, Any]] = json.loads(done.stdout)["nodes"]
    return found


def connected(openclaw: OpenClaw, name: str = NAME) -> dict[str, Any]:
    """Return the node of this name, once it is connected."""
    found: list[dict[str, Any]] = []

    def there() -> bool:
        found[:] = [
            node
            for node in listed(openclaw)
            if node["connected"] and node.get("displayName") == name
        ]
        return bool(found)

    assert wait_until(there, CONNECTED_SECONDS), listed(openclaw)
    return found[0]


def which(openclaw: OpenClaw, node: str) -> Any:
    """Ask a node where a program lies."""
    params = json.dumps({"bins": ["sh"]})
    command = ("--command", "system.which", "--params", params)
    return openclaw.nodes("invoke", "--node", node, *command, "--json")


def approve(openclaw: OpenClaw, node: str) -> None:
    """Approve what a node can do."""
    pending = json.loads(openclaw.nodes("pending", "--json").stdout)
    (request,) = [one for one in pending if one["nodeId"] == node]
    approved = openclaw.nodes("approve", request["requestId"], "--json")
    assert approved.status == 0, approved


def test_a_node_is_asked_to_do_something(
    openclaw: OpenClaw,
    box: OpenClaw,
    gateway: Gateway,
    start_node: Callable[[Program], Program],
) -> None:
    """A node of this host is paired by itself; the newer waits until its commands are approved."""
    name = f"{NAME} {openclaw.generation.name}"
    node = start_node(box.node_host("127.0.0.1", gateway.port, name))
    node_id = connected(openclaw, name)["nodeId"]

    if openclaw.generation is V4:
        refused = which(openclaw, node_id)
        assert refused.status != 0, refused
        approve(openclaw, node_id)
    done = which(openclaw, node_id)

    assert done.status == 0, f"{done}\n--- node\n{node.printed}"
    assert json.loads(done.stdout)["payload"]["bins"]["sh"].endswith("/sh")
    described = json.loads(openclaw.nodes("describe", "--node", node_id, "--json").stdout)
    assert "system.which" in described["commands"]


def test_a_node_that_goes_is_said_to_be_gone(
    openclaw: OpenClaw,
    box: OpenClaw,
    gateway: Gateway,
    start_node: Callable[[Program], Program],
) -> None:
    """A node that was stopped is listed as not connected, and asking it fails at once."""
    name = f"{NAME} {openclaw.generation.name} that goes"
    node = start_node(box.node_host("127.0.0.1", gateway.port, name))
    node_id = connected(openclaw, name)["nodeId"]

    node.stop()

    def gone() -> bool:
        return not [n for n in listed(openclaw) if n["nodeId"] == node_id and n["connected"]]

    assert wait_until(gone, 20.0)
    done = which(openclaw, node_id)
    assert done.status != 0
    assert "not connected" in done.stderr + done.stdout, done


def test_a_gateway_that_is_killed(
    openclaw: OpenClaw,
    box: OpenClaw,
    gateway: Gateway,
    start_node: Callable[[Program], Program],
) -> None:
    """A node is asked again, with no new approval, after the gateway died."""
    name = f"{NAME} {openclaw.generation.name} that stays"
    node = start_node(box.node_host("127.0.0.1", gateway.port, name))
    node_id = connected(openclaw, name)["nodeId"]
    if openclaw.generation is V4:
        approve(openclaw, node_id)

    gateway.crash()

    if openclaw.generation is not V4:  # its host ends when its connection does, whoever ends that
        assert wait_until(lambda: node.process.poll() is not None, CONNECTED_SECONDS)
        start_node(box.node_host("127.0.0.1", gateway.port, name))
    assert connected(openclaw, name)["nodeId"] == node_id
    done = which(openclaw, node_id)
    assert done.status == 0, f"{done}\n--- node\n{node.printed}"


@pytest.mark.parametrize("generation", [V4], ids=lambda generation: generation.name, indirect=True)
def test_a_node_comes_in_by_a_setup_code(
    openclaw: OpenClaw,
    installations: dict[Generation, Installation],
    gateway: Gateway,
    start_node: Callable[[Program], Program],
    tmp_path: Path,
) -> None:
    """A machine that has nothing but the code is paired by it, once, and comes back by its own token."""
    name = f"{NAME} with a code"
    box = OpenClaw(installations[V4], tmp_path / "stranger", "ws://127.0.0.1:9", "")
    asked = {"publicUrl": gateway.url, "bootstrapProfile": "node"}
    made = answer(openclaw.call("device.pair.setupCode", **asked))

    node = start_node(box.paired_node_host(f"oc-pair://{made['setupCode']}", name))

    node_id = connected(openclaw, name)["nodeId"]
    status = answer(openclaw.call("device.pair.setupStatus", setupId=made["setupId"]))
    assert status["completion"]["deviceId"] == node_id, node.printed
    assert status["completion"]["access"] == "node"
    approve(openclaw, node_id)
    assert which(openclaw, node_id).status == 0
    node.stop()
    start_node(box.node_host("127.0.0.1", gateway.port, name))
    assert connected(openclaw, name)["nodeId"] == node_id


@pytest.mark.parametrize("generation", [V4], ids=lambda generation: generation.name, indirect=True)
def test_a_node_comes_in_by_a_join_link(
    openclaw: OpenClaw,
    installations: dict[Generation, Installation],
    gateway: Gateway,
    start_node: Callable[[Program], Program],
    tmp_path: Path,
) -> None:
    """A machine that has nothing but the link is paired by it."""
    name = f"{NAME} with a link"
    box = OpenClaw(installations[V4], tmp_path / "stranger", "ws://127.0.0.1:9", "")
    made = answer(openclaw.call("device.pair.setupCode", publicUrl=gateway.url, joinUrl=True))

    node = start_node(box.connect(made["joinUrl"], name))

    node_id = connected(openclaw, name)["nodeId"]
    status = answer(openclaw.call("device.pair.setupStatus", setupId=made["setupId"]))
    assert status["completion"]["deviceId"] == node_id, node.printed


def answer(done: Finished) -> dict[str, Any]:
    """Return what a method answered."""
    assert done.status == 0, done
    found: dict[str, Any] = json.loads(done.stdout)
    return found
