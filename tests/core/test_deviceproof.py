"""Device identities and the proof of possession."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core import deviceproof
from gateway.core.deviceproof import (
    MAX_CLOCK_SKEW_MS,
    DeviceIdentity,
    DeviceProof,
    ProofFailure,
    SignedContext,
)

DATA = Path(__file__).parents[1] / "data"
IDENTITIES = json.loads((DATA / "identities.json").read_text())
PAYLOADS = json.loads((DATA / "device_payloads.json").read_text())
NOW_MS = 1_700_000_000_000
NONCE = "7f0e7a0e-0000-4000-8000-000000000000"
CONTEXT = SignedContext(
    client_id="cli",
    client_mode="cli",
    role="operator",
    scopes=("operator.read", "operator.write"),
    token="tok",
    platform=" Linux ",
    device_family=None,
)
DEVICE = DeviceIdentity.from_seed(bytes(range(32)))
PROOF = DEVICE.prove(CONTEXT, nonce=NONCE, signed_at_ms=NOW_MS)


def check(proof: DeviceProof, context: SignedContext = CONTEXT) -> ProofFailure | None:
    """Verify a proof at the time and against the nonce of these tests."""
    return deviceproof.verify(proof, context, nonce=NONCE, now_ms=NOW_MS)


def context_of(case: dict[str, Any], form: dict[str, Any] | None = None) -> SignedContext:
    """Return the signed context of a payload vector, with one form's platform and family."""
    values = case["input"]
    return SignedContext(
        client_id=values["clientId"],
        client_mode=values["clientMode"],
        role=values["role"],
        scopes=tuple(values["scopes"]),
        token=values["token"],
        platform=form["platform"] if form else None,
        device_family=form["deviceFamily"] if form else None,
    )


@pytest.mark.parametrize("case", IDENTITIES, ids=lambda case: case["seedHex"][:4])
def test_vectors_of_identities(case: dict[str, str]) -> None:
    """A seed gives the key and id of its device, and every spelling of the key the same id."""
    device = DeviceIdentity.from_seed(bytes.fromhex(case["seedHex"]))

    assert device.public_key == case["publicKeyRawBase64Url"]
    assert device.device_id == case["deviceId"] == case["deviceIdFromPem"]
    raw = base64.urlsafe_b64decode(device.public_key + "=")
    for spelling in (
        device.public_key,
        case["publicKeyPem"],
        base64.b64encode(raw).decode(),
        base64.urlsafe_b64encode(raw).decode(),
        f" {device.public_key[:9]}\n{device.public_key[9:]}==junk",
    ):
        assert deviceproof.decode_public_key(spelling) == raw
        assert deviceproof.canonical_public_key(spelling) == case["normalizedFromPaddedBase64"]
    assert deviceproof.device_id(raw) == case["deviceId"]


@pytest.mark.parametrize("case", PAYLOADS, ids=range(len(PAYLOADS)))
def test_vectors_of_payload_version_2(case: dict[str, Any]) -> None:
    """The version 2 payload and its signature are those of the real clients."""
    values = case["input"]
    device = DeviceIdentity.from_seed(bytes.fromhex(case["seedHex"]))

    payload = deviceproof.payload_v2(
        values["deviceId"], values["signedAtMs"], values["nonce"], context_of(case)
    )

    assert payload == case["payloadV2"]
    assert device.sign(payload) == case["signatureV2"]


@pytest.mark.parametrize("case", PAYLOADS, ids=range(len(PAYLOADS)))
def test_vectors_of_payload_version_3(case: dict[str, Any]) -> None:
    """The version 3 payloads and their signatures are those of the real clients."""
    values = case["input"]
    device = DeviceIdentity.from_seed(bytes.fromhex(case["seedHex"]))

    for form in case["payloadsV3"]:
        payload = deviceproof.payload_v3(
            values["deviceId"], values["signedAtMs"], values["nonce"], context_of(case, form)
        )

        assert payload == form["payloadV3"]
        assert device.sign(payload) == form["signatureV3"]


@pytest.mark.parametrize("case", PAYLOADS, ids=range(len(PAYLOADS)))
def test_the_recorded_signatures_verify(case: dict[str, Any]) -> None:
    """A proof holds with the signature of either payload version, if its nonce is not blank."""
    values = case["input"]
    device = DeviceIdentity.from_seed(bytes.fromhex(case["seedHex"]))
    expected = None if values["nonce"] else ProofFailure.NONCE_MISSING
    signatures = [(form, form["signatureV3"]) for form in case["payloadsV3"]]

    for form, signature in [*signatures, (signatures[0][0], case["signatureV2"])]:
        proof = DeviceProof(
            values["deviceId"], device.public_key, signature, values["signedAtMs"], values["nonce"]
        )
        result = deviceproof.verify(
            proof, context_of(case, form), nonce=values["nonce"], now_ms=values["signedAtMs"]
        )
        assert result is expected


