"""Who may come in, as far as no store is needed to decide it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from gateway.core import connect, connectparams, refusals
from gateway.core.access import OriginPolicy, Peer
from gateway.core.catalogue import CATALOGUE
from gateway.core.connect import DoorPolicy, Proven
from gateway.core.connectparams import InvalidConnect
from gateway.core.credentials import AuthPolicy, Unverified
from gateway.core.deviceproof import DeviceIdentity
from gateway.core.refusals import Refusal, unauthorized
from gateway.errors import CloseCause, CloseCode
from gateway.model import Role
from tests.core.door import (
    DEVICE,
    LOCAL,
    NONCE,
    NOW_MS,
    POLICY,
    REMOTE,
    TOKEN,
    client,
    params,
    signed,
)
from tests.core.schemas import VERSIONS, violations

WRONG = {"token": "canary-wrong"}
OTHER = DeviceIdentity.from_seed(bytes(32))
OPEN_DOOR = DoorPolicy(AuthPolicy("none"), OriginPolicy())


def judged(fields: Any, *, policy: DoorPolicy = POLICY, peer: Peer = LOCAL) -> Proven:
    """Judge connect params as a client sends them."""
    decoded = connectparams.decode_connect(json.dumps(fields).encode())
    return connect.judge(decoded, policy=policy, peer=peer, nonce=NONCE, now_ms=NOW_MS)


def refused(fields: Any, *, policy: DoorPolicy = POLICY, peer: Peer = LOCAL) -> Refusal:
    """Return the refusal of connect params."""
    with pytest.raises(Refusal) as caught:
        judged(fields, policy=policy, peer=peer)
    return caught.value


def details(refusal: Refusal) -> Any:
    """Return the details of a refusal."""
    assert refusal.error is not None
    return refusal.error.get("details")


# -- without a device

SCOPES_WITHOUT_DEVICE = [
    ("cli/cli", LOCAL, True, "a command line on this machine, as version 4; version 3 drops them"),
    ("gateway-client/backend", LOCAL, True, "a backend on this machine, as version 4"),
    ("cli/cli", REMOTE, False, "from elsewhere a right needs an identity, in both versions"),
    ("gateway-client/backend", REMOTE, False, "from elsewhere"),
    ("cli/cli", replace(LOCAL, forwarded=True), False, "a proxy stands between"),
    ("cli/cli", replace(LOCAL, origin="http://localhost"), False, "a page is no command line"),
    ("gateway-client/backend", replace(LOCAL, origin="http://localhost"), False, "nor a backend"),
    ("cli/ui", LOCAL, False, "another mode"),
    ("gateway-client/cli", LOCAL, False, "another id"),
    ("gateway-client/ui", LOCAL, False, "version 3's terminal UI shows its device"),
    ("webchat-ui/webchat", replace(LOCAL, origin="http://localhost"), False, "a page"),
    ("test/test", LOCAL, False, "any other client"),
]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("kind", "peer", "kept", "why"), SCOPES_WITHOUT_DEVICE)
def test_who_keeps_scopes_without_a_device(
    kind: str, peer: Peer, kept: bool, why: str, version: int
) -> None:
    """One policy for both versions: without a device only two kinds of local client have rights."""
    proven = judged(params(kind, (version, version)), peer=peer)
    assert proven.scopes == (("operator.admin",) if kept else ()), why
    assert (proven.device_id, proven.public_key, proven.token_candidate) == (None, None, None)
    assert (proven.role, proven.protocol, proven.shared.method) == (Role.OPERATOR, version, "token")


@pytest.mark.parametrize(("peer", "kept"), [(LOCAL, True), (REMOTE, False)])
def test_without_authentication_only_this_machine_has_rights(peer: Peer, kept: bool) -> None:
    """In mode none a local operator keeps what it asks for; from elsewhere it gets nothing."""
    proven = judged(params("test/test", auth=None), policy=OPEN_DOOR, peer=peer)
    assert proven.scopes == (("operator.admin",) if kept else ())


@pytest.mark.parametrize("version", VERSIONS)
def test_an_operator_with_nothing_is_asked_for_a_device(version: int) -> None:
    """Without a credential and without a device nobody comes in."""
    for auth in (None, {}, {"token": "", "password": ""}):
        refusal = refused(params("cli/cli", (version, version), auth=auth))
        assert refusal.error == {
            "code": "NOT_PAIRED",
            "message": CATALOGUE["device-required"].text,
            "details": {"code": "DEVICE_IDENTITY_REQUIRED"},
        }
        assert (refusal.cause, refusal.code) == (CloseCause.DEVICE_REQUIRED, CloseCode.POLICY)
        assert refusal.close_reason == "device identity required"


def test_a_node_always_needs_a_device() -> None:
    """The shared secret alone makes no node; a wrong one is refused as wrong."""
    node = params("node-host/node", role="node")
    assert details(refused(node)) == {"code": "DEVICE_IDENTITY_REQUIRED"}
    assert details(refused({**node, "auth": WRONG}))["code"] == "AUTH_TOKEN_MISMATCH"
    assert details(refused(node, policy=OPEN_DOOR))["code"] == "DEVICE_IDENTITY_REQUIRED"


@pytest.mark.parametrize("kind", ["openclaw-control-ui/webchat", "openclaw-tui/ui"])
def test_user_interfaces_need_a_device(kind: str) -> None:
    """The Control UI and version 4's terminal UI are refused without one, right token or not."""
    page = replace(LOCAL, origin="http://localhost:18789")
    for auth in ({"token": TOKEN}, WRONG, None):
        refusal = refused(params(kind, auth=auth), peer=page)
        assert details(refusal) == {"code": "CONTROL_UI_DEVICE_IDENTITY_REQUIRED"}
        assert refusal.cause is CloseCause.DEVICE_REQUIRED


