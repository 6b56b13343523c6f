"""Device identity: the Ed25519 key of a client, its id, and the proof that it holds the key.

Requirements
    A connecting client names its device by the SHA-256 of its public key and signs the server's
    nonce together with everything it claims (client, role, scopes, token, platform), so that
    neither a recorded nor an altered ``connect`` is worth anything (protocol: device proof). The
    server accepts the payloads version 3 and version 2, in this order, on both protocols; version 1
    had no nonce and is never accepted.

Design
    The payload is rebuilt from the parsed params, so its bytes must come out as the client's did.
    Clients are JavaScript: blanks are what its ``trim`` removes, lower-casing touches ASCII only,
    and base64 is read as leniently as theirs (either alphabet, foreign characters skipped, the end
    at the first ``=``). ``verify`` answers with the reason of the first failed check, in the
    protocol's order. A key that does not decode has no id, so that is an id mismatch; one that
    decodes and hashes to the id, yet is no Ed25519 key, is refused as a bad key where its signature
    would be checked.

Known weakness
    Fields are joined by ``|`` without escaping, so one signature can fit two readings. Clients sign
    so; the nonce, which the server made and compares by itself, keeps it to one connection.

Rejected
    Exceptions for refusals (a refused proof is an answer, not an accident); strict base64 (real
    clients send padded, standard and PEM forms); JWK or X.509 (no client speaks them).
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, field
from enum import StrEnum

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

MAX_CLOCK_SKEW_MS = 120_000
MAX_ENCODED_CHARS = 4_096

# The white space and line terminators of ECMA-262, which String.prototype.trim removes.
_JS_BLANKS = "\t\n\v\f\r \xa0\u1680\u2028\u2029\u202f\u205f\u3000\ufeff" + "".join(
    map(chr, range(0x2000, 0x200B))
)
_ASCII_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}
_NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/]+")


class ProofFailure(StrEnum):
    """Why a device proof is refused. The value is the ``reason`` on the wire."""

    ID_MISMATCH = "device-id-mismatch"
    STALE = "device-signature-stale"
    NONCE_MISSING = "device-nonce-missing"
    NONCE_MISMATCH = "device-nonce-mismatch"
    SIGNATURE = "device-signature"
    PUBLIC_KEY = "device-public-key"

    @property
    def message(self) -> str:
        """The sentence of the error and the reason of the close frame."""
        return _ANSWERS[self][0]

    def detail_code(self, protocol: int) -> str:
        """Return ``details.code``; protocol 3 has one for all failures."""
        return "DEVICE_AUTH_INVALID" if protocol < 4 else _ANSWERS[self][1]


_ANSWERS = {
    ProofFailure.ID_MISMATCH: ("device identity mismatch", "DEVICE_AUTH_DEVICE_ID_MISMATCH"),
    ProofFailure.STALE: ("device signature expired", "DEVICE_AUTH_SIGNATURE_EXPIRED"),
    ProofFailure.NONCE_MISSING: ("device nonce required", "DEVICE_AUTH_NONCE_REQUIRED"),
    ProofFailure.NONCE_MISMATCH: ("device nonce mismatch", "DEVICE_AUTH_NONCE_MISMATCH"),
    ProofFailure.SIGNATURE: ("device signature invalid", "DEVICE_AUTH_SIGNATURE_INVALID"),
    ProofFailure.PUBLIC_KEY: ("device public key invalid", "DEVICE_AUTH_PUBLIC_KEY_INVALID"),
}


@dataclass(frozen=True, slots=True)
class DeviceProof:
    """The ``device`` of connect params, as sent."""

    id: str
    public_key: str
    signature: str
    signed_at_ms: int
    nonce: str


@dataclass(frozen=True, slots=True)
class SignedContext:
    """What a proof vouches for besides its device.

    ``role`` is the effective one and ``scopes`` the scopes in the order sent. ``token`` is what
    ``signed_token`` chose; a password is never signed.
    """

    client_id: str
    client_mode: str
    role: str
    scopes: tuple[str, ...] = ()
    token: str | None = field(default=None, repr=False)
    platform: str | None = None
    device_family: str | None = None


def signed_token(*candidates: str | None) -> str | None:
    """Return the first token that is present, the empty string included.

    The order is ``auth.token``, ``auth.deviceToken``, ``auth.bootstrapToken``.
    """
    return next((token for token in candidates if token is not None), None)


def normalise_metadata(text: str | None) -> str:
    """Trim a platform or device family and lower its ASCII letters; missing gives ``""``."""
    return (text or "").strip(_JS_BLANKS).translate(_ASCII_LOWER)


def payload_v2(device_id: str, signed_at_ms: int, nonce: str, context: SignedContext) -> str:
    """Return the string that a client signs in payload version 2."""
    return "|".join(("v2", *_common_fields(device_id, signed_at_ms, nonce, context)))


def payload_v3(device_id: str, signed_at_ms: int, nonce: str, context: SignedContext) -> str:
    """Return the string signed in payload version 3: also platform and device family."""
    return "|".join(
        (
            "v3",
            *_common_fields(device_id, signed_at_ms, nonce, context),
            normalise_metadata(context.platform),
            normalise_metadata(context.device_family),
        )
    )


def _common_fields(
    device_id: str, signed_at_ms: int, nonce: str, context: SignedContext
) -> tuple[str, ...]:
    return (
        device_id,
        context.client_id,
        context.client_mode,
        context.role,
        ",".join(context.scopes),
        str(signed_at_ms),
        context.token or "",
        nonce,
    )


def decode_public_key(text: str) -> bytes | None:
    """Return the raw bytes of a public key in base64, base64url or PEM; None if there are none.

    PEM must hold an Ed25519 key. Of the other forms the length is not checked: their id is the hash
    of whatever they hold, and the signature decides.
    """
    if len(text) > MAX_ENCODED_CHARS:
        return None
    if "BEGIN" not in text:
        return _lenient_base64(text) or None
    try:
        key = load_pem_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        return None
    return key.public_bytes_raw() if isinstance(key, Ed25519PublicKey) else None


def _lenient_base64(text: str) -> bytes:
    data = text.partition("=")[0].replace("-", "+").replace("_", "/")
    data = _NOT_BASE64.sub("", data)
    if len(data) % 4 == 1:
        data = data[:-1]
    return base64.b64decode(data + "=" * (-len(data) % 4))


def base64url(raw: bytes) -> str:
    """Encode bytes as base64url without padding, the canonical form of keys and signatures."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def canonical_public_key(text: str) -> str | None:
    """Return a public key in canonical base64url; None if it does not decode."""
    raw = decode_public_key(text)
    return None if raw is None else base64url(raw)


