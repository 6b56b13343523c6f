"""The credential that clients share with the gateway: a token, a password, or a proxy's word."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from gateway.core.access import Peer, same_secret

TRUSTED_PROXY: Final = "trusted-proxy"
HASH_PREFIX: Final = "$argon2id$"
"""How the hash of a password begins, in the form that ``gatewayctl hash-password`` prints."""


@dataclass(frozen=True, slots=True)
class SharedAuth:
    """The verdict on the shared credential: ``reason`` is None if it is right.

    Reasons are the protocol's: ``token_missing``, ``token_mismatch``, ``password_missing``,
    ``password_mismatch``, ``token_missing_config``, ``password_missing_config``, and those of mode
    trusted-proxy: ``trusted_proxy_untrusted_source``, ``trusted_proxy_loopback_source``,
    ``trusted_proxy_missing_header_NAME``, ``trusted_proxy_user_missing``,
    ``trusted_proxy_user_not_allowed``.
    """

    ok: bool
    method: str
    reason: str | None = None

    @property
    def presented(self) -> bool:
        """Whether a credential was given at all; what a proxy says counts as one."""
        if self.method == TRUSTED_PROXY:
            return True
        return self.reason is None or not self.reason.endswith("_missing")

    @property
    def wrong(self) -> bool:
        """Whether a secret was shown that is not the shared one."""
        return self.reason in ("token_mismatch", "password_mismatch")


class Unverified(Exception):
    """A password has to be compared with its hash, which takes time: :meth:`AuthPolicy.check` again then."""

    def __init__(self, candidate: str) -> None:
        super().__init__("a password has to be verified")
        self.candidate = candidate


@dataclass(frozen=True, slots=True)
class AuthPolicy:
    """What the gateway asks of a client: mode none, token, password or trusted-proxy, and the secret."""

    mode: str
    secret: str | None = field(default=None, repr=False)
    """The shared token or password, or the Argon2 hash of the password."""
    users: frozenset[str] = frozenset()
    """Whom a trusted proxy may let in; empty means everybody that it names."""

    @property
    def shares_secret(self) -> bool:
        """Whether clients show a secret that they share."""
        return self.mode in ("token", "password")

    @property
    def hashed(self) -> bool:
        """Whether the secret is the hash of a password."""
        return self.mode == "password" and is_hash(self.secret)

    def check(
        self,
        token: str | None,
        password: str | None,
        peer: Peer | None = None,
        *,
        verified: bool | None = None,
    ) -> SharedAuth:
        """Judge a credential; the secret may come in either field. Constant time in the secret.

        Raises Unverified where a password has to be compared with a hash; ``verified`` is the outcome.
        """
        if self.mode == "none":
            return SharedAuth(True, "none")
        if self.mode == TRUSTED_PROXY:
            return self._check_user(peer)
        if not self.secret:
            return SharedAuth(False, self.mode, f"{self.mode}_missing_config")
        first, second = (token, password) if self.mode == "token" else (password, token)
        given = first if first else second
        if not given:
            return SharedAuth(False, self.mode, f"{self.mode}_missing")
        if self.hashed and verified is None:
            raise Unverified(given)
        if verified if self.hashed else same_secret(given, self.secret):
            return SharedAuth(True, self.mode)
        return SharedAuth(False, self.mode, f"{self.mode}_mismatch")

    def _check_user(self, peer: Peer | None) -> SharedAuth:
        if peer is None or peer.user is None:
            reason = peer.user_refusal if peer is not None else None
            return SharedAuth(False, self.mode, reason or "trusted_proxy_untrusted_source")
        if self.users and peer.user not in self.users:
            return SharedAuth(False, self.mode, "trusted_proxy_user_not_allowed")
        return SharedAuth(True, self.mode)


def is_hash(secret: str | None) -> bool:
    """Whether a configured password is the Argon2 hash of one."""
    return secret is not None and secret.startswith(HASH_PREFIX)
