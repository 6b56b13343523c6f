"""How a run ended, and how that is told.

What an agent says of its failure is cut to what the protocol lets a client see; its text, its kind and
its detail can be anything, and none of them keeps the end of a run from being told.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from gateway.errors import BackendErrorKind
from gateway.model import RunState, Usage

MAX_DETAIL_CHARS: Final = 300
_DETAIL_TEXTS: Final = (
    "provider",
    "model",
    "providerErrorType",
    "providerErrorMessagePreview",
    "failoverReason",
    "providerRuntimeFailureKind",
)


class RunOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a run ended: what outlives the record."""

    run_id: str
    session_key: str
    session_id: str
    state: RunState
    started_at_ms: int | None
    ended_at_ms: int
    stop_reason: str | None = None
    error: str | None = None
    error_kind: BackendErrorKind | None = None
    error_detail: dict[str, Any] | None = None
    usage: Usage | None = None
    provider: str | None = None
    model: str | None = None
    into: str | None = None
    """The run that answers the message, where the run of the message ended without a turn of its own."""


COLLECTED: Final = "collected"
"""Stop reason of a run whose message is answered by the run before it, together with that one's."""
STEERED: Final = "steered"
"""Stop reason of a run whose message was given to the run that went on."""


def error_facts(outcome: RunOutcome) -> dict[str, Any]:
    """Return what is told of an agent's error without its text: ``{errorKind, httpStatus?}``, or nothing."""
    if outcome.error_kind is None:
        return {}
    status = (outcome.error_detail or {}).get("httpStatus")
    return {"errorKind": outcome.error_kind.value} | ({"httpStatus": status} if status else {})


def lifecycle_end(outcome: RunOutcome) -> dict[str, Any]:
    """Return the data of the terminal lifecycle event (its phases are the protocol's)."""
    data: dict[str, Any] = {"phase": "end", "endedAt": outcome.ended_at_ms}
    if outcome.started_at_ms is not None:
        data["startedAt"] = outcome.started_at_ms
    if outcome.state is RunState.FAILED:
        data |= {"phase": "error", "error": outcome.error or "failed"}
    elif outcome.state is RunState.ABORTED:
        data |= {"status": "cancelled", "aborted": True}
    else:
        data["aborted"] = False
    if outcome.stop_reason is not None:
        data["stopReason"] = outcome.stop_reason
    if outcome.into is not None:
        data[f"{outcome.stop_reason}Into"] = outcome.into
    return data


def valid_text(text: str) -> str:
    """Return the text without lone surrogates, which have no UTF-8 form."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def clean_detail(detail: Any) -> dict[str, Any] | None:
    """Return what a client may see of an error's detail: known keys, short texts, an HTTP status.

    (Protocol 4: ``errorDetail`` of a chat error is closed, its texts have at most 300 characters, which
    JavaScript counts as UTF-16 units.)
    """
    if not isinstance(detail, Mapping):
        return None
    kept: dict[str, Any] = {}
    for name in _DETAIL_TEXTS:
        text = detail.get(name)
        if isinstance(text, str):
            units = valid_text(text).encode("utf-16-le")[: 2 * MAX_DETAIL_CHARS]
            kept[name] = units.decode("utf-16-le", "ignore")
    status = detail.get("httpStatus")
    if isinstance(status, int) and not isinstance(status, bool) and 100 <= status <= 599:
        kept["httpStatus"] = int(status)
    return kept or None


def clean_kind(kind: str) -> BackendErrorKind:
    """Return the kind of an error; what is none becomes unknown."""
    try:
        return BackendErrorKind(kind)
    except ValueError:
        return BackendErrorKind.UNKNOWN
