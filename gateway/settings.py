"""TOML tables as msgspec structs: decode them, find their secrets, describe and render them.

Nothing here knows a key of the gateway; :mod:`gateway.config` does.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, time
from itertools import pairwise
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, cast, get_args, get_origin

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import fields

from gateway.errors import ConfigError

T = TypeVar("T")

REDACTED = "__OPENCLAW_REDACTED__"
"""What the protocol shows instead of a secret."""

_SECRET_KEY = re.compile(
    r"(?i)(?:key|token|secret|pass|credential|authorization)(?![\w-]*(?:file|path|env)$)"
)
_SECRET_TEXT = re.compile(
    r"(?i)://[^/@\s]*:[^/@\s]+@|^--?[\w-]*(?:key|token|secret|pass|credential)[\w-]*="
)
_SECRET_COMMENT = re.compile(rf"(?i)#(?=.*(?:{_SECRET_KEY.pattern[4:]}.*[=:]|://\S*:\S+@)).*")


class FieldDoc(NamedTuple):
    """One key: dotted name, type in words, default as TOML (empty for none), meaning."""

    key: str
    type_text: str
    default: str
    doc: str


def one_line(*parts: str) -> str:
    """Join what is not empty by ``: ``, with control characters escaped."""
    text = ": ".join(part for part in parts if part)
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def convert(data: Any, into: type[T], where: str, prefix: tuple[str, ...] = ()) -> T:
    """Decode parsed TOML. Raises ConfigError ``WHERE: dotted.key: what is wrong``."""
    try:
        return msgspec.convert(data, into)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$")
        keys, found = _locate(data, into, path.rstrip("`"))
        unknown = re.fullmatch("Object contains unknown field `(.*)`", text, re.DOTALL)
        if unknown is not None:
            keys.append(unknown[1])
            text = "unknown key" + _nearest(unknown[1], _fields(found))
        elif text.startswith("Invalid enum value"):
            text = "expected one of " + ", ".join(map(str, get_args(found)))
        else:
            text = text[:1].lower() + text[1:].replace("`", "")
        key = ".".join((*prefix, *keys)).replace(".[", "[")
        raise ConfigError(one_line(where, key, text)) from error


def find_secrets(value: Any, *, _key: str = "", _secret: bool = False) -> Iterator[tuple[str, str]]:
    """Yield ``(dotted key, text)`` of every string in a parsed file that must not be shown.

    Those are strings under a key that looks like a secret's, the argument after an option that does,
    and URLs with a password. What names an environment variable or a file is none.
    """
    if isinstance(value, Mapping):
        if not (_secret and _is_reference(value)):
            for name, item in value.items():
                secret = _secret or (_key != "agents" and _SECRET_KEY.search(name) is not None)
                yield from find_secrets(item, _key=f"{_key}.{name}".lstrip("."), _secret=secret)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            before = str(value[index - 1]) if index else ""
            option = re.fullmatch("-[^=]*", before) and _SECRET_KEY.search(before)
            yield from find_secrets(item, _key=f"{_key}[{index}]", _secret=_secret or bool(option))
    elif isinstance(value, str) and value and (_secret or _SECRET_TEXT.search(value)):
        yield _key, value


def redact(raw_text: str, parsed: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """Return a file's text and tables with every secret replaced, ready for JSON.

    The text is None where it can not be redacted with certainty: the result is parsed again, and
    must be what the redacted tables are.
    """
    secrets = sorted({text for _, text in find_secrets(parsed)}, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, secrets))) if secrets else None
    shown: dict[str, Any] = _replace(parsed, pattern)
    text = _SECRET_COMMENT.sub("# " + REDACTED, raw_text)
    text = pattern.sub(REDACTED, text) if pattern else text
    try:
        same = _replace(tomllib.loads(text), None) == shown
    except tomllib.TOMLDecodeError:
        same = False
    return text if same else None, shown


def describe(table: type[Struct], prefix: str = "") -> list[FieldDoc]:
    """Return every key of a struct and of the structs in it, in order, under ``prefix``."""
    docs = _docstrings(table)
    found = []
    for field in fields(table):
        key = f"{prefix}.{field.encode_name}".lstrip(".")
        if isinstance(field.type, type) and issubclass(field.type, Struct):
            found += describe(field.type, key)
        else:
            default = toml_value(default_of(field))
            found.append(FieldDoc(key, type_text(field.type), default, docs[field.name]))
            for suffix, inner in _tables_in(field.type):
                found += describe(inner, key + suffix)
    return found


def render(table: type[Struct], name: str, live: Iterable[str] | None = None) -> str:
    """Return a table as TOML with its documentation as comments.

    A key without a default is a comment itself, and so is every key that is not in ``live``.
    """
    lines = [*_comment((table.__doc__ or "").partition("\n")[0]), f"[{name}]"]
    for doc in describe(table):
        shown = f"{doc.key} = {doc.default or _example(doc.type_text)}"
        on = doc.default and (live is None or doc.key in live)
        lines += [*_comment(f"{doc.doc} ({doc.type_text})".lstrip()), shown if on else f"# {shown}"]
    return "\n".join(lines) + "\n"


def default_of(field: Any) -> Any:
    """Return a field's default value, None if it has none."""
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return None if field.default is msgspec.NODEFAULT else field.default


