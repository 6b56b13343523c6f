"""Setup codes: one text that brings a new device in without a question."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from gateway.app.context import Caller, Context
from gateway.core.access import ADMIN, is_loopback
from gateway.core.params import NonEmpty, Params, given
from gateway.core.setupcode import (
    FULL,
    LIMITED,
    NODE,
    PROFILES,
    Profile,
    SetupCode,
    encode_setup_code,
    gateway_url_problem,
    is_private_url,
    join_url,
    url_host,
)
from gateway.errors import InvalidRequest
from gateway.rpc.table import MethodTable

methods = MethodTable()

_NO_ADDRESS: Final = (
    "no address is known under which a device reaches this gateway:"
    " give publicUrl, such as wss://HOST"
)


class SetupCodeParams(Params, frozen=True):
    """What the device may become, and where it finds the gateway."""

    public_url: NonEmpty | UnsetType = UNSET
    """Address that the code names; without it the one that the caller came by."""
    prefer_remote_url: bool | UnsetType = UNSET
    """Has no effect: there is one address."""
    include_qr: bool | UnsetType = UNSET
    """Whether the code comes as a picture too; it does unless this is false."""
    bootstrap_profile: Literal["full", "limited", "node", "operator", "voice-node"] | UnsetType = (
        UNSET
    )
    """What the device may become; ``full`` and ``operator`` can be named at this gateway only."""
    join_url: bool | UnsetType = UNSET
    """Whether the code gets a join link; then it is one for a node."""


class SetupStatusParams(Params, frozen=True):
    """Which setup code."""

    setup_id: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


@methods.method("device.pair.setupCode", scope=ADMIN, advertised=False)
async def device_pair_setup_code(context: Context, params: SetupCodeParams) -> dict[str, Any]:
    """Make a setup code, which brings one new device in within ten minutes."""
    caller = context.caller
    url, source = _address(caller, params)
    profile, downgraded = _profile(params, url)
    codes = context.services.setup_codes
    link_to = _linked(params, url)
    made = codes.create(profile, caller.scopes, caller.principal, link_to=link_to)
    code = encode_setup_code(SetupCode(url, made.secret, made.expires_at_ms, profile.name))
    mode = context.services.operations.auth_mode
    result = {
        "setupId": made.setup_id,
        "expiresAtMs": made.expires_at_ms,
        "setupCode": code,
        "gatewayUrl": url,
        "auth": mode if mode == "password" else "token",
        "urlSource": source,
        "access": made.profile.access,
    }
    if made.link_code is not None:
        result["joinUrl"] = join_url(url, made.link_code)
    if downgraded:
        result["accessDowngraded"] = True
    if given(params.include_qr, True) and (picture := await codes.drawn(code)) is not None:
        result["qrDataUrl"] = picture
    return result


@methods.method("device.pair.setupStatus", scope=ADMIN, advertised=False)
def device_pair_setup_status(context: Context, params: SetupStatusParams) -> dict[str, Any]:
    """Tell by which device a setup code was used; nothing while it was not."""
    completion = context.services.setup_codes.completion(params.setup_id)
    return {} if completion is None else {"completion": completion}


def _profile(params: SetupCodeParams, url: str) -> tuple[Profile, bool]:
    """Return what the code is for, and whether that is less than what is usual.

    Where others can read along, a device becomes an admin only if that was asked for by name.
    """
    if given(params.join_url, False) and given(params.bootstrap_profile, "node") != "node":
        raise InvalidRequest("Join URLs require bootstrapProfile=node.")
    if given(params.join_url, False):
        return NODE, False
    if params.bootstrap_profile is not UNSET:
        return PROFILES[params.bootstrap_profile], False
    return (FULL, False) if is_private_url(url) else (LIMITED, True)


def _linked(params: SetupCodeParams, url: str) -> str | None:
    """Return the address for a join link, None where none is wanted. Raises InvalidRequest."""
    if not given(params.join_url, False):
        return None
    if not is_private_url(url):
        raise InvalidRequest(
            "a join link needs an address with TLS, wss://HOST, or one of this machine"
        )
    return url


def _address(caller: Caller, params: SetupCodeParams) -> tuple[str, str]:
    """Return the address for a device, and whence it is known. Raises InvalidRequest."""
    url = given(params.public_url, "").strip().rstrip("/")
    if url:
        problem = gateway_url_problem(url)
        if problem is not None:
            raise InvalidRequest(f"publicUrl is no address of a gateway: {problem}")
        return url, "request.publicUrl"
    secure = (caller.peer.origin or "").startswith("https:")
    url = f"{'wss' if secure else 'ws'}://{caller.peer.host or ''}"
    host = url_host(url)
    if gateway_url_problem(url) is not None or host == "localhost" or is_loopback(host):
        raise InvalidRequest(_NO_ADDRESS)
    return url, "connection"
