"""The tree of errors, and what a client sees of each."""

from __future__ import annotations

import json

import pytest

from gateway import errors
from gateway.errors import (
    CloseCause,
    CloseCode,
    ErrorCode,
    GatewayError,
    InvalidParams,
    InvalidRequest,
    MissingScope,
    NotPaired,
    StartError,
    StoreError,
    Unavailable,
    UnknownMethod,
    WrongRole,
)
from tests.core.schemas import VERSIONS, load, violations


@pytest.mark.parametrize("protocol", VERSIONS)
@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InvalidRequest("no"), "INVALID_REQUEST", "no"),
        (
            InvalidParams("health", "at /a: no"),
            "INVALID_REQUEST",
            "invalid health params: at /a: no",
        ),
        (UnknownMethod("x"), "INVALID_REQUEST", "unknown method: x"),
        (WrongRole("node"), "INVALID_REQUEST", "unauthorized role: node"),
        (NotPaired("pairing required"), "NOT_PAIRED", "pairing required"),
        (Unavailable("later"), "UNAVAILABLE", "later"),
        (GatewayError("it failed"), "UNAVAILABLE", "it failed"),
        (InvalidRequest(""), "INVALID_REQUEST", "INVALID_REQUEST"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_is_answered_with_its_code(
    error: GatewayError, code: str, message: str, protocol: int
) -> None:
    """Every error has a code and a sentence, and nothing that is not set."""
    shape = error.shape(protocol)
    assert shape == {"code": code, "message": message}
    assert violations("ErrorShape", protocol, shape) == []
    assert error.payload is None


@pytest.mark.parametrize("protocol", VERSIONS)
def test_what_is_set_is_sent(protocol: int) -> None:
    """Details and the advice to try again go with the error, also when they are false or zero."""
    error = Unavailable("busy", details={"limit": 3}, retryable=False, retry_after_ms=0)
    shape = error.shape(protocol)
    assert shape == {
        "code": "UNAVAILABLE",
        "message": "busy",
        "details": {"limit": 3},
        "retryable": False,
        "retryAfterMs": 0,
    }
    assert violations("ErrorShape", protocol, json.loads(json.dumps(shape))) == []
    assert InvalidRequest("x", details={}).shape(protocol)["details"] == {}


def test_a_missing_scope_looks_different_in_each_version() -> None:
    """Version 4 has a code for it and says which scope; version 3 has neither."""
    error = MissingScope("operator.read", ("operator.read", "operator.admin"))
    assert error.shape(3) == {
        "code": "INVALID_REQUEST",
        "message": "missing scope: operator.read",
    }
    assert error.shape(4)["code"] == ErrorCode.FORBIDDEN
    assert error.shape(4)["details"] == {
        "code": "MISSING_SCOPE",
        "missingScope": "operator.read",
        "requiredScopes": ["operator.read", "operator.admin"],
    }


def test_refusals_have_the_recorded_texts() -> None:
    """An unknown method and a missing scope are told in the words of the recorded gateways."""
    for protocol in VERSIONS:
        (unknown,) = [
            case["response"]["error"]
            for case in load("rpc.json")[f"v{protocol}"]
            if case["method"] == "nope.method"
        ]
        assert UnknownMethod("nope.method").shape(protocol) == unknown


def test_every_error_of_the_tree_is_told_in_the_docstring() -> None:
    """The picture at the head of the module leaves out no error."""
    named = [
        name
        for name, thing in vars(errors).items()
        if isinstance(thing, type) and issubclass(thing, Exception)
    ]
    assert len(named) > 10
    assert all(name in (errors.__doc__ or "") for name in named)
    assert issubclass(errors.ConfigError, StartError)
    assert issubclass(errors.VersionConflict, StoreError)
    assert not issubclass(StoreError, GatewayError)


def test_causes_and_codes_are_stable_names() -> None:
    """Causes are words with hyphens, each once; codes are those that a server may send."""
    assert all(cause.value == cause.value.lower().replace("_", "-") for cause in CloseCause)
    assert len({cause.value for cause in CloseCause}) == len(CloseCause)
    for code in CloseCode:
        assert 1000 <= code <= 1015 or 4000 <= code <= 4999
        assert code not in (1004, 1005, 1006, 1015)
