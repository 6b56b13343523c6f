"""Setup codes: what an operator shows a new device so that it is paired without being asked about.

A code is text that a phone scans or a person pastes: base64url without padding of a JSON object
``{url, bootstrapToken, expiresAtMs, profile}``, the form that the clients of the protocol read (protocol:
bootstrap tokens), who pass over ``profile``. ``bootstrapToken`` is the secret; the others spare a client
vain attempts: what counts is what the gateway knows of the code.

A profile says what the device may become: roles, and operator scopes at most.

A join link, ``https://HOST/j/CODE``, is a short way to a setup code: who asks the gateway for it by HTTP gets
that JSON, once. The secret is made from the link's code, so that the gateway need not keep either.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from base64 import urlsafe_b64decode
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import msgspec

from gateway.core.access import ADMIN, READ, WRITE, effective_scopes, is_loopback
from gateway.core.deviceproof import base64url
from gateway.core.frames import NotJson, decode_as, encode

MAX_CODE_CHARS: Final = 4096
MAX_URL_CHARS: Final = 512
LINK_BYTES: Final = 16
"""Random bytes of a link's code, which is 22 characters of base64url (protocol: join links)."""

_LINK_CODE: Final = re.compile(r"[A-Za-z0-9_-]{22}")


@dataclass(frozen=True, slots=True)
class Profile:
    """What a device that comes with a setup code may become."""

    name: str
    access: str
    """How the protocol calls it: full, limited or node."""
    roles: tuple[str, ...]
    scopes: tuple[str, ...] = ()
    """Operator scopes, at most."""

    def within(self, held: Iterable[str]) -> Profile:
        """Return the profile without the scopes that its maker does not hold itself."""
        allowed = effective_scopes(held)
        scopes = tuple(scope for scope in self.scopes if scope in allowed)
        return Profile(self.name, self.access, self.roles, scopes)


_HANDED_OVER: Final = (
    "operator.approvals",
    "operator.questions",
    READ,
    "operator.talk.secrets",
    WRITE,
)

FULL: Final = Profile("full", "full", ("node", "operator"), (ADMIN, *_HANDED_OVER))
LIMITED: Final = Profile("limited", "limited", ("node", "operator"), _HANDED_OVER)
NODE: Final = Profile("node", "node", ("node",))
VOICE_NODE: Final = Profile("voice-node", "limited", ("node", "operator"), (READ, "operator.talk"))
OPERATOR: Final = Profile(
    "operator", "full", ("operator",), (ADMIN, "operator.pairing", *_HANDED_OVER)
)
"""Another command line or web page of the same person; it is no node."""

PROFILES: Final = {each.name: each for each in (FULL, LIMITED, NODE, VOICE_NODE, OPERATOR)}


class InvalidSetupCode(ValueError):
    """A text is no setup code; ``str()`` says what is wrong with it, never what it holds."""


@dataclass(frozen=True, slots=True)
class SetupCode:
    """What a setup code says."""

    url: str
    """Where the gateway is: ``ws://`` or ``wss://``."""
    secret: str = field(repr=False)
    expires_at_ms: int | None = None
    profile: str | None = None
    """What it is for, by the name of a profile; other gateways do not say."""


class _Payload(msgspec.Struct, frozen=True, rename="camel"):
    """The JSON inside; other gateways put more into it."""

    url: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_URL_CHARS)]
    bootstrap_token: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
    expires_at_ms: int | None = None
    profile: str | None = None


_decoder = msgspec.json.Decoder(_Payload)


def encode_setup_code(code: SetupCode) -> str:
    """Return the text of a setup code."""
    return base64url(encode(setup_payload(code)))


def setup_payload(code: SetupCode) -> dict[str, Any]:
    """Return the JSON object of a setup code; it holds the secret."""
    payload = {
        "url": code.url,
        "bootstrapToken": code.secret,
        "expiresAtMs": code.expires_at_ms,
        "profile": code.profile,
    }
    return {key: value for key, value in payload.items() if value is not None}


def is_link_code(text: str) -> bool:
    """Whether a text has the form of a join link's code."""
    return _LINK_CODE.fullmatch(text) is not None


def link_secret(link_code: str) -> str:
    """Return the secret of the setup code that a join link leads to."""
    return base64url(hashlib.sha256(b"join link\0" + link_code.encode("ascii")).digest())


def join_url(url: str, link_code: str) -> str:
    """Return the join link below a gateway's address."""
    return f"http{url.removeprefix('ws').rstrip('/')}/j/{link_code}"


def decode_setup_code(text: str) -> SetupCode:
    """Read a setup code as it was pasted, with blanks and line breaks in it. Raises InvalidSetupCode."""
    packed = "".join(text.split()).rstrip("=")
    if not packed:
        raise InvalidSetupCode("the setup code is empty")
    if len(packed) > MAX_CODE_CHARS:
        raise InvalidSetupCode("that is too long for a setup code")
    try:
        raw = urlsafe_b64decode(packed + "=" * (-len(packed) % 4))
        payload = decode_as(raw, _decoder)
    except (binascii.Error, ValueError, msgspec.ValidationError, NotJson):
        raise InvalidSetupCode("that is no setup code, or only a part of one") from None
    if gateway_url_problem(payload.url) is not None:
        raise InvalidSetupCode("the setup code names no gateway address")
    return SetupCode(payload.url, payload.bootstrap_token, payload.expires_at_ms, payload.profile)


def looks_like_setup_code(text: str) -> bool:
    """Whether a text is a setup code: somebody may have pasted it where a token belongs."""
    try:
        decode_setup_code(text)
    except InvalidSetupCode:
        return False
    return True


def gateway_url_problem(url: str) -> str | None:
    """Return why an address is none that a client could connect to, or None."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return "it is no URL"
    if parts.scheme not in ("ws", "wss") or not parts.hostname:
        return "expected ws://HOST:PORT or wss://HOST:PORT"
    if parts.username is not None or parts.password is not None:
        return "it holds a credential"
    if parts.query or parts.fragment:
        return "it has a query"
    if len(url) > MAX_URL_CHARS or not url.isascii() or not url.isprintable() or " " in url:
        return "it has characters that a URL may not contain, or too many"
    return None


def is_private_url(url: str) -> bool:
    """Whether nobody on the way can read along: TLS, or an address of the same machine."""
    host = url_host(url)
    return url.startswith("wss:") or host == "localhost" or is_loopback(host)


def url_host(url: str) -> str:
    """Return the host of an address; nothing where there is none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
