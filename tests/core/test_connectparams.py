"""The params of ``connect`` and the choice of the protocol version."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.core.connectparams import (
    MAX_CLAIM,
    InvalidConnect,
    check_connect,
    choose_protocol,
    claim,
    decode_connect,
)
from tests.core.schemas import VERSIONS, validator_cases

CLIENT = {"id": "cli", "version": "1", "platform": "linux", "mode": "cli"}
WORKER = {"bundleHash": "0af" * 21 + "0", "openclawVersion": "1", "protocolFeatures": ["a", "b"]}


def fault(protocol: int, value: Any) -> str | None:
    """Return what a version finds wrong with connect params."""
    try:
        check_connect(decode_connect(json.dumps(value).encode()), protocol)
    except InvalidConnect as error:
        return str(error)
    return None


def params(**extra: Any) -> dict[str, Any]:
    """Return connect params with further fields."""
    return {"minProtocol": 3, "maxProtocol": 4, "client": CLIENT, **extra}


@pytest.mark.parametrize("protocol", VERSIONS)
def test_recorded_connect_params_get_the_verdict_of_the_version(protocol: int) -> None:
    """All recorded connect params are judged as the version's validator judges them."""
    cases = validator_cases("ConnectParams", protocol)
    verdicts = {label: fault(protocol, value) is None for label, value, _ in cases}
    assert len(cases) == 46
    assert verdicts == {label: valid for label, _, valid in cases}


@pytest.mark.parametrize(
    "extra",
    [
        {"client": {**CLIENT, "buildId": "b"}},
        {"client": {**CLIENT, "timeZone": "Europe/Berlin"}},
        {"client": {**CLIENT, "id": "openclaw-tui"}},
        {"client": {**CLIENT, "mode": "worker"}},
        {"auth": {"bootstrapToken": "b"}},
        {"auth": {"approvalRuntimeToken": ""}},
        {"auth": {"agentRuntimeIdentityToken": "a"}},
        {"computerUse": None},
        {"modelCatalog": {}},
        {"modelCatalog": {"agentId": "a", "sessionKey": "s"}},
        {"modelCatalog": {"agentId": "a", "shortId": "s", "slugHint": "h"}},
        {"workerRuns": WORKER},
        {"workerRuns": {**WORKER, "bundlePrewarm": 1}},
    ],
)
def test_what_only_version_4_knows(extra: dict[str, Any]) -> None:
    """A field or value that version 4 added is refused on a connection of version 3."""
    assert fault(4, params(**extra)) is None
    assert fault(3, params(**extra)) is not None


@pytest.mark.parametrize(
    "extra",
    [
        {"client": {**CLIENT, "buildId": "b" * 97}},
        {"client": {**CLIENT, "timeZone": ""}},
        {"modelCatalog": {"slugHint": "h"}},
        {"modelCatalog": {"sessionKey": "s", "shortId": "s"}},
        {"modelCatalog": {"more": "s"}},
        {"workerRuns": {**WORKER, "bundleHash": "Z" * 64}},
        {"workerRuns": {**WORKER, "bundleHash": "a" * 63}},
        {"workerRuns": {**WORKER, "protocolFeatures": ["a", "a"]}},
        {"workerRuns": {**WORKER, "protocolFeatures": list(map(str, range(65)))}},
        {"workerRuns": {**WORKER, "bundlePrewarm": 2**53}},
        {"workerRuns": {}},
    ],
)
def test_what_no_version_takes(extra: dict[str, Any]) -> None:
    """The bounds of version 4's further fields hold."""
    for protocol in VERSIONS:
        assert fault(protocol, params(**extra)) is not None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (params(zzz=1), "at root: unexpected property 'zzz'"),
        (
            params(client={**CLIENT, "platform": 1}),
            "at /client/platform: expected `str`, got `int`",
        ),
        (params(auth={"x": 1}), "at /auth: unexpected property 'x'"),
        (params(caps=["a", 1]), "at /caps/1: expected `str`, got `int`"),
        ({"minProtocol": 3}, "must have required property 'maxProtocol'"),
        (params(client={"id": "cli"}), "at /client: must have required property 'version'"),
        (
            params(client={**CLIENT, "id": "x"}),
            "at /client: id must be equal to one of the allowed",
        ),
    ],
)
def test_a_refusal_says_where(value: Any, text: str) -> None:
    """The text names the place of the fault."""
    assert (fault(4, value) or "").startswith(text)