def toml_value(value: Any) -> str:
    """Return a value as TOML, an inline table for a mapping; nothing for None."""
    if value is None:
        return ""
    if isinstance(value, Mapping):
        items = [f"{json.dumps(key)} = {toml_value(item)}" for key, item in value.items()]
        return "{ " + ", ".join(items) + " }" if items else "{}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    return repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def type_text(kind: Any) -> str:
    """Return a type in words, its range included."""
    if get_origin(kind) is Annotated:
        base, *metas = get_args(kind)
        return " ".join([type_text(base), *(text for meta in metas if (text := _range(meta)))])
    if get_origin(kind) is Literal:
        return " or ".join(json.dumps(choice) for choice in get_args(kind))
    members = [member for member in _members(kind) if member is not type(None)]
    if members != [kind]:
        return " or ".join(map(type_text, members))
    if get_origin(kind) is list:
        tables = any(suffix == "[]" for suffix, _ in _tables_in(kind))
        return "list of tables" if tables else f"list of {type_text(get_args(kind)[0])}"
    if get_origin(kind) is dict:
        return "table"
    if isinstance(kind, type) and issubclass(kind, Struct):
        return " or ".join(f'{{ {field.encode_name} = "…" }}' for field in fields(kind))
    names = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    return names.get(kind, str(kind))


def _tables_in(kind: Any) -> Iterator[tuple[str, type[Struct]]]:
    """Yield the struct that a list (``[]``) or a mapping (``.NAME``) is of, if it is of one."""
    base = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    inner = get_args(base)[-1] if get_origin(base) in (list, dict) else None
    if isinstance(inner, type) and issubclass(inner, Struct):
        yield "[]" if get_origin(base) is list else ".NAME", inner


def _range(meta: Meta) -> str:
    bounds = [("from", meta.ge), ("above", meta.gt), ("to", meta.le)]
    return " ".join(f"{word} {bound}" for word, bound in bounds if bound is not None)


def _comment(text: str) -> list[str]:
    from textwrap import wrap

    return wrap(text, 100, initial_indent="# ", subsequent_indent="# ")


def _example(kind: str) -> str:
    reference = re.search(r"\{[^}]*\}", kind)
    return reference[0] if reference else '"…"' if kind == "text" else "…"


def _docstrings(table: type[Struct]) -> dict[str, str]:
    """Return the string literal under each field, of a struct and of those it inherits from."""
    import ast  # documentation only
    import inspect
    from textwrap import dedent

    docs: dict[str, str] = dict.fromkeys(table.__struct_fields__, "")
    for kind in reversed(table.__mro__):
        if not issubclass(kind, Struct) or kind is Struct:
            continue
        body = cast(ast.ClassDef, ast.parse(dedent(inspect.getsource(kind))).body[0]).body
        for pair in pairwise(body):
            match pair:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(
                    value=ast.Constant(value=doc)
                ):
                    docs[name] = " ".join(str(doc).split())
    return docs


def _replace(value: Any, secrets: re.Pattern[str] | None) -> Any:
    """Return JSON-like data with what matches replaced, and dates as text."""
    if isinstance(value, Mapping):
        return {key: _replace(item, secrets) for key, item in value.items()}
    if isinstance(value, list):
        return [_replace(item, secrets) for item in value]
    if isinstance(value, date | time):
        return value.isoformat()
    return secrets.sub(REDACTED, value) if secrets and isinstance(value, str) else value


def _is_reference(table: Mapping[str, Any]) -> bool:
    return len(table) == 1 and set(table) <= {"env", "file"}


def _nearest(name: str, known: Iterable[str]) -> str:
    import difflib  # only a mistake needs it, not every start

    close = difflib.get_close_matches(name, known, n=1)
    return f' (did you mean "{close[0]}"?)' if close else f" (known: {', '.join(known)})"


def _locate(data: Any, into: Any, path: str) -> tuple[list[str], Any]:
    """Return the keys of msgspec's ``path``, and the type that the value there should have.

    msgspec writes ``[...]`` for the key of a mapping: it is found by looking which value is at fault.
    """
    keys: list[str] = []
    for attribute, index in re.findall(r"\.([^.[]+)|\[([^]]*)\]", path):
        if attribute:
            keys.append(attribute)
            data, into = _child(data, attribute), _fields(into).get(attribute, Any)
        elif index == "...":
            into = _arguments(into)[-1]
            items = data.items() if isinstance(data, Mapping) else ()
            step = next((key for key, item in items if not _fits(item, into)), "[...]")
            keys.append(step)
            data = _child(data, step)
        else:
            keys.append(f"[{index}]")
            data, into = _child(data, int(index)), _arguments(into)[0]
    return keys, into


def _child(data: Any, key: str | int) -> Any:
    try:
        return data[key]
    except (KeyError, IndexError, TypeError):
        return None  # of a type that this module does not follow: the path stays as msgspec has it


def _members(into: Any) -> tuple[Any, ...]:
    """Return what a union is one of; of any other type, itself."""
    while get_origin(into) is Annotated:
        into = get_args(into)[0]
    return get_args(into) if get_origin(into) in (Union, UnionType) else (into,)


def _fields(into: Any) -> dict[str, Any]:
    structs = [
        kind for kind in _members(into) if isinstance(kind, type) and issubclass(kind, Struct)
    ]
    return {field.encode_name: field.type for kind in structs for field in fields(kind)}


def _arguments(into: Any) -> tuple[Any, ...]:
    return next(filter(None, map(get_args, _members(into))), (Any,))


def _fits(value: Any, into: Any) -> bool:
    try:
        msgspec.convert(value, into)
    except msgspec.ValidationError:
        return False
    return True
