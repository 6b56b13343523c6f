"""Messages of a model as pieces with sizes, and as text to make a summary of."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import ModelRequestParameters

from gateway.agents.workers.conversation import SUMMARY_HEAD
from gateway.core.compaction import Estimator, Piece

IMAGE_UNITS = 6_000
"""What an image or another file is taken for, in bytes of text."""
PART_UNITS = 16
"""What the frame around a message is taken for."""
CUT_NOTE = "\n[… the rest of this result was cut to save room …]"
RESULT_CHARS = 2_000
"""What the text for a summary has of one tool result."""


def units(value: Any) -> int:
    """Return the size of a part's content in bytes of UTF-8; files have a fixed one."""
    if value is None:
        return 0
    if isinstance(value, str):
        return len(value.encode("utf-8", "replace"))
    if isinstance(value, (dict, int, float, bool)):
        return len(json.dumps(value, default=str, ensure_ascii=False).encode("utf-8", "replace"))
    if isinstance(value, (list, tuple)):
        return sum(units(item) for item in value)
    return IMAGE_UNITS


def message_units(message: ModelMessage) -> int:
    """Return the size of a message."""
    return PART_UNITS + sum(_part_units(part) for part in message.parts)


def overhead_units(messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> int:
    """Return the size of what is sent along with every request: instructions and tools."""
    size = sum(
        units(tool.name) + units(tool.description) + units(tool.parameters_json_schema)
        for tool in parameters.function_tools
    )
    given = parameters.instruction_parts
    if given:
        return size + sum(units(part.content) for part in given)
    last = next((each for each in reversed(messages) if isinstance(each, ModelRequest)), None)
    return size + units(last.instructions if last is not None else None)


def piece(message: ModelMessage, estimator: Estimator) -> Piece:
    """Return a message as a plan sees it."""
    size = message_units(message)
    if isinstance(message, ModelResponse):
        calls = (part.tool_call_id for part in message.parts if isinstance(part, ToolCallPart))
        return Piece(estimator.tokens(size), calls=frozenset(calls))
    returns = [part for part in message.parts if isinstance(part, ToolReturnPart)]
    results = sum(units(part.content) for part in returns)
    total = estimator.tokens(size)
    return Piece(
        total,
        user=_is_users(message),
        returns=frozenset(
            id_ for part in message.parts if (id_ := getattr(part, "tool_call_id", None))
        ),
        results=min(total, estimator.tokens(results)) if returns else 0,
    )


def cut_results(message: ModelMessage, most: int) -> ModelMessage:
    """Return a message whose tool results have at most so many bytes of text each."""
    if not isinstance(message, ModelRequest):
        return message
    parts: list[Any] = []
    for part in message.parts:
        if isinstance(part, ToolReturnPart) and units(part.content) > most:
            text = part.model_response_str()
            short: Any = cut_bytes(text, most - units(CUT_NOTE)) + CUT_NOTE
            parts.append(replace(part, content=short))
        else:
            parts.append(part)
    return replace(message, parts=parts)


def cut_bytes(text: str, most: int) -> str:
    """Return the beginning of a text, of at most so many bytes of UTF-8."""
    return text.encode("utf-8", "replace")[: max(0, most)].decode("utf-8", "ignore")


def as_text(messages: Iterable[ModelMessage], most: int) -> list[str]:
    """Return messages as paragraphs for a summary, each of at most ``most`` characters."""
    paragraphs = []
    for message in messages:
        for part in message.parts:
            text = _part_text(part)
            if text:
                paragraphs.append(middle_out(text, most))
    return paragraphs


def chunks(paragraphs: Iterable[str], size: int) -> list[str]:
    """Return paragraphs put together into texts of about ``size`` characters."""
    found: list[list[str]] = []
    length = 0
    for paragraph in paragraphs:
        if not found or length + len(paragraph) > size:
            found.append([])
            length = 0
        found[-1].append(paragraph)
        length += len(paragraph) + 2
    return ["\n\n".join(each) for each in found]


def middle_out(text: str, most: int) -> str:
    """Return a text with its middle left out if it has more than ``most`` characters."""
    if len(text) <= most:
        return text
    half = max(1, (most - 5) // 2)
    return f"{text[:half]} […] {text[-half:]}"


def _is_users(message: ModelRequest) -> bool:
    return any(
        isinstance(part, UserPromptPart)
        and not (isinstance(part.content, str) and part.content.startswith(SUMMARY_HEAD))
        for part in message.parts
    )


def _part_units(part: Any) -> int:
    if isinstance(part, ToolCallPart):
        return PART_UNITS + units(part.tool_name) + units(part.args)
    return units(getattr(part, "content", None))


def _part_text(part: Any) -> str:
    match part:
        case UserPromptPart(content=str(text)):
            return text if text.startswith(SUMMARY_HEAD) else f"User: {text}"
        case UserPromptPart(content=items):
            said = " ".join(item if isinstance(item, str) else "[file]" for item in items)
            return f"User: {said}"
        case TextPart(content=text):
            return f"Assistant: {text}" if text else ""
        case ToolCallPart(tool_name=name):
            return f"Assistant called {name}({middle_out(part.args_as_json_str(), 500)})"
        case ToolReturnPart(tool_name=name):
            return f"Result of {name}: {middle_out(part.model_response_str(), RESULT_CHARS)}"
        case _:
            return ""
