"""What is told of a run that failed."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.outcome import MAX_DETAIL_CHARS
from gateway.core.run import RunOutcome, clean_detail
from gateway.errors import BackendError, BackendErrorKind
from gateway.model import RunState
from tests.core.records import started_run


def failed(**how: Any) -> RunOutcome:
    """Return the outcome of a run that fails."""
    outcome = started_run().finish(RunState.FAILED, 2_000, **how)[-1].outcome
    assert outcome is not None
    return outcome


@given(
    st.none() | st.text() | st.integers() | st.binary(), st.from_type(object), st.none() | st.text()
)
def test_a_failure_can_always_be_told(error: Any, detail: Any, kind: Any) -> None:
    """Whatever an agent says of its failure, the run ends and its record is whole."""
    outcome = failed(error=error, error_kind=kind, error_detail=detail)

    assert outcome.error == (None if error is None else str(error))
    assert outcome.error_kind in (None, *BackendErrorKind)
    assert msgspec.json.encode(outcome)


def test_a_surrogate_in_an_error_is_replaced() -> None:
    """An error's text reaches the client though a part of it has no UTF-8 form."""
    outcome = failed(error="bad \ud800 text", error_kind="odd")
    assert (outcome.error, outcome.error_kind) == ("bad \ufffd text", BackendErrorKind.UNKNOWN)
    known = failed(error="e", error_kind="rate_limit")
    assert known.error_kind is BackendErrorKind.RATE_LIMIT


def test_what_a_client_may_see_of_an_error() -> None:
    """Known keys stay, texts are cut, everything else is left out."""
    detail = {
        "provider": "openai",
        "providerErrorMessagePreview": "x" * 500,
        "failoverReason": "\ud800",
        "model": 5,
        "httpStatus": 429,
        "apiKey": "secret",
    }
    kept = clean_detail(detail)

    assert kept == {
        "provider": "openai",
        "providerErrorMessagePreview": "x" * 300,
        "failoverReason": "\ufffd",
        "httpStatus": 429,
    }
    assert failed(error_detail=detail).error_detail == kept


@pytest.mark.parametrize(
    "detail",
    [None, "text", {}, {"apiKey": "x"}, {"httpStatus": 99}, {"httpStatus": 600}, {5: 6}]
    + [{"httpStatus": value} for value in (True, "429", 429.0, None, 10**400)],
)
def test_a_detail_without_anything_known_is_none(detail: Any) -> None:
    """Where nothing fits there is no detail."""
    assert clean_detail(detail) is None


def test_the_bounds_of_a_status_are_in_it() -> None:
    """100 and 599 are statuses."""
    assert clean_detail({"httpStatus": 100}) == {"httpStatus": 100}
    assert clean_detail({"httpStatus": 599}) == {"httpStatus": 599}


@given(st.text(min_size=1))
def test_a_cut_text_is_whole_characters(text: str) -> None:
    """Texts are cut by UTF-16 units, never in the middle of a character."""
    long = text * MAX_DETAIL_CHARS
    kept = clean_detail({"model": long})
    assert kept is not None
    units = len(kept["model"].encode("utf-16-le")) // 2
    assert long.startswith(kept["model"])
    assert MAX_DETAIL_CHARS - 1 <= units <= MAX_DETAIL_CHARS


def test_a_backend_error_keeps_a_detail_that_is_one() -> None:
    """An error of an agent carries its text, kind and detail; a detail that is no map is dropped."""
    error = BackendError("no", kind=BackendErrorKind.TIMEOUT, detail={"model": "m"})
    assert (str(error), error.message, error.kind, error.detail) == (
        "no",
        "no",
        BackendErrorKind.TIMEOUT,
        {"model": "m"},
    )
    assert BackendError("no", detail=[1]).detail is None  # type: ignore[arg-type]
