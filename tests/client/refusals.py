"""Every refusal of the handshake, and what a client has to make of it: the same for every driver."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gateway.client import (
    ClientError,
    ClientOptions,
    ConnectFailed,
    ConnectionLost,
    ConnectRefused,
    Credentials,
    Reconnect,
    RequestFailed,
)
from tests.client.rigs import Rig

ONCE = ClientOptions(credentials=Credentials(token="t"))
COMES_BACK = ClientOptions(
    credentials=Credentials(token="t"), reconnect=Reconnect(fraction=lambda: 0.5)
)


def shown(error: ClientError) -> str:
    """Name an error by its type and its codes."""
    match error:
        case ConnectRefused():
            codes = [error.code, error.detail_code, error.close_code]
        case ConnectionLost():
            codes = [error.code]
        case ConnectFailed():
            codes = [error.why]
        case RequestFailed():
            codes = [error.code]
        case _:
            codes = []
    return " ".join([type(error).__name__, *(str(code) for code in codes if code is not None)])


@dataclass(frozen=True)
class Refusal:
    """An answer to connect, the close after it, and what a client makes of both.

    Without a close the gateway leaves the rest to the client; without either it cuts the connection.
    """

    name: str
    code: str | None
    details: dict[str, Any] | None
    close: tuple[int, str] | None
    error: str
    final: bool = True
    more: dict[str, Any] = field(default_factory=dict)

    def play(self, connection: Any, frame: dict[str, Any]) -> None:
        """Be the handler of connect."""
        if self.code is not None:
            given = {} if self.details is None else {"details": self.details}
            connection.refuse(frame, self.code, "no", **given, **self.more)
        if self.close is not None:
            connection.close(*self.close)
        elif self.code is None:
            connection.cut()


def _auth(detail: str, reason: str = "unauthorized", **details: Any) -> Refusal:
    return Refusal(
        detail,
        "INVALID_REQUEST",
        {"code": detail, **details},
        (1008, reason),
        f"ConnectRefused INVALID_REQUEST {detail} 1008",
    )


def _unpaired(detail: str, *, final: bool = True, name: str = "", **details: Any) -> Refusal:
    return Refusal(
        name or detail,
        "NOT_PAIRED",
        {"code": detail, **details},
        (1008, "pairing required"),
        f"ConnectRefused NOT_PAIRED {detail} 1008",
        final,
    )


REFUSALS = (
    *(
        _auth(detail)
        for detail in (
            "AUTH_REQUIRED",
            "AUTH_UNAUTHORIZED",
            "AUTH_TOKEN_MISSING",
            "AUTH_TOKEN_MISMATCH",
            "AUTH_TOKEN_NOT_CONFIGURED",
            "AUTH_PASSWORD_MISSING",
            "AUTH_PASSWORD_MISMATCH",
            "AUTH_PASSWORD_NOT_CONFIGURED",
            "AUTH_BOOTSTRAP_TOKEN_INVALID",
            "AUTH_DEVICE_TOKEN_MISMATCH",
            "AUTH_SCOPE_MISMATCH",
            "AUTH_RATE_LIMITED",
            "AUTH_IDENTITY_HEADER_REQUIRED",
            "AUTH_VERIFIED_USER_REQUIRED",
            "AUTH_TAILSCALE_IDENTITY_MISSING",
            "CONTROL_UI_ORIGIN_NOT_ALLOWED",
            "CONTROL_UI_DEVICE_IDENTITY_REQUIRED",
            "CLIENT_VERSION_MISMATCH",
            "DEVICE_AUTH_DEVICE_ID_MISMATCH",
            "DEVICE_AUTH_NONCE_REQUIRED",
            "DEVICE_AUTH_NONCE_MISMATCH",
            "DEVICE_AUTH_SIGNATURE_INVALID",
            "DEVICE_AUTH_PUBLIC_KEY_INVALID",
            "DEVICE_AUTH_INVALID",
        )
    ),
    _unpaired("PAIRING_REQUIRED", requestId="p-1"),
    _unpaired("DEVICE_IDENTITY_REQUIRED"),
    _unpaired("PAIRING_REQUIRED", final=False, name="pairing: wait", pauseReconnect=False),
    Refusal(
        "another version",
        "INVALID_REQUEST",
        {"code": "PROTOCOL_MISMATCH", "expectedProtocol": 9},
        (1002, "protocol mismatch"),
        "ConnectRefused INVALID_REQUEST PROTOCOL_MISMATCH 1002",
    ),
    Refusal(
        "another build",
        "UNAVAILABLE",
        {"code": "CONTROL_UI_BUILD_MISMATCH"},
        (1008, "protocol mismatch: Control UI updated"),
        "ConnectRefused UNAVAILABLE CONTROL_UI_BUILD_MISMATCH 1008",
        more={"retryable": False},
    ),
    Refusal(
        "bad params",
        "INVALID_REQUEST",
        None,
        (1008, "invalid connect params: at /client"),
        "ConnectRefused INVALID_REQUEST 1008",
    ),
    Refusal(
        "forbidden",
        "FORBIDDEN",
        {"code": "MISSING_SCOPE"},
        None,
        "ConnectRefused FORBIDDEN MISSING_SCOPE",
    ),
    Refusal("version by close", None, None, (1002, "protocol mismatch"), "ConnectRefused 1002"),
    Refusal(
        "stale proof",
        "INVALID_REQUEST",
        {"code": "DEVICE_AUTH_SIGNATURE_EXPIRED", "reason": "device-signature-stale"},
        (1008, "device signature expired"),
        "ConnectRefused INVALID_REQUEST DEVICE_AUTH_SIGNATURE_EXPIRED 1008",
        final=False,
    ),
    Refusal(
        "starting",
        "UNAVAILABLE",
        {"phase": "starting"},
        (1013, "gateway starting"),
        "ConnectRefused UNAVAILABLE 1013",
        final=False,
        more={"retryable": True, "retryAfterMs": 500},
    ),
    Refusal("try later", None, None, (1013, "later"), "ConnectRefused 1013", final=False),
    Refusal("restart", None, None, (1012, "service restart"), "ConnectRefused 1012", final=False),
    Refusal("internal", None, None, (1011, "unavailable"), "ConnectRefused 1011", final=False),
    Refusal("handshake timeout", None, None, (1000, ""), "ConnectRefused 1000", final=False),
    Refusal("policy", None, None, (1008, "loading"), "ConnectRefused 1008", final=False),
    Refusal("cut", None, None, None, "ConnectionLost 1006", final=False),
)


async def be_refused(rig: Rig, refusal: Refusal, options: ClientOptions) -> list[str]:
    """Connect to a gateway that refuses twice, and then does not."""
    accept, left = rig.gateway.handlers["connect"], [refusal, refusal]

    def answer(connection: Any, frame: dict[str, Any]) -> None:
        (left.pop().play if left else accept)(connection, frame)

    rig.gateway.handlers["connect"] = answer
    try:
        client = await rig.connect(options)
    except ClientError as error:
        return [shown(error), f"{rig.dials} attempts"]
    await client.close()
    return ["connected", f"{rig.dials} attempts"]
