"""Every refusal of a connection in words: what is wrong, and the one command or key that mends it.

The one place for it: the texts of answers and close reasons are made of it, and docs/refusals.md is
generated from it. A sentence begins with the protocol's own words, which clients look for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from gateway.core.deviceproof import ProofFailure


class Advice(NamedTuple):
    """One refusal."""

    says: str
    """The sentence."""
    mend: str
    """What mends it; it names a command or a key of the configuration."""
    code: str = ""
    """``details.code`` on protocol 4; empty where the answer has no details."""
    code_3: str | None = None
    """``details.code`` on protocol 3 where it is another; empty where that has no details."""
    reason: str = ""
    """``details.reason`` or ``details.authReason``."""
    told: bool = True
    """Whether the mend stands in the answer, or only in the documentation and ``gatewayctl why``."""

    @property
    def text(self) -> str:
        """What the client is told."""
        return f"{self.says} ({self.mend})" if self.told and self.mend else self.says


def _auth(reason: str, says: str, mend: str, code: str = "") -> tuple[str, Advice]:
    return reason, Advice(says, mend, code or f"AUTH_{reason.upper()}", reason=reason)


def _proof(failure: ProofFailure, mend: str) -> tuple[str, Advice]:
    codes = failure.detail_code(4), failure.detail_code(3)
    return failure.value, Advice(failure.message, mend, *codes, failure.value)


def _pairing(reason: str, says: str) -> tuple[str, Advice]:
    mend = "on the gateway's host: gatewayctl devices approve REQUEST"
    return reason, Advice(f"pairing required: {says}", mend, "PAIRING_REQUIRED", reason=reason)


_CLIENT: Final = "mend the client; on the gateway's host, gatewayctl why ID says who it was"
_SHOW: Final = "on the gateway's host: gatewayctl token --show"
_NEW_IDENTITY: Final = (
    "remove the client's device identity; on the gateway's host: gatewayctl devices"
)

CATALOGUE: Final[Mapping[str, Advice]] = dict(
    (
        # -- the first frame
        ("invalid-params", Advice("invalid connect params: …", _CLIENT, told=False)),
        (
            "not-connect-first",
            Advice("invalid handshake: first request must be connect", _CLIENT, told=False),
        ),
        ("bad-first-frame", Advice("invalid request frame", _CLIENT, told=False)),
        ("first-frame-not-json", Advice("", _CLIENT, told=False)),
        (
            "too-many-frames",
            Advice("too many pending handshake frames", _CLIENT, told=False),
        ),
        # -- who it is
        (
            "protocol-mismatch",
            Advice(
                "protocol mismatch",
                "install a client of protocol 3 or 4; gatewayctl --version says which gateway it is",
                "PROTOCOL_MISMATCH",
            ),
        ),
        ("invalid-role", Advice("invalid role", _CLIENT, told=False)),
        (
            "origin-missing",
            Advice(
                "origin not allowed",
                "add it to server.allowed_origins, or open the page from this host",
                "CONTROL_UI_ORIGIN_NOT_ALLOWED",
                "",
                "origin missing or invalid",
            ),
        ),
        (
            "origin-not-allowed",
            Advice(
                "origin not allowed",
                "add it to server.allowed_origins, or open the page from this host",
                "CONTROL_UI_ORIGIN_NOT_ALLOWED",
                "",
                "origin not allowed",
            ),
        ),
        (
            "host-not-allowed",
            Advice(
                "host not allowed: …",
                "add it to server.allowed_hosts, or use 127.0.0.1",
                "HOST_NOT_ALLOWED",
            ),
        ),
        # -- what it shows
        _auth(
            "token_missing",
            "gateway token missing",
            "pass --token; on the gateway's host: gatewayctl token",
        ),
        _auth("token_mismatch", "gateway token mismatch", _SHOW),
        _auth(
            "token_missing_config",
            "gateway token not configured",
            "set auth.token",
            "AUTH_TOKEN_NOT_CONFIGURED",
        ),
        _auth(
            "password_missing",
            "gateway password missing",
            "enter the gateway's password: it is auth.password of the gateway",
        ),
        _auth(
            "password_mismatch",
            "gateway password mismatch",
            "enter the gateway's password: it is auth.password of the gateway",
        ),
        _auth(
            "password_missing_config",
            "gateway password not configured",
            "set auth.password",
            "AUTH_PASSWORD_NOT_CONFIGURED",
        ),
        _auth(
            "device_token_mismatch",
            "device token mismatch",
            "forget the device token and pair again; on the gateway's host: gatewayctl devices",
        ),
        _auth(
            "scope_mismatch",
            "device token does not cover the requested scopes",
            "ask with the gateway token; on the gateway's host: gatewayctl devices",
        ),
        _auth(
            "bootstrap_token_invalid",
            "setup code invalid, expired, revoked, or already used",
            "on the gateway's host: gatewayctl pair",
        ),
        _auth(
            "rate_limited",
            "too many failed authentication attempts",
            "retry later; on its host: gatewayctl connections --closed",
        ),
        _auth(
            "trusted_proxy_untrusted_source",
            "it did not come through the gateway's proxy",
            "connect through it, or add it to server.trusted_proxies",
            "AUTH_UNAUTHORIZED",
        ),
        _auth(
            "trusted_proxy_loopback_source",
            "a proxy on this host is not believed",
            "set auth.allow_loopback_proxy",
            "AUTH_UNAUTHORIZED",
        ),
        _auth(
            "trusted_proxy_missing_header",
            "the proxy sent no … header",
            "let it send the one, or change auth.required_headers",
            "AUTH_IDENTITY_HEADER_REQUIRED",
        ),
        _auth(
            "trusted_proxy_user_missing",
            "the proxy named no user",
            "let it send the header of auth.user_header",
            "AUTH_VERIFIED_USER_REQUIRED",
        ),
        _auth(
            "trusted_proxy_user_not_allowed",
            "this user may not connect",
            "add the user to auth.allow_users",
            "AUTH_UNAUTHORIZED",
        ),
        # -- its device
        (
            "device-required",
            Advice(
                "device identity required",
                "give the client one, or pass --token; on the gateway's host: gatewayctl token --show",
                "DEVICE_IDENTITY_REQUIRED",
            ),
        ),
        (
            "control-ui-device-required",
            Advice(
                "control ui requires device identity",
                "use HTTPS or localhost secure context: ssh -L 18789:127.0.0.1:18789 HOST",
                "CONTROL_UI_DEVICE_IDENTITY_REQUIRED",
            ),
        ),
        _proof(ProofFailure.ID_MISMATCH, _NEW_IDENTITY),
        _proof(ProofFailure.STALE, "set the clocks of both hosts: timedatectl"),
        _proof(ProofFailure.NONCE_MISSING, _CLIENT),
        _proof(ProofFailure.NONCE_MISMATCH, _CLIENT),
        _proof(ProofFailure.SIGNATURE, _NEW_IDENTITY),
        _proof(ProofFailure.PUBLIC_KEY, _NEW_IDENTITY),
        _pairing("not-paired", "device is not approved yet"),
        _pairing("role-upgrade", "device is asking for a higher role than currently approved"),
        _pairing("scope-upgrade", "device is asking for more scopes than currently approved"),
        _pairing("metadata-upgrade", "device identity changed and must be re-approved"),
    )
)
"""By a name of their own, in the order in which a connect request is judged."""