def test_a_payload_of_version_1_is_refused() -> None:
    """A signature without a nonce proves nothing about this connection."""
    payload = f"v1|{DEVICE.device_id}|cli|cli|operator||{NOW_MS}|tok"

    assert check(replace(PROOF, signature=DEVICE.sign(payload))) is ProofFailure.SIGNATURE


def test_a_proof_holds() -> None:
    """A fresh proof with the nonce of this connection is accepted, its nonce trimmed."""
    assert check(PROOF) is None
    assert check(replace(PROOF, nonce=f"\ufeff {NONCE}\n")) is None


@pytest.mark.parametrize(
    "public_key",
    ["", "=", "BEGIN", "A" * 5_000, "BEGIN\ud800", "A", DEVICE.public_key[:-2], "\u0661" * 43],
)
def test_a_key_that_is_not_the_devices_is_an_id_mismatch(public_key: str) -> None:
    """A key that does not decode, or hashes to another id, fails the first check."""
    assert check(replace(PROOF, public_key=public_key)) is ProofFailure.ID_MISMATCH


def test_long_texts_are_not_decoded() -> None:
    """A key of more than 4,096 characters is none, whatever it holds."""
    padded = DEVICE.public_key + "=" * (4_096 - len(DEVICE.public_key))

    assert deviceproof.canonical_public_key(padded) == DEVICE.public_key
    assert deviceproof.canonical_public_key(f"{padded}=") is None


def test_an_id_in_upper_case_is_an_id_mismatch() -> None:
    """The id is compared as it stands."""
    assert check(replace(PROOF, id=PROOF.id.upper())) is ProofFailure.ID_MISMATCH


def test_a_pem_of_another_algorithm_is_no_device_key() -> None:
    """Only Ed25519 keys are devices' keys."""
    pem = x25519.X25519PrivateKey.generate().public_key()

    encoded = pem.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    assert deviceproof.decode_public_key(encoded) is None
    assert deviceproof.canonical_public_key(encoded) is None


@pytest.mark.parametrize("offset_ms", [-MAX_CLOCK_SKEW_MS, MAX_CLOCK_SKEW_MS])
def test_two_minutes_of_skew_are_allowed(offset_ms: int) -> None:
    """A proof signed up to two minutes before or after the server's time holds."""
    assert check(DEVICE.prove(CONTEXT, nonce=NONCE, signed_at_ms=NOW_MS + offset_ms)) is None


@pytest.mark.parametrize(
    "offset_ms",
    [-MAX_CLOCK_SKEW_MS - 1, MAX_CLOCK_SKEW_MS + 1, 2**15_000],
    ids=["late", "early", "absurd"],
)
def test_more_skew_is_stale(offset_ms: int) -> None:
    """A proof signed more than two minutes off the server's time is stale."""
    stale = replace(PROOF, signed_at_ms=NOW_MS + offset_ms)

    assert check(stale) is ProofFailure.STALE


@pytest.mark.parametrize("nonce", ["", " \t\u3000\ufeff"])
def test_a_blank_nonce_is_missing(nonce: str) -> None:
    """A nonce that is blank after trimming is missing."""
    assert check(replace(PROOF, nonce=nonce)) is ProofFailure.NONCE_MISSING


def test_the_nonce_of_another_connection_is_refused() -> None:
    """A recorded proof is worth nothing on another connection."""
    assert check(replace(PROOF, nonce="another")) is ProofFailure.NONCE_MISMATCH


@pytest.mark.parametrize(
    "change",
    [
        {"client_id": "other"},
        {"client_mode": "node"},
        {"role": "node"},
        {"scopes": ("operator.admin",)},
        {"scopes": ("operator.write", "operator.read")},
        {"token": None},
        {"token": "\ud800"},
        {"platform": "macos"},
        {"device_family": "phone"},
    ],
)
def test_a_changed_claim_breaks_the_signature(change: dict[str, Any]) -> None:
    """Everything a client claims is covered by its signature."""
    assert check(PROOF, replace(CONTEXT, **change)) is ProofFailure.SIGNATURE


@pytest.mark.parametrize("signature", ["", "AAAA", "A" * 86, "ü", "A" * 10_000])
def test_a_bad_signature_is_refused(signature: str) -> None:
    """Whatever is not the signature is refused."""
    assert check(replace(PROOF, signature=signature)) is ProofFailure.SIGNATURE


def test_a_key_of_the_wrong_size_is_a_bad_key() -> None:
    """A key that hashes to the id and yet is none is refused as a key, after all earlier checks."""
    short = replace(PROOF, public_key="AAAA", id=deviceproof.device_id(bytes(3)))

    assert check(short) is ProofFailure.PUBLIC_KEY
    assert check(replace(short, nonce="x")) is ProofFailure.NONCE_MISMATCH


