"""Every recorded pairing of both versions, replayed against this gateway over wires in memory.

What a client is answered, how its connection is closed and what operators are told have to be the
recorded ones; texts are free, and so are ids, tokens and times, though what was the same has to be the
same again. Where this gateway differs on purpose the step is in :data:`DELIBERATE` with the reason.
"""

from __future__ import annotations

from typing import Any

import pytest

from gateway.config import Config, ServerConfig
from gateway.core.deviceproof import DeviceIdentity
from gateway.testing import TOKEN
from tests.core.schemas import load
from tests.net.gate import Client, Gate

PAGE = "https://ui.example"
CLIENTS = {
    3: {"id": "openclaw-control-ui", "mode": "webchat"},
    4: {"id": "cli", "mode": "cli"},
}
FREE = {"remediationHint", "ts", "publicKey", "issuedAtMs", "recoveryScope", "deviceToken"}
FREE |= {"recoveryMigrationAllowed"}
ASKED = "device.pair.requested"
TOLD = {ASKED, "device.pair.resolved"}

DELIBERATE = {
    (
        3,
        "remote op repeat with more scopes",
    ): "what an operator was shown under an id does not grow, as in version 4",
    (3, "remote op role upgrade"): "as above: a node is more than an operator that reads",
    (
        3,
        "live conn then token rotate",
    ): "who has a token that was replaced is closed, as in version 4",
    (
        3,
        "live conn then token revoke",
    ): "who has a token that was revoked is closed, as in version 4",
    (3, "after revoke shared token"): "what was revoked has to be approved, as in version 4",
    (3, "live conn then device remove"): "what was revoked has to be approved, as in version 4",
    (4, "after revoke shared token"): "what it asked for before is open still, and is superseded",
}


class Replay:
    """One recording, replayed step by step; knows which of our names stands for which recorded one."""

    def __init__(self, protocol: int) -> None:
        self.protocol = protocol
        server = ServerConfig(allowed_origins=[PAGE])
        self.gate = Gate(config=Config(server=server))
        self.operator = self.gate.join(protocol)
        self.operator.received()
        self.names: dict[str, str] = {"tok-v3": TOKEN, "tok-v4": TOKEN}
        """Ours by recorded name: credentials, request ids, device ids."""
        self.devices: dict[str, DeviceIdentity] = {}

    def play(self, step: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Do what was done; return what was recorded and what came, in recorded names."""
        self.gate.clock.advance(1)
        if step["name"] == "approve" or step["name"] == "remote node after approval":
            self._approve()
        if step["name"] == "approve":
            return {}, {}
        answer, client = self._connect(step["opts"])
        self._learn(step, answer)
        self._then(step)
        closed = client.closed()
        told = [m for m in self.operator.received() if m.get("event") in TOLD]
        seen = {
            "result": answer["payload"] if answer["ok"] else answer["error"],
            "close": closed[0] if closed else None,
            "told": [(m["event"], m["payload"]) for m in told],
        }
        events = [m for m in step.get("approverEvents", []) if m["event"] in TOLD]
        recorded = {
            "result": step["result"],
            "close": step["close"][0] if "close" in step else None,
            "told": [(m["event"], m["payload"]) for m in events],
        }
        new = [[p["requestId"] for n, p in t["told"] if n == ASKED] for t in (recorded, seen)]
        self.names.update(zip(*new, strict=False))
        return self._plain(recorded), self._plain(seen, back=True)

    def _connect(self, opts: dict[str, Any]) -> tuple[dict[str, Any], Client]:
        kind = {"version": "1.0.0", "platform": "linux", **CLIENTS[self.protocol]}
        kind |= opts.get("client", {})
        if kind["id"] == "node-host":
            kind.setdefault("deviceFamily", "Linux")
        page = kind["mode"] == "webchat"
        client = self.gate.open("203.0.113.5", **({"Origin": PAGE} if page else {}))
        auth = {name: self.names.get(value, value) for name, value in opts.get("auth", {}).items()}
        device = self._device(opts["device"]) if "device" in opts else None
        answer = client.connect(
            self.protocol,
            device=device,
            client=kind,
            role=opts.get("role", "operator"),
            scopes=opts.get("scopes", []),
            auth=auth,
            **opts.get("extra", {}),
        )
        return answer, client

    def _device(self, recorded: str) -> DeviceIdentity:
        if recorded not in self.devices:
            seed = bytes([len(self.devices) + 1]) * 32
            self.devices[recorded] = DeviceIdentity.from_seed(seed)
            self.names[recorded] = self.devices[recorded].device_id
        return self.devices[recorded]

    def _approve(self) -> None:
        pending = self.operator.call("device.pair.list")["payload"]["pending"]
        assert self.operator.call("device.pair.approve", {"requestId": pending[0]["requestId"]})[
            "ok"
        ]
        self.operator.received()

    def _learn(self, step: dict[str, Any], answer: dict[str, Any]) -> None:
        """Remember which of our tokens and requests stands for the recorded one."""
        theirs = step["result"].get("auth", {}).get("deviceToken")
        if theirs is not None and answer["ok"]:
            self.names[theirs] = answer["payload"]["auth"]["deviceToken"]

    def _then(self, step: dict[str, Any]) -> None:
        """Do to a device what was done to it while it was connected."""
        for what, done in step.get("extra", {}).items():
            method = {"rotate": "device.token.rotate", "revoke": "device.token.revoke"}.get(what)
            if method is None:
                continue
            params = {"deviceId": self.names[step["opts"]["device"]], "role": "operator"}
            answer = self.operator.call(method, params)
            assert answer["ok"], answer
            if "token" in done:
                self.names[done["token"]] = "replaced"

    def _plain(self, value: Any, *, back: bool = False) -> Any:
        """Return a value without what is free, with recorded names for ours."""
        if isinstance(value, dict):
            return {
                key: self._plain(each, back=back)
                for key, each in value.items()
                if key not in FREE and not (key == "message" and isinstance(each, str))
            }
        if isinstance(value, (list, tuple)):
            return [self._plain(each, back=back) for each in value]
        if back and isinstance(value, str):
            ours = {mine: theirs for theirs, mine in self.names.items()}
            return ours.get(value, value)
        return value


def result_of_step(result: dict[str, Any]) -> dict[str, Any]:
    """Return of an answer what was recorded of it: the grant, or the error."""
    if "code" in result:
        return {"code": result["code"], "details": result.get("details")}
    return {"auth": result["auth"]}


@pytest.mark.parametrize("protocol", [3, 4])
def test_recorded_pairings(protocol: int) -> None:
    """Each step of the recorded pairing goes as it went then, but for the differences that are named."""
    replay = Replay(protocol)
    different = []
    for step in load("pairing_transcripts.json")[f"v{protocol}"]:
        recorded, seen = replay.play(step)
        if not recorded:
            continue
        for each in (recorded, seen):
            each["result"] = result_of_step(each["result"])
        if (protocol, step["name"]) in DELIBERATE:
            different.append(step["name"])
            assert recorded != seen
        else:
            assert (step["name"], seen) == (step["name"], recorded)
    assert different == [name for version, name in DELIBERATE if version == protocol]
