"""The content of a turn in the terms of ACP: prompts, history, results and errors. No I/O."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from gateway.agents.jsonrpc import AUTH_REQUIRED, RpcError
from gateway.errors import BackendError, BackendErrorKind
from gateway.model import Attachment, Message, RunRequest, RunResult, Usage

HISTORY_MESSAGES = 50
"""Messages of the transcript that an agent gets which starts afresh."""
HISTORY_CHARS = 100_000
TEXT_CHARS = 300
"""What is kept of a text in an error's details."""

_STOP_REASONS = {
    "end_turn": "stop",
    "max_tokens": "length",
    "max_turn_requests": "max_turn_requests",
}
_DETAIL_KEYS = ("provider", "model", "providerErrorType")


def prompt_blocks(request: RunRequest, *, images: bool) -> list[dict[str, Any]]:
    """Return a request as content blocks.

    An attachment that the agent can not take is named in a text block, so that nobody thinks it saw it.
    """
    blocks: list[dict[str, Any]] = [{"type": "text", "text": request.text}]
    if not request.text and request.attachments:
        blocks = []
    for attachment in request.attachments:
        if images and attachment.mime_type.startswith("image/"):
            data = base64.b64encode(attachment.data).decode("ascii")
            blocks.append({"type": "image", "mimeType": attachment.mime_type, "data": data})
        else:
            blocks.append({"type": "text", "text": _not_shown(attachment)})
    return blocks


def prompt_meta(request: RunRequest) -> dict[str, Any]:
    """Return what an agent of ours is told beside the prompt."""
    meta: dict[str, Any] = {"runId": request.run_id, "sessionKey": request.session_key}
    if request.thinking is not None:
        meta["thinking"] = request.thinking
    if request.extra_system_prompt is not None:
        meta["extraSystemPrompt"] = request.extra_system_prompt
    return {"gateway": meta}


def history_items(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Return the newest texts of a transcript as ``{role, text}``, oldest first."""
    items: list[dict[str, str]] = []
    chars = 0
    for message in reversed(messages):
        text = _plain_text(message.content)[-HISTORY_CHARS:]
        chars += len(text)
        if chars > HISTORY_CHARS:
            break
        if text and message.role in ("user", "assistant"):
            items.append({"role": message.role, "text": text})
    items.reverse()
    return items


def run_result(answer: Any) -> RunResult:
    """Return the result of a ``session/prompt`` answer.

    Raises BackendError if the agent refused, or says that it was cancelled though nobody asked.
    """
    shape = answer if isinstance(answer, dict) else {}
    reason = shape.get("stopReason")
    if reason == "refusal":
        raise BackendError("the agent refused to go on", kind=BackendErrorKind.REFUSAL)
    if reason == "cancelled":
        raise BackendError("the agent cancelled the turn by itself")
    meta = _dict(_dict(shape.get("_meta")).get("gateway"))
    return RunResult(
        stop_reason=_STOP_REASONS.get(reason, "stop") if isinstance(reason, str) else "stop",
        usage=_usage(meta.get("usage")) or _usage(shape.get("usage")),
        provider=_string(meta.get("provider")),
        model=_string(meta.get("model")),
    )


def prompt_error(error: RpcError) -> BackendError:
    """Return the failure of a run for the error that the agent answered."""
    data = _dict(error.data)
    message = " ".join(error.message.split())[:TEXT_CHARS] or "the agent failed"
    if error.code == AUTH_REQUIRED and not data:
        message = f"the agent wants to be logged in first: {message}"
    detail: dict[str, Any] = {
        key: value[:TEXT_CHARS] for key in _DETAIL_KEYS if (value := _string(data.get(key)))
    }
    if isinstance(data.get("httpStatus"), int):
        detail["httpStatus"] = data["httpStatus"]
    if preview := _string(data.get("message")):
        detail["providerErrorMessagePreview"] = preview[:TEXT_CHARS]
    try:
        kind = BackendErrorKind(data.get("kind", "unknown"))
    except ValueError:
        kind = BackendErrorKind.UNKNOWN
    return BackendError(message, kind=kind, detail=detail or None)


def refusal(options: Any) -> dict[str, Any]:
    """Return the answer to a ``session/request_permission`` that says no."""
    for option in options if isinstance(options, list) else []:
        if isinstance(option, dict) and option.get("kind") == "reject_once":
            return {"outcome": {"outcome": "selected", "optionId": option.get("optionId")}}
    return CANCELLED_PERMISSION


CANCELLED_PERMISSION: dict[str, Any] = {"outcome": {"outcome": "cancelled"}}


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


def _usage(shape: Any) -> Usage | None:
    counts = [_dict(shape).get(key) for key in ("inputTokens", "outputTokens")]
    if all(isinstance(count, int) and count >= 0 for count in counts):
        return Usage(input_tokens=counts[0] or 0, output_tokens=counts[1] or 0)
    return None


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _string(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