@pytest.mark.parametrize(
    "faults",
    [
        ["id", "time", "nonce", "signature"],
        ["time", "nonce", "signature"],
        ["nonce", "signature"],
        ["signature"],
    ],
)
def test_the_first_failed_check_gives_the_reason(faults: list[str]) -> None:
    """The checks come in the protocol's order: id, time, nonce, signature."""
    changes: dict[str, dict[str, Any]] = {
        "id": {"id": "0" * 64},
        "time": {"signed_at_ms": 0},
        "nonce": {"nonce": "another"},
        "signature": {"signature": "AAAA"},
    }
    reasons = {
        "id": ProofFailure.ID_MISMATCH,
        "time": ProofFailure.STALE,
        "nonce": ProofFailure.NONCE_MISMATCH,
        "signature": ProofFailure.SIGNATURE,
    }
    proof = PROOF

    for fault in faults:
        proof = replace(proof, **changes[fault])

    assert check(proof) is reasons[faults[0]]


def test_reasons_have_codes_and_sentences() -> None:
    """Version 3 has one code for all failures, version 4 one for each."""
    codes = {failure.detail_code(4) for failure in ProofFailure}

    assert {failure.detail_code(3) for failure in ProofFailure} == {"DEVICE_AUTH_INVALID"}
    assert len(codes) == len(ProofFailure)
    assert ProofFailure.STALE.value == "device-signature-stale"
    assert ProofFailure.STALE.detail_code(4) == "DEVICE_AUTH_SIGNATURE_EXPIRED"
    assert ProofFailure.STALE.message == "device signature expired"


@pytest.mark.parametrize("protocol", [3, 4])
def test_vectors_of_refused_handshakes(protocol: int) -> None:
    """Reason, code and sentence of a refused proof are those recorded of each version."""
    names = {
        "device stale": ProofFailure.STALE,
        "device future": ProofFailure.STALE,
        "device wrong nonce": ProofFailure.NONCE_MISMATCH,
        "device blank nonce": ProofFailure.NONCE_MISSING,
        "device bad sig": ProofFailure.SIGNATURE,
    }
    recorded = json.loads((DATA / "handshakes.json").read_text())[f"v{protocol}"]["handshake"]

    answers = {case["name"]: case["result"]["error"] for case in recorded if case["name"] in names}

    assert answers == {
        name: {
            "code": "INVALID_REQUEST",
            "message": failure.message,
            "details": {"code": failure.detail_code(protocol), "reason": failure.value},
        }
        for name, failure in names.items()
    }


@pytest.mark.parametrize(
    ("tokens", "signed"),
    [((None, "d", "b"), "d"), (("", "d"), ""), ((None, None), None), (("t", "d"), "t")],
)
def test_the_signed_token_is_the_first_present(
    tokens: tuple[str | None, ...], signed: str | None
) -> None:
    """An empty token counts as present, a missing one does not."""
    assert deviceproof.signed_token(*tokens) == signed


@pytest.mark.parametrize(
    ("text", "normal"),
    [(None, ""), (" iOS 17.0 ", "ios 17.0"), ("É Mac", "É mac"), ("\x85x\x1c", "\x85x\x1c")],
)
def test_metadata_is_trimmed_and_lowered_as_clients_do(text: str | None, normal: str) -> None:
    """Only the blanks of ECMA-262 are trimmed, and only ASCII letters lowered."""
    assert deviceproof.normalise_metadata(text) == normal


def test_a_seed_has_32_bytes() -> None:
    """Another number of bytes is the caller's mistake."""
    with pytest.raises(ValueError, match="32 bytes"):
        DeviceIdentity.from_seed(b"short")


def test_secrets_are_not_shown() -> None:
    """Neither key nor token is in a representation."""
    assert "private" not in repr(DEVICE)
    assert "tok" not in repr(CONTEXT)


@given(text=st.text() | st.text().map("-----BEGIN PUBLIC KEY-----\n{}".format))
@settings(deadline=None)
def test_no_text_makes_decoding_raise(text: str) -> None:
    """Any text is a key, or none."""
    raw = deviceproof.decode_public_key(text)

    assert raw is None or deviceproof.decode_public_key(deviceproof.base64url(raw)) == raw


@given(data=st.data())
@settings(deadline=None)
def test_no_proof_makes_verification_raise(data: st.DataObject) -> None:
    """A proof of any texts is refused, never an error."""
    change: dict[str, Any] = {
        name: data.draw(st.text(), label=name)
        for name in data.draw(st.sets(st.sampled_from(["id", "public_key", "signature", "nonce"])))
    }
    context = replace(CONTEXT, token=data.draw(st.none() | st.text()))

    result = check(replace(PROOF, **change), context)

    assert result is not None or (not change and context.token == CONTEXT.token)


@given(seed=st.binary(min_size=32, max_size=32), scopes=st.lists(st.text()), family=st.text())
@settings(deadline=None)
def test_every_proof_a_device_makes_holds(seed: bytes, scopes: list[str], family: str) -> None:
    """Prove and verify are each other's inverse."""
    device = DeviceIdentity.from_seed(seed)
    context = replace(CONTEXT, scopes=tuple(scopes), device_family=family)

    assert check(device.prove(context, nonce=NONCE, signed_at_ms=NOW_MS), context) is None