def test_a_version_names_the_field_it_does_not_know() -> None:
    """A field of version 4 within an object is refused in version 3 with its place."""
    value = params(client={**CLIENT, "buildId": "b"})
    assert fault(3, value) == "at /client: unexpected property 'buildId'"


def test_no_params_are_no_object() -> None:
    """A connect request without params is refused as the wrong type; what can't be read, as well."""
    with pytest.raises(InvalidConnect, match="expected `object`, got `null`"):
        decode_connect(b"")
    with pytest.raises(InvalidConnect, match="truncated"):
        decode_connect(b"{")


@pytest.mark.parametrize(
    ("minimum", "maximum", "chosen"),
    [
        (3, 3, 3),
        (4, 4, 4),
        (3, 4, 4),
        (1, 99, 4),
        (1, 3, 3),
        (4, 9, 4),
        (1, 2, None),
        (5, 9, None),
        (4, 3, None),
        (10**400, 10**400, None),
    ],
)
def test_the_highest_common_version_is_chosen(
    minimum: int, maximum: int, chosen: int | None
) -> None:
    """Of the versions in the client's range the gateway takes the highest it speaks."""
    assert choose_protocol(minimum, maximum) == chosen


def test_what_the_domain_keeps_of_a_client() -> None:
    """Who a client says it is goes on without what only the handshake needs."""
    known = decode_connect(
        json.dumps(params(client={**CLIENT, "displayName": "D", "buildId": "b"})).encode()
    ).client.info()
    assert (known.id, known.mode, known.version, known.platform) == ("cli", "cli", "1", "linux")
    assert (known.display_name, known.device_family, known.instance_id) == ("D", None, None)
    names = {"displayName": "a", "deviceFamily": "b", "modelIdentifier": "c", "instanceId": "d"}
    full = decode_connect(json.dumps(params(client={**CLIENT, **names})).encode()).client.info()
    told = (full.display_name, full.device_family, full.model_identifier, full.instance_id)
    assert told == ("a", "b", "c", "d")


def test_no_secret_stands_in_a_representation() -> None:
    """Credentials are shown neither by the params nor by an error about them."""
    secrets = {name: f"canary-{name}" for name in ("token", "deviceToken", "password")}
    decoded = decode_connect(json.dumps(params(auth=secrets)).encode())
    assert "canary" not in f"{decoded!r} {decoded} {decoded.auth!r} {decoded.auth}"
    broken = params(auth={**secrets, "password": 5, "bootstrapToken": "canary"})
    assert "canary" not in str(fault(4, broken))


@pytest.mark.parametrize(
    ("auth", "signed"),
    [
        ({}, ""),
        ({"token": "t", "deviceToken": "d", "bootstrapToken": "b"}, "t"),
        ({"token": "", "deviceToken": "d"}, ""),
        ({"deviceToken": "d", "bootstrapToken": "b"}, "d"),
        ({"bootstrapToken": "b", "password": "p"}, "b"),
        ({"password": "p"}, ""),
    ],
)
def test_a_signature_covers_the_first_token_that_is_there(
    auth: dict[str, str], signed: str
) -> None:
    """An empty token counts as given; a password is never signed."""
    decoded = decode_connect(json.dumps(params(auth=auth)).encode())
    assert decoded.auth.signed_token() == signed  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("Ann's phone", "Ann's phone"),
        ("  Ann  B ", "Ann B"),
        ("a\n\x1b[31mb\x07", "a [31mb"),
        ("\u202eevil\u200b\ufeff", "evil"),
        ("Ann\u2800\u3164\u3164admin", "Ann admin"),
        ("Zo\u00eb \U0001f4f1", "Zo\u00eb \U0001f4f1"),
        ("x" * 300, "x" * MAX_CLAIM),
        ("\u200b", None),
        (None, None),
    ],
)
def test_claims_can_be_shown(said: str | None, shown: str | None) -> None:
    """A name steers no terminal, does not turn the line around, and feigns no column of its own."""
    assert claim(said) == shown


def test_claims_of_nothing() -> None:
    """Who says nothing of what everybody has to say is told as such."""
    odd = {**CLIENT, "version": " ", "platform": "\u200b", "displayName": "\t"}
    client = decode_connect(json.dumps(params(client=odd)).encode()).client.info()
    assert (client.version, client.platform, client.display_name) == ("unknown", "unknown", None)
