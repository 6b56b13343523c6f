"""Devices: what asks to be paired, what is, and their tokens."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, UnsetType

from gateway.app.context import Context
from gateway.core.params import NonEmpty, NoParams, Params
from gateway.rpc.table import MethodTable

methods = MethodTable()

PAIRING = "operator.pairing"


class RequestParams(Params, frozen=True):
    """Which request."""

    request_id: NonEmpty


class DeviceParams(Params, frozen=True):
    """Which device."""

    device_id: NonEmpty


class RenameParams(Params, frozen=True):
    """Which device, and its new name."""

    device_id: NonEmpty
    label: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class TokenParams(Params, frozen=True):
    """Which device, in which role."""

    device_id: NonEmpty
    role: NonEmpty


class RotateParams(Params, frozen=True):
    """Which device, in which role, and what the new token is for; without ``scopes`` all that is approved."""

    device_id: NonEmpty
    role: NonEmpty
    scopes: list[NonEmpty] | UnsetType = UNSET


class UpgradeParams(Params, frozen=True):
    """The scopes that the device asks for."""

    scopes: Annotated[list[NonEmpty], msgspec.Meta(min_length=1, max_length=8)]

    def __post_init__(self) -> None:
        if len(set(self.scopes)) < len(self.scopes):
            raise ValueError("scopes must not have duplicate items")


@methods.method("device.pair.list", scope=PAIRING)
async def device_pair_list(context: Context, params: NoParams) -> dict[str, Any]:
    """List devices that ask to be paired and those that are; who is no admin sees its own device only."""
    return await context.services.devices.list(context.caller)


@methods.method("device.pair.approve", scope=PAIRING)
async def device_pair_approve(context: Context, params: RequestParams) -> dict[str, Any]:
    """Grant what a device asks for; the approver has to hold every scope of it."""
    return await context.services.devices.approve(context.caller, params.request_id)


@methods.method("device.pair.reject", scope=PAIRING)
async def device_pair_reject(context: Context, params: RequestParams) -> dict[str, Any]:
    """Refuse what a device asks for; it may ask again."""
    return await context.services.devices.reject(context.caller, params.request_id)


@methods.method("device.pair.remove", scope=PAIRING)
async def device_pair_remove(context: Context, params: DeviceParams) -> dict[str, Any]:
    """Forget a paired device, end its tokens and close its connections."""
    return await context.services.devices.remove(context.caller, params.device_id)


@methods.method("device.pair.rename", scope=PAIRING)
async def device_pair_rename(context: Context, params: RenameParams) -> dict[str, Any]:
    """Give a paired device a name for operators."""
    return await context.services.devices.rename(context.caller, params.device_id, params.label)


@methods.method("device.token.rotate", scope=PAIRING)
async def device_token_rotate(context: Context, params: RotateParams) -> dict[str, Any]:
    """Replace a device's tokens of a role by a new one and close the connections of that role."""
    scopes = None if isinstance(params.scopes, UnsetType) else tuple(params.scopes)
    return await context.services.devices.rotate(
        context.caller, params.device_id, params.role, scopes
    )


@methods.method("device.token.revoke", scope=PAIRING)
async def device_token_revoke(context: Context, params: TokenParams) -> dict[str, Any]:
    """End a device's tokens of a role and close its connections; it has to be approved anew."""
    return await context.services.devices.revoke(context.caller, params.device_id, params.role)


@methods.method("device.scopes.requestUpgrade", scope=None)
async def device_scopes_request_upgrade(context: Context, params: UpgradeParams) -> dict[str, Any]:
    """Ask operators for more scopes for the device of this connection."""
    request_id = await context.services.scope_upgrades.request(context.caller, tuple(params.scopes))
    return {"requestId": request_id}


@methods.method("device.scopes.waitUpgrade", scope=None, waits=True)
async def device_scopes_wait_upgrade(context: Context, params: RequestParams) -> dict[str, Any]:
    """Wait until the request is decided or expires; approved, the answer has a new device token."""
    return await context.services.scope_upgrades.wait(context.caller, params.request_id)
