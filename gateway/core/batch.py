"""What an agent is asked at last: its own message, those collected with it, the settings of the session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from msgspec.structs import asdict, replace

from gateway.core.provenance import shown
from gateway.model import REQUEST_MAX_BYTES, RunRequest, Session

SEPARATOR: Final = "\n\n---\n\n"
"""Stands between the texts of messages that are answered together."""

MAX_FILES: Final = 32

_OWN: Final = frozenset({"run_id", "session_id", "text", "attachments", "collected"})


def alike(first: RunRequest, other: RunRequest) -> bool:
    """Whether two messages may be answered together: they differ in nothing but what they say.

    Answers that belong to different addresses, or questions for different models, are never put together.
    """
    return _conditions(first) == _conditions(other)


def fits(requests: Sequence[RunRequest]) -> bool:
    """Whether requests together are no more than one may be."""
    files = [file for request in requests for file in request.attachments]
    size = sum(len(request.text.encode("utf-8", "replace")) for request in requests)
    return len(files) <= MAX_FILES and size + sum(len(f.data) for f in files) <= REQUEST_MAX_BYTES


def collected(first: RunRequest, others: Sequence[RunRequest]) -> RunRequest:
    """Return the first request with what the others ask, in order, so far as it has not got that already."""
    added = [request for request in others if request.run_id not in first.collected]
    if not added:
        return first
    requests = (first, *added)
    return replace(
        first,
        text=SEPARATOR.join(request.text for request in requests if request.text),
        attachments=tuple(file for request in requests for file in request.attachments),
        collected=(*first.collected, *(request.run_id for request in added)),
    )


def prefaced(request: RunRequest, preface: str | None) -> RunRequest:
    """Return a request with what its agent is told before the text; the transcript is not touched."""
    if preface is None:
        return request
    parts = [preface] if request.receipt is None else [preface, request.receipt]
    return replace(request, receipt="\n\n".join(parts))


def launched(
    request: RunRequest, session: Session | None, provider: str, **own: str | None
) -> RunRequest:
    """Return a request as its backend gets it, by the settings that the session has now.

    What the request asks for itself goes before the session's settings.

    :param provider: that of the agent's own model, for a model that is named without one.
    :param own: further fields.
    """
    settings: dict[str, Any] = {} if session is None else session.settings
    model: str | None = settings.get("model")
    if model is not None and "/" not in model:
        model = f"{provider}/{model}"
    return replace(
        request,
        text=shown(request),
        model=request.model or model,
        thinking=request.thinking or settings.get("thinkingLevel"),
        **own,
    )


def _conditions(request: RunRequest) -> dict[str, Any]:
    return {name: value for name, value in asdict(request).items() if name not in _OWN}
