"""Where a message comes from and where its answer belongs, as clients say it."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET

from gateway.app.context import Context
from gateway.core.access import ADMIN
from gateway.core.params import given
from gateway.errors import InvalidRequest, MissingScope
from gateway.model import InputProvenance, ReplyAddress
from gateway.rpc.turn_params import AgentParams, ChatSendParams, Provenance

_OURS = frozenset({"", "webchat", "last"})
"""What a channel may be called while there are none; ``last`` names none: an answer is never sent to what
happens to have been used last."""


def chat_address(params: ChatSendParams) -> ReplyAddress | None:
    """Return where the answer to a chat message belongs.

    Raises InvalidRequest where it is to be delivered to a channel that does not exist.
    """
    channel = given(params.originating_channel, "")
    if given(params.deliver, False):
        _check_channel("chat.send", channel)
    return _address(
        channel=channel,
        to=given(params.originating_to, ""),
        account_id=given(params.originating_account_id, ""),
        thread_id=given(params.originating_thread_id, ""),
    )


def agent_address(params: AgentParams) -> ReplyAddress | None:
    """Return where the answer of ``agent`` belongs: the reply fields go before the others.

    Raises InvalidRequest for a channel that does not exist.
    """
    for channel in (params.channel, params.reply_channel):
        _check_channel("agent", given(channel, ""))
    return _address(
        channel=given(params.reply_channel, "") or given(params.channel, ""),
        to=given(params.reply_to, "") or given(params.to, ""),
        account_id=given(params.reply_account_id, "") or given(params.account_id, ""),
        thread_id=given(params.thread_id, ""),
    )


def delivery_context(address: ReplyAddress | None) -> dict[str, Any] | None:
    """Return an address as answers carry it."""
    found: dict[str, Any] | None = None if address is None else msgspec.to_builtins(address)
    return found


def input_provenance(params: Provenance | msgspec.UnsetType) -> InputProvenance | None:
    """Return where a message says that it comes from."""
    if params is UNSET:
        return None
    return msgspec.convert(msgspec.to_builtins(params), InputProvenance)


def system_provenance(
    context: Context, params: ChatSendParams
) -> tuple[InputProvenance | None, str | None]:
    """Return what a bridge says of a chat message: where it comes from, and a text for the agent.

    Raises MissingScope: whoever else sends a message is its source.
    """
    receipt = given(params.system_provenance_receipt, None)
    provenance = input_provenance(params.system_input_provenance)
    claims = receipt is not None or provenance is not None
    if claims and ADMIN not in context.caller.scopes:
        raise MissingScope(ADMIN, (ADMIN,))
    return provenance, receipt


def _check_channel(method: str, channel: str) -> None:
    if channel.strip().lower() not in _OURS:
        raise InvalidRequest(f"invalid {method} params: unknown channel: {channel[:64]}")


def _address(**fields: str) -> ReplyAddress | None:
    known = {name: text.strip() for name, text in fields.items() if text.strip()}
    if known.get("channel", "").lower() == "last":
        del known["channel"]
    return ReplyAddress(**known) if known else None
