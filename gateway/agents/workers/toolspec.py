"""What every tool of the model worker has in common: its kind, its title, its report. No I/O."""

from __future__ import annotations

import json
from typing import Any, NamedTuple, Protocol

from pydantic_ai.messages import BinaryContent, ToolCallPart, ToolReturnPart

OUTPUT_CHARS = 50_000
"""What a tool gives the model at most."""
REPORT_CHARS = 16_384
"""What of it clients are shown."""

KINDS = {
    "read": "read",
    "list": "read",
    "search": "search",
    "write": "edit",
    "edit": "edit",
    "shell": "execute",
}
"""ACP's kinds of our own tools; those of MCP servers are ``other``."""


class Permission(NamedTuple):
    """What somebody has to allow before it is done."""

    tool_call_id: str
    title: str
    raw_input: dict[str, Any]


class ToolContext(Protocol):
    """The turn, as a tool sees it."""

    async def permitted(self, what: Permission) -> bool:
        """Ask whether something may be done; what was allowed always is not asked again."""


def cut(text: str, limit: int) -> str:
    """Return a text whose middle is left out where it is longer, and says so."""
    if len(text) <= limit:
        return text
    head, tail = text[: limit - limit // 4], text[len(text) - limit // 4 :]
    left_out = len(text) - len(head) - len(tail)
    return f"{head}\n[… {left_out} of {len(text)} characters are left out here …]\n{tail}"


def call_report(part: ToolCallPart) -> dict[str, Any]:
    """Return the update that says a tool is called."""
    args = part.args_as_dict()
    report: dict[str, Any] = {
        "sessionUpdate": "tool_call",
        "toolCallId": part.tool_call_id,
        "title": title(part.tool_name, args),
        "kind": KINDS.get(part.tool_name, "other"),
        "status": "in_progress",
        "rawInput": _bounded(args),
        "_meta": {"gateway": {"toolName": part.tool_name}},
    }
    if part.tool_name in KINDS and isinstance(path := args.get("path"), str):
        report["locations"] = [{"path": path[:1000]}]
    return report


def result_report(part: ToolReturnPart) -> dict[str, Any]:
    """Return the update that says how a call ended; a change of a file with its difference."""
    content: list[dict[str, Any]] = []
    if isinstance(part.metadata, dict) and isinstance(diff := part.metadata.get("diff"), dict):
        content.append({"type": "diff", **diff})
    text = cut(_text(part), REPORT_CHARS)
    content.append({"type": "content", "content": {"type": "text", "text": text}})
    return {
        "sessionUpdate": "tool_call_update",
        "toolCallId": part.tool_call_id,
        "status": "completed" if part.outcome == "success" else "failed",
        "content": content,
        "_meta": {"gateway": {"toolName": part.tool_name}},
    }


def title(name: str, args: dict[str, Any]) -> str:
    """Return a call in one line: the command, or the tool and what it works on."""
    if name == "shell":
        return " ".join(str(args.get("command", "")).split())[:500]
    target = next((args[key] for key in ("path", "text") if isinstance(args.get(key), str)), "")
    return f"{name} {' '.join(target.split())}".strip()[:500]


def _text(part: ToolReturnPart) -> str:
    content = part.content
    if isinstance(content, BinaryContent):
        return f"[{content.media_type}, {len(content.data)} bytes]"
    if isinstance(content, list):
        return "\n".join(
            f"[{each.media_type}, {len(each.data)} bytes]"
            if isinstance(each, BinaryContent)
            else str(each)
            for each in content
        )
    return part.model_response_str(wrap_if_error=False)


def _bounded(args: dict[str, Any]) -> dict[str, Any]:
    """Return arguments whose long texts are cut."""
    if len(json.dumps(args, default=str)) <= REPORT_CHARS:
        return args
    return {
        key: cut(value if isinstance(value, str) else json.dumps(value, default=str), 2000)
        for key, value in args.items()
    }
