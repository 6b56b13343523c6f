"""The two ends of a client's handshake: what ``connect`` says, and what ``hello-ok`` told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeGuard

import msgspec

from gateway.client.actions import Hello
from gateway.client.options import MAX_FRAME_BYTES, ClientOptions
from gateway.core.deviceproof import SignedContext, payload_v2, payload_v3, signed_token

DEFAULT_TICK_INTERVAL_MS: Final = 30_000
MIN_TICK_INTERVAL_S: Final = 1.0


def connect_params(options: ClientOptions, nonce: str, signed_at_ms: int | None) -> dict[str, Any]:
    """Return the params of ``connect`` (protocol: handshake).

    With a device, its proof is signed over the challenge's own time, so that a wrong clock on this
    side does no harm.
    """
    params: dict[str, Any] = {
        "minProtocol": options.min_protocol,
        "maxProtocol": options.max_protocol,
        "client": msgspec.to_builtins(options.client),
        "role": options.role.value,
        "scopes": list(options.scopes),
        "caps": list(options.caps),
    }
    if options.commands:
        params["commands"] = list(options.commands)
    given = options.credentials
    auth = {
        "token": given.token,
        "password": given.password,
        "deviceToken": given.device_token,
        "bootstrapToken": given.bootstrap_token,
    }
    if auth := {name: value for name, value in auth.items() if value is not None}:
        params["auth"] = auth
    if options.device is not None and signed_at_ms is not None:
        params["device"] = _device(options, nonce, signed_at_ms)
    return params


def _device(options: ClientOptions, nonce: str, signed_at_ms: int) -> dict[str, Any]:
    device, given = options.device, options.credentials
    assert device is not None
    context = SignedContext(
        client_id=options.client.id,
        client_mode=options.client.mode,
        role=options.role.value,
        scopes=options.scopes,
        token=signed_token(given.token, given.device_token, given.bootstrap_token),
        platform=options.client.platform,
        device_family=options.client.device_family,
    )
    # A gateway of version 3 verifies only payloads of version 2.
    build = payload_v3 if options.max_protocol >= 4 else payload_v2
    return {
        "id": device.device_id,
        "publicKey": device.public_key,
        "signature": device.sign(build(device.device_id, signed_at_ms, nonce.strip(), context)),
        "signedAt": signed_at_ms,
        "nonce": nonce,
    }


def parse_hello(payload: Any) -> Hello:
    """Read ``hello-ok`` as far as it is there; a client gets along with very little of it."""
    hello = payload if isinstance(payload, dict) else {}
    server, features = mapping(hello, "server"), mapping(hello, "features")
    auth, policy = mapping(hello, "auth"), mapping(hello, "policy")
    tick_ms, max_payload = policy.get("tickIntervalMs"), policy.get("maxPayload")
    token, protocol = auth.get("deviceToken"), hello.get("protocol")
    tick_s = (tick_ms if is_count(tick_ms) else DEFAULT_TICK_INTERVAL_MS) / 1000
    return Hello(
        protocol=protocol if is_count(protocol) else 0,
        server_version=str(server.get("version", "")),
        conn_id=str(server.get("connId", "")),
        methods=_strings(features.get("methods")),
        events=_strings(features.get("events")),
        scopes=_strings(auth["scopes"]) if "scopes" in auth else None,
        device_token=token if isinstance(token, str) else None,
        tick_interval_s=max(tick_s, MIN_TICK_INTERVAL_S),
        max_payload=min(max_payload if is_count(max_payload) else MAX_FRAME_BYTES, MAX_FRAME_BYTES),
        payload=hello,
    )


def mapping(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return the object under ``key``, an empty one where there is none."""
    found = value.get(key)
    return found if isinstance(found, Mapping) else {}


def is_count(value: Any) -> TypeGuard[int]:
    """Whether a JSON value is an integer that is not negative."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _strings(value: Any) -> tuple[str, ...]:
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()