@pytest.mark.parametrize("auth", [{"password": "guess"}, {"token": "guess"}])
def test_no_password_is_compared_for_who_is_refused_anyway(auth: Any) -> None:
    """A device without a proof, and a client without its device, learn nothing by the time it takes."""
    policy = DoorPolicy(
        AuthPolicy("password", "$argon2id$v=19$m=8,t=1,p=1$c2Fs$aGFz"), OriginPolicy()
    )
    fields = params("test/ui", auth=auth)
    forged = refused(signed(fields, nonce="of another connection"), policy=policy)
    assert forged.cause is CloseCause.DEVICE_AUTH_INVALID
    assert refused(params("openclaw-tui/ui", auth=auth), policy=policy).cause is (
        CloseCause.DEVICE_REQUIRED
    )
    for sound in (fields, signed(fields)):
        with pytest.raises(Unverified):
            judged(sound, policy=policy)


@pytest.mark.parametrize(
    ("policy", "auth", "reason", "code"),
    [
        (POLICY.auth, WRONG, "token_mismatch", "AUTH_TOKEN_MISMATCH"),
        (AuthPolicy("password", TOKEN), WRONG, "password_mismatch", "AUTH_PASSWORD_MISMATCH"),
        (AuthPolicy("token"), None, "token_missing_config", "AUTH_TOKEN_NOT_CONFIGURED"),
        (AuthPolicy("password"), WRONG, "password_missing_config", "AUTH_PASSWORD_NOT_CONFIGURED"),
    ],
)
def test_a_wrong_credential_is_refused(
    policy: AuthPolicy, auth: Any, reason: str, code: str
) -> None:
    """The refusal names the reason and, in version 4, the next step; nothing of the credential."""
    door = DoorPolicy(policy, OriginPolicy())
    three, four = (refused(params("cli/cli", (v, v), auth=auth), policy=door) for v in VERSIONS)

    assert details(three) == {"code": code, "authReason": reason}
    step = "review_auth_configuration" if "config" in reason else "update_auth_credentials"
    assert details(four) == {
        "code": code,
        "authReason": reason,
        "canRetryWithDeviceToken": False,
        "recommendedNextStep": step,
    }
    assert (four.cause, four.code) == (CloseCause.UNAUTHORIZED, CloseCode.POLICY)
    assert four.reason.startswith("unauthorized: ")


def test_every_reason_has_a_step() -> None:
    """A missing credential is a matter of configuration; a device token may help; others are new."""
    steps = {
        reason: details(unauthorized(reason, 4))["recommendedNextStep"]
        for reason in ("token_missing", "password_missing", "scope_mismatch", "rate_limited")
    }
    assert steps == {
        "token_missing": "update_auth_configuration",
        "password_missing": "update_auth_configuration",
        "scope_mismatch": "review_auth_configuration",
        "rate_limited": "wait_then_retry",
    }
    helped = details(unauthorized("token_mismatch", 4, device_token_may_help=True))
    assert helped["recommendedNextStep"] == "retry_with_device_token"
    assert helped["canRetryWithDeviceToken"] is True
    assert details(unauthorized("token_mismatch", 3, device_token_may_help=True)) == {
        "code": "AUTH_TOKEN_MISMATCH",
        "authReason": "token_mismatch",
    }
    assert unauthorized("else", 4).reason == "unauthorized: credentials refused"


