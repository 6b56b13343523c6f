"""What a protocol version asks of params beyond their type."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import pytest
from msgspec import UNSET, UnsetType

from gateway.core.connectparams import ConnectParams
from gateway.core.params import (
    SINCE_4,
    UNTIL_3,
    Natural,
    NonEmpty,
    NoParams,
    Params,
    Positive,
    VersionRules,
    given,
    v3_max_length,
)

V3_KINDS = msgspec.Meta(extra={"v3_values": ("old",)})


class Deep(Params, frozen=True):
    """The innermost struct."""

    new_name: Annotated[str | UnsetType, SINCE_4] = UNSET


class Inner(Params, frozen=True):
    """A struct within the params."""

    deep: Deep | UnsetType = UNSET
    short: Annotated[str, msgspec.Meta(max_length=9), v3_max_length(3)] | UnsetType = UNSET


class Plain(Params, frozen=True):
    """A struct that is alike in both versions."""

    a: int = 0


class Example(Params, frozen=True):
    """Every kind of rule."""

    always: str = ""
    fresh: Annotated[Any | UnsetType, SINCE_4] = UNSET
    gone: Annotated[str | UnsetType | None, UNTIL_3] = UNSET
    kind: Annotated[NonEmpty, V3_KINDS] = "old"
    label: Annotated[str, v3_max_length(2)] | UnsetType | None = UNSET
    size: Annotated[int | str | UnsetType, v3_max_length(2)] = UNSET
    inner: Inner | UnsetType | None = UNSET
    plain: Plain | UnsetType = UNSET
    many: list[Inner] | UnsetType = UNSET


RULES = VersionRules(Example)


def violation(protocol: int, **values: Any) -> str | None:
    """Return what a version finds wrong with an example."""
    return RULES.violation(msgspec.convert(values, Example), protocol)


@pytest.mark.parametrize(
    ("values", "three", "four"),
    [
        ({}, None, None),
        ({"always": "long enough", "kind": "old", "label": "ab"}, None, None),
        ({"fresh": 1}, "at root: unexpected property 'fresh'", None),
        ({"fresh": None}, "at root: unexpected property 'fresh'", None),
        ({"gone": "x"}, None, "at root: unexpected property 'gone'"),
        ({"gone": None}, None, "at root: unexpected property 'gone'"),
        ({"kind": "new"}, "at /kind: must be equal to one of the allowed values", None),
        ({"label": "abc"}, "at /label: must not have more than 2 characters", None),
        ({"label": None}, None, None),
        ({"size": 12_345}, None, None),
        ({"size": "abc"}, "at /size: must not have more than 2 characters", None),
        ({"inner": None}, None, None),
        ({"inner": {}}, None, None),
        (
            {"inner": {"short": "abcd"}},
            "at /inner/short: must not have more than 3 characters",
            None,
        ),
        (
            {"inner": {"deep": {"newName": "at /x"}}},
            "at /inner/deep: unexpected property 'newName'",
            None,
        ),
        ({"plain": {"a": 1}}, None, None),
        ({"many": [{"short": "abcd"}]}, None, None),
    ],
)
def test_a_version_is_held_to_its_own_schema(
    values: dict[str, Any], three: str | None, four: str | None
) -> None:
    """A field that a version lacks or bounds tighter is refused there, with its place."""
    assert violation(3, **values) == three
    assert violation(4, **values) == four


def test_a_struct_without_differences_has_no_rules() -> None:
    """Params that are alike in both versions are not looked at again."""
    assert not VersionRules(Plain)
    assert RULES
    assert VersionRules(ConnectParams)


def test_params_are_closed_and_camel_case() -> None:
    """An unknown key is refused, and names on the wire are camelCase."""
    decoded = msgspec.json.decode(b'{"newName":"x"}', type=Deep)
    assert decoded.new_name == "x"
    for data in (b'{"new_name":"x"}', b'{"newName":"x","y":1}', b'{"newName":null}'):
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(data, type=Deep)
    assert msgspec.json.decode(b"{}", type=NoParams) == NoParams()


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [(NonEmpty, b'"a"', b'""'), (Natural, b"0", b"-1"), (Positive, b"1", b"0")],
)
def test_the_common_bounds(kind: Any, good: bytes, bad: bytes) -> None:
    """A text that is not empty, a number from 0, a number from 1; no number is a boolean."""
    msgspec.json.decode(good, type=kind)
    for data in (bad, b"true", b"1.5", b"null"):
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(data, type=kind)


def test_given_gives_the_default_for_what_was_left_out() -> None:
    """Only a field that is not there takes the default."""
    assert given(UNSET, 5) == 5
    assert given(0, 5) == 0
