"""The content of a turn in the terms of ACP: prompts, history, results and errors. No I/O."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from gateway.agents.acp_capabilities import Capabilities, login_hint
from gateway.agents.acp_values import count_of, items, mapping, text_of
from gateway.agents.jsonrpc import AUTH_REQUIRED, RpcError
from gateway.core.transcript import is_summary
from gateway.errors import BackendError, BackendErrorKind
from gateway.model import (
    Attachment,
    Compaction,
    Message,
    ModelUsage,
    RunRequest,
    RunResult,
    Usage,
)

HISTORY_MESSAGES = 50
"""Messages of the transcript that an agent gets which starts afresh."""
HISTORY_CHARS = 100_000
SUMMARY_CHARS = 50_000
HISTORY_HEAD = (
    "[The conversation so far, from before you were started. It is here so that you can go on with it; "
    "what to answer follows after its end.]"
)
HISTORY_FOOT = "[End of the conversation so far.]"
TEXT_CHARS = 300
"""What is kept of a text in an error's details."""

ATTACHED_CHARS = 100_000
"""Longest text of an attachment that an agent gets as text which takes no embedded files."""

_TEXT_TYPES = ("application/json", "application/xml", "application/yaml", "application/toml")
_STOP_REASONS = {
    "end_turn": "stop",
    "max_tokens": "length",
    "max_turn_requests": "max_turn_requests",
}
_DETAIL_KEYS = ("provider", "model", "providerErrorType")