# -- with a device


@pytest.mark.parametrize("payload", ["v2", "v3"])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_proven_device_keeps_its_scopes(version: int, payload: str) -> None:
    """Either payload proves a device in either version; what it asks for is judged by the store."""
    asked = ["operator.read", "operator.write", "operator.read"]
    fields = signed(params("cli/cli", (version, version), scopes=asked), payload=payload)
    proven = judged(fields, peer=REMOTE)

    assert proven.scopes == ("operator.read", "operator.write")
    assert (proven.device_id, proven.public_key) == (DEVICE.device_id, DEVICE.public_key)
    assert (proven.client.id, proven.peer) == ("cli", REMOTE)


def test_a_node_gets_no_scopes() -> None:
    """What a node asks for is not looked at."""
    proven = judged(signed(params("node-host/node", role="node", scopes=["operator.admin"])))
    assert (proven.role, proven.scopes) == (Role.NODE, ())


def test_a_wrong_token_may_be_a_device_token() -> None:
    """With a device a wrong or missing shared secret is left to the store."""
    for auth, candidate in (
        (WRONG, WRONG["token"]),
        ({"token": "a", "deviceToken": "b"}, "b"),
        ({"deviceToken": "", "token": "a"}, "a"),
        ({"deviceToken": "b"}, "b"),
        ({"password": "p"}, None),
        (None, None),
    ):
        proven = judged(signed(params(auth=auth)))
        assert not proven.shared.ok
        assert proven.token_candidate == candidate


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("change", "reason", "code"),
    [
        ({"identity": OTHER, "id": DEVICE.device_id}, "device-id-mismatch", "DEVICE_ID_MISMATCH"),
        ({"publicKey": "!"}, "device-id-mismatch", "DEVICE_ID_MISMATCH"),
        ({"signed_at_ms": NOW_MS - 120_001}, "device-signature-stale", "SIGNATURE_EXPIRED"),
        ({"signed_at_ms": 10**30}, "device-signature-stale", "SIGNATURE_EXPIRED"),
        ({"nonce": "other"}, "device-nonce-mismatch", "NONCE_MISMATCH"),
        ({"nonce": " "}, "device-nonce-missing", "NONCE_REQUIRED"),
        ({"signature": "AAAA"}, "device-signature", "SIGNATURE_INVALID"),
    ],
)
def test_a_proof_that_does_not_hold_is_refused(
    change: dict[str, Any], reason: str, code: str, version: int
) -> None:
    """Each fault of a proof has its reason; version 3 has one code for all."""
    refusal = refused(signed(params("cli/cli", (version, version)), **change))
    shown = "DEVICE_AUTH_INVALID" if version == 3 else f"DEVICE_AUTH_{code}"
    assert details(refusal) == {"code": shown, "reason": reason}
    assert refusal.cause is CloseCause.DEVICE_AUTH_INVALID


@pytest.mark.parametrize(
    "change",
    [
        {"scopes": ["operator.admin", "operator.pairing"]},
        {"role": "node"},
        {"auth": {"token": "another"}},
        {"client": client("gateway-client/cli")},
        {"client": client("cli/ui")},
    ],
)
def test_a_signature_covers_what_is_claimed(change: dict[str, Any]) -> None:
    """Who changes a claim after the signature is refused."""
    refusal = refused({**signed(params()), **change})
    assert details(refusal)["reason"] == "device-signature"


# -- order and texts


