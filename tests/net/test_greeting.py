"""What a node is told as soon as it is let in."""

from __future__ import annotations

import json

import pytest

from tests.net.gate import DEVICE, Gate

NODE = {"id": "node-host", "version": "1", "platform": "linux", "mode": "node"}


@pytest.mark.parametrize("protocol", [3, 4])
def test_the_wake_words_follow_hello(gate: Gate, protocol: int) -> None:
    """The first frame after hello-ok says what to listen for; it has no number."""
    node = gate.open()
    frames: list[dict[str, object]] = []
    received = node.received

    def kept() -> list[dict[str, object]]:
        frames.extend(received())
        return frames[:]

    node.received = kept  # type: ignore[method-assign]
    assert node.connect(protocol, device=DEVICE, client=NODE, role="node", scopes=[])["ok"]

    names = [frame.get("event", frame["type"]) for frame in frames]
    expected = ["connect.challenge", "res", "voicewake.changed", "voicewake.routing.changed"]
    assert names[:4] == expected[:protocol]
    assert "seq" not in frames[2]
    assert json.dumps(frames[2]["payload"]).startswith('{"triggers": [')
