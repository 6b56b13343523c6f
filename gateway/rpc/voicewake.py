"""Wake words, and the talk mode: what devices that listen and speak agree on."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Meta, UnsetType

from gateway.app.context import Context
from gateway.app.voicewake import ROUTING
from gateway.core.access import READ, WRITE
from gateway.core.events import Event
from gateway.core.params import NoParams, Params
from gateway.errors import Unavailable
from gateway.rpc.table import MethodTable

methods = MethodTable()

TALK = "operator.talk"
MAX_TRIGGERS = 1_000
"""As many may come; the first 32 are kept."""


class VoiceWakeSetParams(Params, frozen=True):
    """The words that wake devices."""

    triggers: Annotated[list[str], Meta(max_length=MAX_TRIGGERS)]


class TalkModeParams(Params, frozen=True):
    """Whether people talk with a device, and how far they are."""

    enabled: bool
    phase: Annotated[str, Meta(max_length=256)] | UnsetType = UNSET


@methods.method("voicewake.get", scope=READ)
async def voicewake_get(context: Context, params: NoParams) -> dict[str, Any]:
    """Return the words that wake devices."""
    return {"triggers": await context.services.voice_wake.triggers()}


@methods.method("voicewake.set", scope=WRITE)
async def voicewake_set(context: Context, params: VoiceWakeSetParams) -> dict[str, Any]:
    """Replace the words that wake devices; an empty list brings back the first ones."""
    return {"triggers": await context.services.voice_wake.set(params.triggers)}


@methods.method("voicewake.routing.get", scope=READ)
def voicewake_routing_get(context: Context, params: NoParams) -> dict[str, Any]:
    """Return which word wakes which session: every word the one that a device is at."""
    return ROUTING


def _talk_scope(protocol: int, params: TalkModeParams | None) -> str:
    return TALK if protocol >= 4 else WRITE


@methods.method("talk.mode", scope=_talk_scope)
def talk_mode(context: Context, params: TalkModeParams) -> dict[str, Any]:
    """Switch the talk mode, and tell everybody who talks."""
    caller, services = context.caller, context.services
    if caller.protocol < 4 and caller.client.mode == "webchat" and not _mobile(context):
        raise Unavailable("talk disabled: no connected iOS or Android node", retryable=True)
    told = {
        "enabled": params.enabled,
        "phase": None if params.phase is UNSET else params.phase,
        "ts": services.clock.now_ms(),
    }
    services.hub.broadcast(Event("talk.mode", told))
    return told


def _mobile(context: Context) -> bool:
    """Whether a phone is connected as a node."""
    callers = [connection.caller for connection in context.services.hub.connections]
    return any(
        caller.is_node and caller.client.platform.lower().startswith(("ios", "ipados", "android"))
        for caller in callers
    )