def prompt_blocks(
    text: str, attachments: Sequence[Attachment], can: Capabilities, before: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Return a message as content blocks, with the texts ``before`` first.

    An attachment that the agent can not take is named in a text block, so that nobody thinks it saw it.
    """
    blocks: list[dict[str, Any]] = [{"type": "text", "text": each} for each in before]
    if text or not attachments:
        blocks.append({"type": "text", "text": text})
    return blocks + [_attached(attachment, can) for attachment in attachments]


def _attached(attachment: Attachment, can: Capabilities) -> dict[str, Any]:
    mime = attachment.mime_type
    family = mime.partition("/")[0]
    if (family == "image" and can.images) or (family == "audio" and can.audio):
        return {"type": family, "mimeType": mime, "data": _base64(attachment.data)}
    text = _readable(attachment)
    name = attachment.file_name or attachment.kind
    if can.embedded:
        resource = {"uri": f"attachment:///{quote(name)}", "mimeType": mime}
        content = {"blob": _base64(attachment.data)} if text is None else {"text": text}
        return {"type": "resource", "resource": resource | content}
    if text is not None and len(text) <= ATTACHED_CHARS:
        return {"type": "text", "text": f"[{name}: {mime}]\n{text}"}
    return {"type": "text", "text": _not_shown(attachment)}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _readable(attachment: Attachment) -> str | None:
    """Return the text of a text file, None for any other."""
    mime = attachment.mime_type.partition(";")[0].strip()
    if not (mime.startswith("text/") or mime in _TEXT_TYPES or mime.endswith(("+json", "+xml"))):
        return None
    try:
        return attachment.data.decode()
    except UnicodeDecodeError:
        return None


def texts_before(request: RunRequest, preface: str | None, can: Capabilities) -> list[str]:
    """Return what an agent is told before the message since it takes it in no other way."""
    texts = [] if preface is None else [preface]
    if request.extra_system_prompt and not can.ours:
        texts.append(f"[Instructions for this turn]\n{request.extra_system_prompt}")
    return texts


def prompt_meta(request: RunRequest) -> dict[str, Any]:
    """Return what an agent of ours is told beside the prompt."""
    meta: dict[str, Any] = {"runId": request.run_id, "sessionKey": request.session_key}
    if request.thinking is not None:
        meta["thinking"] = request.thinking
    if request.model is not None:
        meta["model"] = request.model
    if request.extra_system_prompt is not None:
        meta["extraSystemPrompt"] = request.extra_system_prompt
    return {"gateway": meta}


def history_items(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Return the newest texts of a transcript as ``{role, text}``, oldest first.

    A summary of what came before them, where there is one, is the first; its role is ``summary``.
    """
    found: list[dict[str, str]] = []
    summaries = [_plain_text(message.content) for message in messages if is_summary(message)]
    summary = summaries[-1][:SUMMARY_CHARS] if summaries else ""
    chars = len(summary)
    for message in reversed(messages):
        text = _plain_text(message.content)[len(summary) - HISTORY_CHARS :]
        if not text or message.role not in ("user", "assistant"):
            continue
        chars += len(text)
        if chars > HISTORY_CHARS:
            break
        found.append({"role": message.role, "text": text})
    if summary:
        found.append({"role": "summary", "text": summary})
    found.reverse()
    return found


def history_text(said: Sequence[dict[str, str]]) -> str | None:
    """Return a conversation as one text, for an agent that can not be told it otherwise."""
    if not said:
        return None
    names = {"user": "User", "assistant": "You", "summary": "Summary of what came before"}
    parts = [f"{names[item['role']]}: {item['text']}" for item in said]
    return "\n\n".join([HISTORY_HEAD, *parts, HISTORY_FOOT])


def run_result(
    answer: Any,
    *,
    context_tokens: int | None = None,
    provider: str | None = None,
    model: str | None = None,
) -> RunResult:
    """Return the result of a ``session/prompt`` answer.

    ``context_tokens``, ``provider`` and ``model`` are what is known where the answer does not say.
    Raises BackendError if the agent refused, or says that it was cancelled though nobody asked.
    """
    shape = mapping(answer)
    reason = shape.get("stopReason")
    if reason == "refusal":
        raise BackendError("the agent refused to go on", kind=BackendErrorKind.REFUSAL)
    if reason == "cancelled":
        raise BackendError("the agent cancelled the turn by itself")
    meta = mapping(mapping(shape.get("_meta")).get("gateway"))
    model = text_of(meta.get("model")) or model
    provider = text_of(meta.get("provider")) or (provider if model is not None else None)
    return RunResult(
        stop_reason=_STOP_REASONS.get(reason, "stop") if isinstance(reason, str) else "stop",
        usage=read_usage(
            meta.get("usage") or shape.get("usage"), context_tokens, provider or "", model or ""
        ),
        provider=provider,
        model=model,
    )


def read_compaction(answer: Any) -> Compaction | None:
    """Return a summary that an agent of ours tells, None if there is none in it."""
    shape = mapping(answer)
    summary, kept = text_of(shape.get("summary")), count_of(shape.get("keptMessages"))
    if summary is None or kept is None:
        return None
    return Compaction(
        summary=summary,
        kept_messages=kept,
        tokens_before=count_of(shape.get("tokensBefore")),
        tokens_after=count_of(shape.get("tokensAfter")),
    )


def prompt_error(error: RpcError, logins: tuple[str, ...] = ()) -> BackendError:
    """Return the failure of a run for the error that the agent answered.

    ``logins`` are the ways to log in that it offers, for an error that asks for it.
    """
    data = mapping(error.data)
    message = " ".join(error.message.split())[:TEXT_CHARS] or "the agent failed"
    if error.code == AUTH_REQUIRED and not data:
        message = f"the agent wants to be logged in first: {message}; {login_hint(logins)}"
    detail: dict[str, Any] = {
        key: value[:TEXT_CHARS] for key in _DETAIL_KEYS if (value := text_of(data.get(key)))
    }
    if isinstance(data.get("httpStatus"), int):
        detail["httpStatus"] = data["httpStatus"]
    if preview := text_of(data.get("message")):
        detail["providerErrorMessagePreview"] = preview[:TEXT_CHARS]
    try:
        kind = BackendErrorKind(data.get("kind", "unknown"))
    except ValueError:
        kind = BackendErrorKind.UNKNOWN
    return BackendError(message, kind=kind, detail=detail or None)


def _not_shown(attachment: Attachment) -> str:
    name = attachment.file_name or attachment.kind
    return f"[{name}: {attachment.mime_type}, {len(attachment.data)} bytes, not shown to you]"


def _plain_text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = [
        block["text"]
        for block in (content if isinstance(content, list) else [])
        if isinstance(block, dict)
        and block.get("type") == "text"
        and isinstance(block.get("text"), str)
    ]
    return "\n".join(parts)


def read_usage(
    shape: Any, context_tokens: int | None = None, provider: str = "", model: str = ""
) -> Usage | None:
    """Return the usage of an answer: the gateway's own form, or ACP's; None if it has none of them."""
    usage = mapping(shape)
    given, taken = count_of(usage.get("inputTokens")), count_of(usage.get("outputTokens"))
    context = count_of(usage.get("contextTokens"))
    context = context_tokens if context is None else context
    by_model = tuple(
        each for entry in items(usage.get("byModel"))[:100] if (each := _of_model(mapping(entry)))
    )
    if given is None or taken is None:
        return None if context is None else Usage(context_tokens=context)
    read = count_of(usage.get("cachedReadTokens"))
    written = count_of(usage.get("cachedWriteTokens"))
    if not by_model and model:
        by_model = (
            ModelUsage(
                provider=provider,
                model=model,
                input_tokens=given,
                output_tokens=taken,
                cache_read_tokens=read or 0,
                cache_write_tokens=written or 0,
            ),
        )
    return Usage(input_tokens=given, output_tokens=taken, context_tokens=context, by_model=by_model)


def _of_model(entry: dict[str, Any]) -> ModelUsage | None:
    provider, model = text_of(entry.get("provider")), text_of(entry.get("model"))
    if provider is None or model is None:
        return None
    cost: Any = entry.get("costUsd")
    priced = isinstance(cost, int | float) and not isinstance(cost, bool) and cost >= 0
    return ModelUsage(
        provider=provider[:TEXT_CHARS],
        model=model[:TEXT_CHARS],
        input_tokens=count_of(entry.get("inputTokens")) or 0,
        output_tokens=count_of(entry.get("outputTokens")) or 0,
        cache_read_tokens=count_of(entry.get("cacheReadTokens")) or 0,
        cache_write_tokens=count_of(entry.get("cacheWriteTokens")) or 0,
        cost_usd=float(cost) if priced else None,
    )