def device_id(raw_public_key: bytes) -> str:
    """Return the id of a device: the SHA-256 of its raw public key in lower-case hex."""
    return hashlib.sha256(raw_public_key).hexdigest()


def verify(
    proof: DeviceProof, context: SignedContext, *, nonce: str, now_ms: int
) -> ProofFailure | None:
    """Check a proof against the nonce of this connection's challenge; None if it holds."""
    raw = decode_public_key(proof.public_key)
    if raw is None or device_id(raw) != proof.id:
        return ProofFailure.ID_MISMATCH
    if abs(now_ms - proof.signed_at_ms) > MAX_CLOCK_SKEW_MS:
        return ProofFailure.STALE
    signed_nonce = proof.nonce.strip(_JS_BLANKS)
    if not signed_nonce:
        return ProofFailure.NONCE_MISSING
    if signed_nonce != nonce:
        return ProofFailure.NONCE_MISMATCH
    try:
        key = Ed25519PublicKey.from_public_bytes(raw)
    except ValueError:
        return ProofFailure.PUBLIC_KEY
    signature = _lenient_base64(proof.signature[:MAX_ENCODED_CHARS])
    for build in (payload_v3, payload_v2):
        payload = build(proof.id, proof.signed_at_ms, signed_nonce, context)
        if _is_signed(key, signature, payload):
            return None
    return ProofFailure.SIGNATURE


def _is_signed(key: Ed25519PublicKey, signature: bytes, payload: str) -> bool:
    try:
        # JSON can carry lone surrogates, which UTF-8 can not; no client signs such bytes.
        key.verify(signature, payload.encode("utf-8", "surrogatepass"))
    except InvalidSignature:
        return False
    return True


@dataclass(frozen=True, slots=True)
class DeviceIdentity:
    """The key pair of a device, for clients and tests."""

    public_key: str
    device_id: str
    _private_key: Ed25519PrivateKey = field(repr=False, compare=False)

    @classmethod
    def from_seed(cls, seed: bytes) -> DeviceIdentity:
        """Make the identity of 32 secret bytes; ValueError for another number of them."""
        private_key = Ed25519PrivateKey.from_private_bytes(seed)
        raw = private_key.public_key().public_bytes_raw()
        return cls(base64url(raw), device_id(raw), private_key)

    def sign(self, payload: str) -> str:
        """Return the signature of a payload in base64url."""
        return base64url(self._private_key.sign(payload.encode("utf-8", "surrogatepass")))

    def prove(self, context: SignedContext, *, nonce: str, signed_at_ms: int) -> DeviceProof:
        """Return the proof that a client sends, with a version 3 payload."""
        payload = payload_v3(self.device_id, signed_at_ms, nonce, context)
        return DeviceProof(self.device_id, self.public_key, self.sign(payload), signed_at_ms, nonce)
