"""ACP's content and pydantic-ai's, turned into each other. No I/O."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any

from pydantic_ai.messages import (
    BinaryContent,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextPart,
    UserContent,
    UserPromptPart,
)

from gateway.agents.jsonrpc import INVALID_PARAMS, RpcError


def chunk(kind: str, text: str) -> dict[str, Any]:
    """Return an update that carries a piece of text."""
    return {"sessionUpdate": kind, "content": {"type": "text", "text": text}}


def gateway_meta(params: dict[str, Any]) -> dict[str, Any]:
    """Return ``_meta.gateway`` of a request, or nothing of what has not its shape."""
    meta = params.get("_meta")
    ours = meta.get("gateway") if isinstance(meta, dict) else None
    return ours if isinstance(ours, dict) else {}


def text_of(meta: dict[str, Any], key: str) -> str | None:
    """Return a text of ``_meta.gateway``, or None where it is something else."""
    value = meta.get(key)
    return value if isinstance(value, str) and value else None


def user_content(blocks: Any, *, images: bool = True) -> list[UserContent]:
    """Return a prompt's blocks. An image for a model without ``images`` is named instead.

    Raises RpcError for an empty prompt, and for what is neither text nor image.
    """
    content: list[UserContent] = []
    for block in blocks if isinstance(blocks, list) else []:
        match block:
            case {"type": "text", "text": str(text)}:
                content.append(text)
            case {"type": "image", "mimeType": str(mime_type), "data": str(data)}:
                try:
                    image = base64.b64decode(data)
                except binascii.Error as error:
                    raise RpcError(INVALID_PARAMS, "an image is not base64") from error
                if images:
                    content.append(BinaryContent(image, media_type=mime_type))
                else:
                    content.append(f"[image: {mime_type}, {len(image)} bytes, not shown to you]")
            case _:
                raise RpcError(INVALID_PARAMS, "this agent takes text and images")
    if not content:
        raise RpcError(INVALID_PARAMS, "the prompt is empty")
    return content


def past_turns(history: Any) -> tuple[str | None, list[list[ModelMessage]]]:
    """Return a transcript as ``(summary, turns)``, each turn from a user's message to the next one.

    A later summary stands for all that was before it.
    """
    summary: str | None = None
    turns: list[list[ModelMessage]] = []
    for item in history if isinstance(history, list) else []:
        match item:
            case {"role": "summary", "text": str(text)}:
                summary, turns = text, []
            case {"role": "user", "text": str(text)}:
                turns.append([ModelRequest(parts=[UserPromptPart(content=text)])])
            case {"role": "assistant", "text": str(text)} if turns:
                turns[-1].append(ModelResponse(parts=[TextPart(content=text)]))
            case {"role": "assistant", "text": str(text)} if summary is not None:
                turns.append([ModelResponse(parts=[TextPart(content=text)])])
            case _:
                pass
    return summary, turns


class Paragraphs:
    """Keeps apart what a turn says before and after a message that it was given on the way.

    The gateway does so around tool calls; of such a message it is not told.
    """

    def __init__(self) -> None:
        self._text = False
        self._due = False
        self._used = False

    def request(self) -> None:
        """Another request is answered from here on."""
        self._used = False

    def tool(self) -> None:
        """A tool is called: the gateway keeps apart what is around it."""
        self._text = self._due = False

    def steered(self) -> None:
        """A message of the user has come in between."""
        self._due = self._text

    def taken_back(self) -> None:
        """What was said in answer to the last request is void."""
        self._due = self._due or self._used

    def before(self) -> str:
        """Return what goes before the next text."""
        gap = self._due
        self._text, self._due, self._used = True, False, self._used or gap
        return "\n\n" if gap else ""


def size_of(messages: Sequence[ModelMessage]) -> int:
    """Return about how many characters (bytes of an image) messages hold."""
    return sum(_size(part) for message in messages for part in message.parts)


def _size(part: Any) -> int:
    content = getattr(part, "content", None)
    if content is None:
        content = getattr(part, "args", "")
    if isinstance(content, str):
        return len(content)
    items = content if isinstance(content, list) else [content]
    return sum(len(item.data if isinstance(item, BinaryContent) else str(item)) for item in items)