def test_the_order_of_the_checks() -> None:
    """Schema, version, role, origin, device: the first fault is the one that is told."""
    page = replace(REMOTE, origin="https://evil.example")
    fields = params("openclaw-control-ui/webchat", (1, 2), role="king", auth=WRONG)
    faulty = signed(fields, signature="AAAA")
    causes = []
    for mend in (
        {"minProtocol": 3, "maxProtocol": 3, "modelCatalog": {}},
        {"modelCatalog": None},
        {"role": "operator"},
        {"peer": LOCAL},
        {"device": None},
        {"client": client("cli/cli")},
    ):
        causes.append(refused(faulty, peer=page).cause)
        page = replace(LOCAL, origin="http://localhost") if "peer" in mend else page
        faulty = {k: v for k, v in {**faulty, **mend}.items() if v is not None and k != "peer"}
    causes.append(refused(faulty).cause)

    assert causes == [
        CloseCause.PROTOCOL_MISMATCH,
        CloseCause.INVALID_HANDSHAKE,
        CloseCause.INVALID_ROLE,
        CloseCause.ORIGIN_MISMATCH,
        CloseCause.DEVICE_AUTH_INVALID,
        CloseCause.DEVICE_REQUIRED,
        CloseCause.UNAUTHORIZED,
    ]


def test_the_schema_comes_before_everything() -> None:
    """What does not fit the schema says so, whatever else is wrong."""
    with pytest.raises(InvalidConnect):
        judged(params("nobody/cli", (1, 2), role="king"))


@pytest.mark.parametrize("role", ["king", "Operator", "node ", "worker"])
def test_another_role_is_refused(role: str) -> None:
    """There are two roles, literally."""
    refusal = refused(params(role=role))
    assert refusal.error == {"code": "INVALID_REQUEST", "message": "invalid role"}
    assert (refusal.cause, refusal.close_reason) == (CloseCause.INVALID_ROLE, "invalid role")
    assert judged(params(role=None)).role is Role.OPERATOR


@pytest.mark.parametrize(
    ("kind", "origin", "reason"),
    [
        ("openclaw-control-ui/webchat", None, "origin missing or invalid"),
        ("webchat-ui/ui", None, "origin missing or invalid"),
        ("cli/webchat", "null", "origin missing or invalid"),
        ("webchat-ui/webchat", "https://evil.example", "origin not allowed"),
        ("cli/cli", "https://evil.example", "origin not allowed"),
    ],
)
def test_a_page_from_elsewhere_is_refused(kind: str, origin: str | None, reason: str) -> None:
    """A browser's client has to show an allowed origin, and any client that shows one is held to it.

    (Version 3 lets a command line with a foreign origin in: the stricter of the two is taken.)
    """
    peer = replace(LOCAL, origin=origin)
    three, four = (refused(params(kind, (v, v)), peer=peer) for v in VERSIONS)
    assert details(four) == {"code": "CONTROL_UI_ORIGIN_NOT_ALLOWED", "reason": reason}
    assert details(three) is None
    assert (four.cause, four.code) == (CloseCause.ORIGIN_MISMATCH, CloseCode.POLICY)


def test_a_protocol_mismatch_echoes_numbers_that_every_reader_takes() -> None:
    """A range beyond 53 bits is refused like any other."""
    refusal = refused(params(versions=(10**40, 10**41)))
    assert details(refusal) == {
        "code": "PROTOCOL_MISMATCH",
        "clientMinProtocol": 2**53 - 1,
        "clientMaxProtocol": 2**53 - 1,
        "expectedProtocol": 4,
        "minimumProbeProtocol": 3,
    }
    assert refusal.code is CloseCode.PROTOCOL_ERROR


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "reason", ["not-paired", "role-upgrade", "scope-upgrade", "metadata-upgrade"]
)
def test_pairing_is_asked_for_in_the_shape_of_each_version(reason: str, version: int) -> None:
    """Version 4 is told what to do, version 3 the reason and the id; the close reason says the same."""
    proven = judged(signed(params("cli/cli", (version, version))))
    refusal = refusals.pairing_required(
        proven,
        "req-1",
        reason=reason,
        approved_roles=("node",) if reason == "role-upgrade" else (),
        approved_scopes=(),
    )

    shown = details(refusal)
    basics = {"code": "PAIRING_REQUIRED", "requestId": "req-1", "reason": reason}
    assert basics.items() <= shown.items()
    if version == 3:
        assert shown == basics
        assert refusal.close_reason == "pairing required"
    else:
        assert shown["deviceId"] == DEVICE.device_id
        assert shown["requestedScopes"] == ["operator.admin"]
        assert shown["remediationHint"].endswith(": gatewayctl devices approve req-1")
        assert ("approvedRoles" in shown) is (reason == "role-upgrade")
        assert refusal.close_reason.endswith("(requestId: req-1)")
    assert refusal.error is not None
    assert refusal.error["code"] == "NOT_PAIRED"
    assert violations("ErrorShape", version, refusal.error) == []
