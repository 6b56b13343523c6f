"""Every refusal of the catalogue can be had, says what the catalogue says, and names what mends it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from gateway.cli import explain
from gateway.config import AuthConfig, Config, ServerConfig
from gateway.core.catalogue import CATALOGUE
from gateway.testing import TOKEN
from tests.net.gate import CLI, DEVICE, UI, Client, Gate

FAR = "192.0.2.7"
CONTROL_UI = {"id": "openclaw-control-ui", "version": "1.0", "platform": "web", "mode": "ui"}
NODE = {"id": "node-host", "version": "1.0", "platform": "linux", "mode": "node"}
COMMAND = re.compile(r"gatewayctl \S+|ssh -L|timedatectl|\b(auth|server)\.[a-z_]+")
"""What a person can type, or look for in the configuration."""

Provoke = Callable[[int], Client]


def first(data: bytes) -> Provoke:
    """Send this as the first frame."""

    def provoke(protocol: int) -> Client:
        client = Gate().open()
        client.received()
        client.raw(data)
        return client

    return provoke


def shown(
    *, host: str = "127.0.0.1", config: Config | None = None, secret: str | None = TOKEN, **how: Any
) -> Provoke:
    """Connect so; ``headers`` are those of the upgrade."""

    def provoke(protocol: int) -> Client:
        gate = Gate(config=config or Config(), secret=secret)
        client = gate.open(host, **how.get("headers", {}))
        params = {name: value for name, value in how.items() if name != "headers"}
        client.answer = client.connect(protocol, **params)  # type: ignore[attr-defined]
        return client

    return provoke


def again(config: Config | None = None, *, before: dict[str, Any], **after: Any) -> Provoke:
    """Let a device be paired, and let it come again from elsewhere and otherwise."""

    def provoke(protocol: int) -> Client:
        gate = Gate(config=config or Config())
        assert gate.open().connect(protocol, device=DEVICE, **{"client": UI, **before})["ok"]
        client = gate.open(FAR)
        asked = {"client": UI, **before, **after}
        client.answer = client.connect(protocol, device=DEVICE, **asked)  # type: ignore[attr-defined]
        return client

    return provoke


def tampered(**fields: Any) -> Provoke:
    """Connect with a proof of which some fields are others."""

    def provoke(protocol: int) -> Client:
        client = Gate().open()
        send, frames = client.raw, []
        client.raw = lambda data, **how: frames.append(data)  # type: ignore[method-assign]
        client.connect(protocol, client=UI, device=DEVICE)
        client.raw = send  # type: ignore[method-assign]
        frame = client.decoded(frames[0].encode())
        frame["params"]["device"] |= fields
        client.send(**frame)
        return client

    return provoke


def scope_beyond(protocol: int) -> Client:
    """Come by a device token that covers less than is asked for."""
    gate = Gate()
    asked: dict[str, Any] = {"client": UI, "device": DEVICE}
    paired = gate.open().connect(protocol, scopes=["operator.read"], **asked)
    auth = {"deviceToken": paired["payload"]["auth"]["deviceToken"]}
    client = gate.open(FAR)
    client.answer = client.connect(protocol, auth=auth, **asked)  # type: ignore[attr-defined]
    return client


def locked_out(protocol: int) -> Client:
    """Show wrong tokens until none is looked at."""
    gate = Gate()
    for _ in range(11):
        client = gate.open(FAR)
        answer = client.connect(protocol, auth={"token": "wrong"})
    client.answer = answer  # type: ignore[attr-defined]
    return client


def crowded(protocol: int) -> Client:
    """Send frame after frame while the connect is decided."""
    gate = Gate()
    store = gate.wiring.store
    store.update_pairing = lambda *args: Deferred()  # type: ignore[method-assign]
    client = gate.open()
    client.connect(protocol, client=UI, device=DEVICE)
    for _ in range(16):
        client.request("health")
    return client


PASSWORD = Config(auth=AuthConfig(mode="password", password="p" * 20))
PROXY = Config(
    auth=AuthConfig(
        mode="trusted-proxy",
        allow_users=["ann"],
        required_headers=["x-team"],
        allow_loopback_proxy=False,
    ),
    server=ServerConfig(trusted_proxies=["192.0.2.7", "127.0.0.1"]),
)
ANN = {"X_Forwarded_For": "203.0.113.9", "X_Forwarded_User": "ann", "X_Team": "blue"}

CASES: dict[str, Provoke] = {
    "invalid-params": first(b'{"type":"req","id":"1","method":"connect","params":{"client":1}}'),
    "not-connect-first": first(b'{"type":"req","id":"1","method":"health"}'),
    "bad-first-frame": first(b"[]"),
    "first-frame-not-json": first(b"hello"),
    "too-many-frames": crowded,
    "protocol-mismatch": shown(minProtocol=9, maxProtocol=10),
    "invalid-role": shown(role="king"),
    "origin-missing": shown(client=CONTROL_UI, device=DEVICE),
    "origin-not-allowed": shown(headers={"Origin": "https://evil.example"}),
    "token_missing": shown(auth={}, client=UI, device=DEVICE),
    "token_mismatch": shown(auth={"token": "wrong"}),
    "token_missing_config": shown(secret=None),
    "password_missing": shown(config=PASSWORD, secret="p" * 20, auth={}, client=UI, device=DEVICE),
    "password_mismatch": shown(config=PASSWORD, secret="p" * 20, auth={"password": "wrong"}),
    "password_missing_config": shown(config=PASSWORD, secret=None, auth={"password": "wrong"}),
    "device_token_mismatch": shown(auth={"deviceToken": "x" * 43}, client=UI, device=DEVICE),
    "scope_mismatch": scope_beyond,
    "bootstrap_token_invalid": shown(auth={"bootstrapToken": "x" * 43}, client=UI, device=DEVICE),
    "rate_limited": locked_out,
    "trusted_proxy_untrusted_source": shown(config=PROXY, host="203.0.113.1", auth={}),
    "trusted_proxy_loopback_source": shown(config=PROXY, headers=ANN, auth={}),
    "trusted_proxy_missing_header": shown(
        config=PROXY, host=FAR, headers={**ANN, "X_Team": ""}, auth={}
    ),
    "trusted_proxy_user_missing": shown(
        config=PROXY, host=FAR, headers={**ANN, "X_Forwarded_User": ""}, auth={}
    ),
    "trusted_proxy_user_not_allowed": shown(
        config=PROXY, host=FAR, headers={**ANN, "X_Forwarded_User": "bob"}, auth={}
    ),
    "device-required": shown(auth={}),
    "control-ui-device-required": shown(
        client=CONTROL_UI, headers={"Origin": "http://localhost:18789"}
    ),
    "device-id-mismatch": tampered(id="0" * 64),
    "device-signature-stale": tampered(signedAt=1),
    "device-nonce-missing": tampered(nonce=" "),
    "device-nonce-mismatch": tampered(nonce="another"),
    "device-signature": tampered(signature="A" * 86),
    "not-paired": shown(host=FAR, client=UI, device=DEVICE),
    "role-upgrade": again(before={}, client=NODE, role="node", scopes=[]),
    "scope-upgrade": again(before={"scopes": ["operator.read"]}, scopes=["operator.admin"]),
    "metadata-upgrade": again(before={}, client={**UI, "platform": "darwin"}),
}
"""By the names of the catalogue: what brings each about."""
ELSEWHERE = {
    "host-not-allowed": "tests/security/test_s02_dns_rebinding.py",
    "device-public-key": "tests/core/test_deviceproof.py",
}
"""Those that this rig can not bring about, and what does."""


def test_every_refusal_can_be_had() -> None:
    """The catalogue holds nothing that can not happen."""
    assert set(CASES) | set(ELSEWHERE) == set(CATALOGUE)


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_refusal_names_what_mends_it(name: str) -> None:
    """A person reads what to type, or which key of the configuration to set."""
    advice = CATALOGUE[name]
    assert COMMAND.search(advice.mend), advice
    assert advice.text.startswith(advice.says)
    assert not advice.told or advice.mend in advice.text


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("name", CASES)
def test_a_refusal_says_what_the_catalogue_says(name: str, protocol: int) -> None:
    """Sentence, code, reason and mend are the catalogue's, and the close frame has the sentence."""
    if protocol == 3 and name in ("scope_mismatch", "metadata-upgrade", "bootstrap_token_invalid"):
        return  # of version 4: 3 has no such answer
    advice = CATALOGUE[name]
    client = CASES[name](protocol)
    answer = getattr(client, "answer", None)
    if answer is None:
        answers = [frame for frame in client.received() if frame["type"] == "res"]
        answer = answers[-1] if answers else {}
    closed = client.closed()
    assert closed is not None
    says = advice.says.partition("…")[0]
    error = answer.get("error")
    if error is None:
        assert closed[1] == says
        return
    words = error["message"].removeprefix("unauthorized: ")
    pairing = error["code"] == "NOT_PAIRED" and name != "device-required"
    assert words.startswith("pairing required" if pairing else says)
    details = error.get("details") or {}
    code = advice.code if protocol == 4 or advice.code_3 is None else advice.code_3
    assert details.get("code", "") == code
    client.wire.lose()
    ended = json.loads(client.gate.wiring.services.ledger.closed(1)[0])
    why = " ".join(explain.connection(ended, 0).replace("`", "").split())
    wanted = [each.group() for each in COMMAND.finditer(advice.mend)]
    assert wanted == ["gatewayctl why"] or any(each in why for each in wanted), why
    told = f"{words} {details.get('remediationHint', '')}"
    if advice.told:
        assert COMMAND.search(told), told
    assert closed[1].removeprefix("unauthorized: ").startswith(("pairing required", says[:80]))


def test_a_wrong_kind_is_named_over_the_wire() -> None:
    """A setup code or an API key that is pasted as the token is named in the answer, and not echoed."""
    for secret, word in (("sk-canary-0123456789", "API key"), (f"{TOKEN}\n", "line break")):
        for protocol in (3, 4):
            client = Gate().open()
            answer = client.connect(protocol, client=CLI, auth={"token": secret})
            assert word in answer["error"]["message"]
            assert "gatewayctl token --show" in answer["error"]["message"]
            assert "canary" not in client.wire.sent.decode("latin-1")
