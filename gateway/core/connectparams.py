"""The params of ``connect`` and the choice of the protocol version.

One struct serves both versions: it is version 4's schema, which contains version 3's; what version 3
lacks is in the annotations, and :func:`check_connect` holds a connection to its own version.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from gateway.core.frames import NotJson, decode_as, describe
from gateway.core.params import SINCE_4, Natural, NonEmpty, Params, Positive, VersionRules
from gateway.model import ClientInfo

PROTOCOLS: Final = (3, 4)

CLIENT_IDS_V3: Final = frozenset(
    "webchat-ui openclaw-control-ui webchat cli gateway-client openclaw-macos openclaw-ios "
    "openclaw-android node-host test fingerprint openclaw-probe".split()
)
CLIENT_IDS: Final = CLIENT_IDS_V3 | frozenset(
    "openclaw-browser-copilot openclaw-tui openclaw-linux openclaw-watchos openclaw-worker".split()
)
MODES_V3: Final = frozenset("webchat cli ui backend node probe test".split())
MODES: Final = MODES_V3 | {"worker"}
MAX_CLAIM: Final = 200
"""Characters that are kept of each thing that a client says of itself."""
_UNKNOWN: Final = "unknown"
_HIDDEN: Final = frozenset("\u115f\u1160\u2800\u3164\uffa0")
"""Blanks that count as printable."""


def claim(text: str | UnsetType | None) -> str | None:
    """Return what a client says of itself as others may be shown it, None for nothing.

    It is one line, bounded, without what steers a terminal, turns the direction of writing or is not seen.
    """
    text = (text or "")[:MAX_CLAIM]
    if not (text.isascii() and text.isprintable()):
        text = "".join(c if c.isprintable() and c not in _HIDDEN else " " for c in text)
    return " ".join(text.split()) or None


class ClientParams(Params, frozen=True):
    """``params.client``."""

    id: Annotated[NonEmpty, msgspec.Meta(extra={"v3_values": CLIENT_IDS_V3})]
    version: NonEmpty
    platform: NonEmpty
    mode: Annotated[NonEmpty, msgspec.Meta(extra={"v3_values": MODES_V3})]
    display_name: NonEmpty | UnsetType = UNSET
    device_family: NonEmpty | UnsetType = UNSET
    model_identifier: NonEmpty | UnsetType = UNSET
    instance_id: NonEmpty | UnsetType = UNSET
    build_id: Annotated[
        Annotated[str, msgspec.Meta(min_length=1, max_length=96)] | UnsetType, SINCE_4
    ] = UNSET
    time_zone: Annotated[
        Annotated[str, msgspec.Meta(min_length=1, max_length=64)] | UnsetType, SINCE_4
    ] = UNSET

    def __post_init__(self) -> None:
        for name, value, allowed in (("id", self.id, CLIENT_IDS), ("mode", self.mode, MODES)):
            if value not in allowed:
                raise ValueError(f"{name} must be equal to one of the allowed values")

    def info(self) -> ClientInfo:
        """Return what the domain keeps of it; its device signs it as it was sent."""
        return ClientInfo(
            id=self.id,
            version=claim(self.version) or _UNKNOWN,
            platform=claim(self.platform) or _UNKNOWN,
            mode=self.mode,
            display_name=claim(self.display_name),
            device_family=claim(self.device_family),
            model_identifier=claim(self.model_identifier),
            instance_id=claim(self.instance_id),
        )


class DeviceParams(Params, frozen=True):
    """``params.device``: the proof of a device identity."""

    id: NonEmpty
    public_key: NonEmpty
    signature: NonEmpty
    signed_at: Natural
    nonce: NonEmpty


class AuthParams(Params, frozen=True):
    """``params.auth``: credentials. Never logged."""

    token: str | UnsetType = UNSET
    device_token: str | UnsetType = UNSET
    password: str | UnsetType = UNSET
    bootstrap_token: Annotated[str | UnsetType, SINCE_4] = UNSET
    approval_runtime_token: Annotated[str | UnsetType, SINCE_4] = UNSET
    agent_runtime_identity_token: Annotated[str | UnsetType, SINCE_4] = UNSET

    def __repr__(self) -> str:
        """Return no secret: this may stand in a traceback."""
        return "AuthParams(...)"

    def signed_token(self) -> str:
        """Return the token that a device signature covers: the first field that is present."""
        for value in (self.token, self.device_token, self.bootstrap_token):
            if value is not UNSET:
                return str(value)
        return ""


class ModelCatalogParams(Params, frozen=True):
    """``params.modelCatalog``: a session by its key, or by its short id. It has no effect here."""

    agent_id: NonEmpty | UnsetType = UNSET
    session_key: NonEmpty | UnsetType = UNSET
    short_id: NonEmpty | UnsetType = UNSET
    slug_hint: NonEmpty | UnsetType = UNSET

    def __post_init__(self) -> None:
        if self.session_key is not UNSET and self.short_id is not UNSET:
            raise ValueError("must name a session by sessionKey or by shortId")
        if self.slug_hint is not UNSET and self.short_id is UNSET:
            raise ValueError("must have required property 'shortId'")


class WorkerRunsParams(Params, frozen=True):
    """``params.workerRuns``: what a worker of the reference implementation can do. No effect here."""

    bundle_hash: Annotated[str, msgspec.Meta(pattern="^[a-f0-9]{64}$")]
    openclaw_version: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    protocol_features: Annotated[
        list[Annotated[str, msgspec.Meta(min_length=1, max_length=128)]],
        msgspec.Meta(max_length=64),
    ]
    bundle_prewarm: Annotated[int, msgspec.Meta(ge=1, le=2**53 - 1)] | UnsetType = UNSET

    def __post_init__(self) -> None:
        if len(set(self.protocol_features)) < len(self.protocol_features):
            raise ValueError("protocolFeatures must not have duplicate items")


class ConnectParams(Params, frozen=True):
    """The params of ``connect``; version 4's schema, which contains version 3's."""

    min_protocol: Positive
    max_protocol: Positive
    client: ClientParams
    role: NonEmpty | UnsetType = UNSET
    scopes: list[NonEmpty] | UnsetType = UNSET
    caps: list[NonEmpty] | UnsetType = UNSET
    commands: list[NonEmpty] | UnsetType = UNSET
    permissions: dict[str, bool] | UnsetType = UNSET
    path_env: str | UnsetType = UNSET
    auth: AuthParams | UnsetType = UNSET
    device: DeviceParams | UnsetType = UNSET
    locale: str | UnsetType = UNSET
    user_agent: str | UnsetType = UNSET
    computer_use: Annotated[Any | UnsetType, SINCE_4] = UNSET
    model_catalog: Annotated[ModelCatalogParams | UnsetType, SINCE_4] = UNSET
    worker_runs: Annotated[WorkerRunsParams | UnsetType, SINCE_4] = UNSET


_decoder = msgspec.json.Decoder(ConnectParams)
_rules = VersionRules(ConnectParams)


class InvalidConnect(Exception):
    """The params of ``connect`` do not fit the schema; ``str()`` says where."""


def decode_connect(params: bytes | msgspec.Raw) -> ConnectParams:
    """Decode the params of ``connect`` by version 4's schema. Raises InvalidConnect."""
    try:
        return decode_as(bytes(params) or b"null", _decoder)
    except msgspec.ValidationError as error:
        raise InvalidConnect(describe(error)) from error
    except NotJson as error:
        raise InvalidConnect(str(error)) from error


def check_connect(params: ConnectParams, protocol: int) -> None:
    """Hold the params to the schema of the chosen version. Raises InvalidConnect."""
    text = _rules.violation(params, protocol)
    if text is not None:
        raise InvalidConnect(text)


def choose_protocol(minimum: int, maximum: int) -> int | None:
    """Return the highest version that both sides speak, or None."""
    return next((p for p in reversed(PROTOCOLS) if minimum <= p <= maximum), None)
