"""Wake words and the talk mode, for clients of both versions."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.core.voicewake import DEFAULTS
from gateway.errors import StoreError
from tests.app.harness import READ, WRITE, Gate, assert_fits

TALK = ("operator.talk",)


@pytest.mark.parametrize("protocol", [3, 4])
def test_the_words(gate: Gate, protocol: int) -> None:
    """Words are set by who may write, kept over a restart, and told to readers and to every node."""
    writer, reader = gate.client(protocol, scopes=WRITE), gate.client(7 - protocol, scopes=READ)
    nodes = [gate.node(version, device_id=f"n{version}") for version in (3, 4)]

    assert writer.ok("voicewake.get", {}) == {"triggers": list(DEFAULTS)}
    kept = writer.ok("voicewake.set", {"triggers": [" Hey ", "", "x" * 70]})

    assert kept == {"triggers": ["Hey", "x" * 64]}
    assert reader.ok("voicewake.get") == kept
    assert reader.events("voicewake.changed") == [kept]
    for node in nodes:
        (frame,) = node.frames
        assert frame == {"type": "event", "event": "voicewake.changed", "payload": kept}
        assert_fits(node.connection.protocol, "EventFrame", frame)
    assert gate.restarted().client().ok("voicewake.get", {}) == kept
    assert writer.ok("voicewake.set", {"triggers": []})["triggers"] == list(DEFAULTS)


@pytest.mark.parametrize(
    "params", [{}, {"triggers": "x"}, {"triggers": [1]}, {"triggers": ["a"] * 1001}]
)
def test_what_is_no_list_of_words(gate: Gate, params: dict[str, Any]) -> None:
    """Anything but a list of texts is refused, and nothing changes."""
    client = gate.client()

    assert client.refused("voicewake.set", params)["code"] == "INVALID_REQUEST"
    assert client.ok("voicewake.get")["triggers"] == list(DEFAULTS)


def test_who_may(gate: Gate) -> None:
    """Reading needs the scope to read, setting that to write; nodes do neither."""
    reader, nobody, node = gate.client(scopes=READ), gate.client(scopes=()), gate.node()

    assert reader.refused("voicewake.set", {"triggers": []})["code"] == "FORBIDDEN"
    for method in ("voicewake.get", "voicewake.routing.get"):
        assert nobody.refused(method, {})["code"] == "FORBIDDEN"
        assert "unauthorized role" in node.refused(method, {})["message"]


def test_a_store_that_fails(gate: Gate, expected_failures: list[type[BaseException]]) -> None:
    """What could not be stored is not told, and the words are as before."""
    expected_failures.append(StoreError)
    client, node = gate.client(), gate.node()
    gate.store.failing["update_setting"] = StoreError("disk full")

    assert client.refused("voicewake.set", {"triggers": ["x"]})["retryable"]
    assert client.ok("voicewake.get")["triggers"] == list(DEFAULTS)
    assert node.frames == client.frames == []


def test_words_that_are_read_while_they_are_written(gate: Gate) -> None:
    """What was read before a change does not replace it, however slow the store is."""
    client = gate.client()
    gate.store.hanging.add("get_setting")
    reading = client.call("voicewake.get", {})
    writing = client.call("voicewake.set", {"triggers": ["x"]})
    gate.store.release()

    assert reading.payload["triggers"] == list(DEFAULTS)
    assert writing.payload == client.ok("voicewake.get") == {"triggers": ["x"]}


@pytest.mark.parametrize("protocol", [3, 4])
def test_routing(gate: Gate, protocol: int) -> None:
    """Every word wakes the session that the device is at: there are no routes."""
    config = gate.client(protocol).ok("voicewake.routing.get", {})["config"]

    assert config == {
        "version": 1,
        "defaultTarget": {"mode": "current"},
        "routes": [],
        "updatedAtMs": 0,
    }


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("phase", [None, "idle"])
def test_the_talk_mode(gate: Gate, protocol: int, phase: str | None) -> None:
    """The talk mode is told to everybody who may talk, on both versions."""
    client, other = gate.client(protocol, scopes=WRITE), gate.client(7 - protocol, scopes=WRITE)
    reader, node = gate.client(scopes=READ), gate.node()
    params: dict[str, Any] = {"enabled": True} | ({} if phase is None else {"phase": phase})

    answer = client.ok("talk.mode", params)

    assert answer == {"enabled": True, "phase": phase, "ts": gate.clock.now_ms()}
    assert client.events("talk.mode") == other.events("talk.mode") == [answer]
    assert reader.frames == node.frames == []


def test_who_may_talk(gate: Gate) -> None:
    """Version 4 asks for the scope to talk, version 3 for that to write."""
    params = {"enabled": False}

    assert gate.client(4, scopes=TALK).ok("talk.mode", params)["enabled"] is False
    assert "operator.write" in gate.client(3, scopes=TALK).refused("talk.mode", params)["message"]
    for version in (3, 4):
        assert gate.client(version, scopes=READ).refused("talk.mode", params)


def test_talking_in_a_page_of_version_3(gate: Gate) -> None:
    """A page of version 3 talks through a phone: without one it is refused."""
    page = gate.client(3, mode="webchat")
    gate.node(device_id="n1")

    refused = page.refused("talk.mode", {"enabled": True})
    assert gate.client(4, mode="webchat").ok("talk.mode", {"enabled": True})
    phone = gate.node(device_id="n2")
    caller = phone.connection.caller
    caller.client = msgspec.structs.replace(caller.client, platform="iOS 26.0")

    assert (refused["code"], refused["retryable"]) == ("UNAVAILABLE", True)
    assert page.ok("talk.mode", {"enabled": True})["enabled"]
