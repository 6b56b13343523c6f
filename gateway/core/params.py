"""The params of requests: one struct per method serves both protocol versions.

A field that only version 4 has, or that version 3 bounds tighter, says so in its annotation; a
connection of version 3 is then held to its own schema. Optional fields default to ``UNSET``, so that
an explicit ``null`` is refused where the schema has no null.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import UNSET, UnsetType

T = TypeVar("T")

NonEmpty = Annotated[str, msgspec.Meta(min_length=1)]
Natural = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]

SINCE_4 = msgspec.Meta(extra={"since": 4})
"""Annotates a field that version 3 does not have."""


def v3_max_length(length: int) -> msgspec.Meta:
    """Annotate a string field that version 3 bounds tighter."""
    return msgspec.Meta(extra={"v3_max_length": length})


UNTIL_3 = msgspec.Meta(extra={"until": 3})
"""Annotates a field that version 4 does not have any more."""


class Params(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Base of all params: closed, camelCase on the wire."""


class NoParams(Params, frozen=True):
    """A method that takes nothing: no params, or an empty object."""


def given(value: T | UnsetType, default: T) -> T:
    """Return the value, or the default where the field was left out."""
    return default if value is UNSET else value


class VersionRules:
    """What a version asks of a params struct beyond its type, found once from the annotations."""

    def __init__(self, struct: type[msgspec.Struct]) -> None:
        self._rules = tuple(_rules(struct))

    def violation(self, params: Any, protocol: int) -> str | None:
        """Return what is wrong with the params by this version's schema, or None."""
        for attribute, pointer, rule, limit, nested in self._rules:
            value = getattr(params, attribute)
            if value is UNSET or value is None:
                continue
            if nested is not None:
                text = nested.violation(value, protocol)
                if text is not None:
                    return text.replace("at root", f"at {pointer}").replace(
                        "at /", f"at {pointer}/"
                    )
            elif rule == ("since" if protocol < 4 else "until"):
                return f"at root: unexpected property '{pointer[1:]}'"
            elif protocol >= 4 or not isinstance(value, str):
                continue
            elif rule == "values" and value not in limit:
                return f"at {pointer}: must be equal to one of the allowed values"
            elif rule == "v3_max_length" and len(value) > limit:
                return f"at {pointer}: must not have more than {limit} characters"
        return None


_Rule = tuple[str, str, str, Any, VersionRules | None]


def _rules(struct: type[msgspec.Struct]) -> Iterator[_Rule]:
    hints = get_type_hints(struct, include_extras=True)
    for field in msgspec.structs.fields(struct):
        pointer = "/" + field.encode_name
        for meta in _metas(hints[field.name]):
            for rule, limit in (meta.extra or {}).items():
                name = "values" if rule == "v3_values" else rule
                yield field.name, pointer, name, limit, None
        for nested in _structs(hints[field.name]):
            rules = VersionRules(nested)
            if rules._rules:
                yield field.name, pointer, "nested", None, rules


def _metas(hint: Any) -> Iterator[msgspec.Meta]:
    if get_origin(hint) is Annotated:
        yield from (meta for meta in hint.__metadata__ if isinstance(meta, msgspec.Meta))
    for part in get_args(hint):
        yield from _metas(part)


def _structs(hint: Any) -> Iterator[type[msgspec.Struct]]:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        yield hint
    elif get_origin(hint) not in (list, tuple, dict):
        for part in get_args(hint):
            yield from _structs(part)
