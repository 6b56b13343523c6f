"""What a node that has come is told to listen for."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred

from gateway.app.voicewake import SETTING
from gateway.core.voicewake import DEFAULTS, encoded
from gateway.errors import StoreError
from gateway.testing import result_of
from tests.app.faults import Lines
from tests.app.harness import Gate, assert_fits

CHANGED = {
    "type": "event",
    "event": "voicewake.changed",
    "payload": {"triggers": list(DEFAULTS)},
}


@pytest.mark.parametrize("protocol", [3, 4])
def test_a_node_is_greeted(gate: Gate, protocol: int) -> None:
    """A node gets the words without a number, one of version 4 the routes too; operators get nothing."""
    node, operator = gate.node(protocol), gate.client(protocol)

    for client in (node, operator):
        gate.services.voice_wake.greet(client.connection)

    assert node.frames[0] == CHANGED
    names = [frame["event"] for frame in node.frames]
    assert names == ["voicewake.changed", "voicewake.routing.changed"][: protocol - 2]
    for frame in node.frames:
        assert "seq" not in frame
        assert_fits(protocol, "EventFrame", frame)
    assert operator.frames == []


def test_the_store_is_asked_once(gate: Gate) -> None:
    """However many nodes come, the words are read once; who comes meanwhile waits for the same answer."""
    gate.store.hanging.add("get_setting")
    nodes = [gate.node(device_id=f"n{number}") for number in range(3)]
    for node in nodes:
        gate.services.voice_wake.greet(node.connection)
    waiting = [list(node.frames) for node in nodes]
    gate.store.release()

    assert waiting == [[], [], []]
    assert [node.frames[0] for node in nodes] == [CHANGED] * 3
    assert gate.store.calls.count("get_setting") == 1


def test_a_store_that_fails(gate: Gate) -> None:
    """A node whose words can't be read stays connected, and the log says so; the next one is told them."""
    gate.store.failing["get_setting"] = StoreError("disk full")
    first, second = gate.node(device_id="n1"), gate.node(device_id="n2")
    with Lines() as lines:
        gate.services.voice_wake.greet(first.connection)
    gate.store.failing.clear()
    gate.services.voice_wake.greet(second.connection)

    assert first.frames == []
    assert lines.texts == ["the wake words were not told conn=conn-1: disk full"]
    assert second.frames[0] == CHANGED


def test_a_change_that_fails_and_is_stored_all_the_same(gate: Gate) -> None:
    """What counts after a change that failed is what the store says."""
    voice = gate.services.voice_wake
    result_of(Deferred.fromCoroutine(voice.set(["before"])))
    gate.store.failing["update_setting"] = StoreError("the answer was lost")
    with pytest.raises(StoreError):
        result_of(Deferred.fromCoroutine(voice.set(["after"])))
    gate.store.failing.clear()
    result_of(gate.store.update_setting(SETTING, lambda _: encoded(("after",), 1)))

    assert result_of(Deferred.fromCoroutine(voice.triggers())) == ("after",)
