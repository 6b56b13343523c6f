"""Values that fit a schema of the method table, or nearly so."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import msgspec
import msgspec.inspect as shapes

from tests.fuzz.arena import ALIKE
from tests.fuzz.source import Source

ODD = 8
"""In how many of 256 places a value is of no fitting kind."""


Known = Mapping[str, list[str]]
"""Names that were told or sent before, by what they were called."""


def fitting(source: Source, kind: shapes.Type, known: Known, name: str = "") -> Any:
    """Return a value for the type of a field of this name."""
    if source.chance(ODD):
        return source.value()
    match kind:
        case shapes.Metadata(type=inner):
            return fitting(source, inner, known, name)
        case shapes.UnionType(types=members):
            real = [m for m in members if not isinstance(m, shapes.NoneType)] or list(members)
            return fitting(source, source.pick(real), known, name)
        case shapes.LiteralType(values=values):
            return source.pick(tuple(values))
        case shapes.StructType():
            return _struct(source, kind, known)
        case shapes.ListType(item_type=item) | shapes.VarTupleType(item_type=item):
            return [fitting(source, item, known, name) for _ in range(source.below(4))]
        case shapes.DictType(value_type=item):
            return {source.text(): fitting(source, item, known) for _ in range(source.below(3))}
        case shapes.StrType():
            like = known.get(ALIKE.get(name, name)) or known["key"]
            return source.pick(like) if source.chance(200) else source.text()
        case shapes.IntType() | shapes.FloatType():
            return source.below(300) if source.chance(128) else source.number()
        case shapes.BoolType():
            return bool(source.byte() & 1)
        case shapes.NoneType():
            return None
    return source.value()


def _struct(source: Source, kind: shapes.StructType, known: Known) -> dict[str, Any]:
    made = {
        field.encode_name: fitting(source, field.type, known, field.encode_name)
        for field in kind.fields
        if (field.required and not source.chance(ODD)) or source.chance(50)
    }
    if source.chance(ODD):
        made[source.text()] = source.value()
    return made


@cache
def _shape_of(params: type) -> shapes.Type:
    """Return what a type looks like; to find it out takes longer than the request that it is for."""
    return shapes.type_info(params)


def params_of(source: Source, params: type | None, known: Known) -> Any:
    """Return params for a method."""
    if params is None or source.chance(ODD):
        return source.value()
    return fitting(source, _shape_of(params), known)


def encoded(value: Any) -> bytes:
    """Return JSON text, also of what has no such form."""
    try:
        return msgspec.json.encode(value)
    except Exception:
        return json.dumps(value).encode()
