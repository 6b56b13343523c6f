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
    """What a version asks of a params struct beyond its type, found once from the annotations.

    Structs within structs are followed, lists and maps of them are not.
    """

    def __init__(self, struct: type[msgspec.Struct]) -> None:
        self._rules = tuple(_rules(struct))

    def __bool__(self) -> bool:
        return bool(self._rules)

    def violation(self, params: Any, protocol: int) -> str | None:
        """Return what is wrong with the params by this version's schema, or None."""
        found = self._first(params, protocol)
        return None if found is None else f"at {found[0] or 'root'}: {found[1]}"

    def _first(self, params: Any, protocol: int) -> tuple[str, str] | None:
        """Return the place of the first violation as a JSON pointer, and its text."""
        for attribute, name, rule, limit in self._rules:
            value = getattr(params, attribute)
            if value is UNSET:
                continue
            if isinstance(limit, VersionRules):
                found = None if value is None else limit._first(value, protocol)
                if found is not None:
                    return f"/{name}{found[0]}", found[1]
            elif rule == ("since" if protocol < 4 else "until"):
                return "", f"unexpected property '{name}'"
            elif protocol < 4 and isinstance(value, str):
                if rule == "v3_values" and value not in limit:
                    return f"/{name}", "must be equal to one of the allowed values"
                if rule == "v3_max_length" and len(value) > limit:
                    return f"/{name}", f"must not have more than {limit} characters"
        return None


_Rule = tuple[str, str, str, Any]


def _rules(struct: type[msgspec.Struct]) -> Iterator[_Rule]:
    """Yield (attribute, name on the wire, rule, its value); for a nested struct its rules."""
    hints = get_type_hints(struct, include_extras=True)
    for field in msgspec.structs.fields(struct):
        for meta in _metas(hints[field.name]):
            for rule, limit in (meta.extra or {}).items():
                yield field.name, field.encode_name, rule, limit
        for nested in _structs(hints[field.name]):
            if rules := VersionRules(nested):
                yield field.name, field.encode_name, "nested", rules


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
