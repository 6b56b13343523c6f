"""gateway.settings: TOML tables as structs, their secrets, their documentation."""

from __future__ import annotations

import datetime
import re
import tomllib
from typing import Annotated, Any, Literal, NamedTuple

import pytest
from msgspec import Meta, Struct, field

from gateway.errors import ConfigError
from gateway.settings import (
    REDACTED,
    FieldDoc,
    convert,
    describe,
    find_secrets,
    redact,
    render,
    toml_value,
    type_text,
)


class Point(NamedTuple):
    x: dict[str, int]


class Inner(Struct, forbid_unknown_fields=True):
    """An inner table."""

    depth: Annotated[int, Meta(ge=1)] | None = None
    """How deep."""
    by_name: dict[str, Inner] | None = None


class Base(Struct):
    size: Annotated[float, Meta(gt=0, le=5)] = 1.5
    """The size,
    in metres."""


class Table(Base, kw_only=True):
    """A table.

    With more to say.
    """

    needed: str
    """Has no default."""
    inner: Inner = field(default_factory=Inner)
    points: list[Point] = []
    """Where."""
    inners: list[Inner] | None = None
    plain = "not a field"
    """Not a field either."""


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"inner": {"depth": "x"}}, "inner.depth: expected int | null, got str"),
        ({"inner": {"by_name": {"a": {}, "b c": {"dept": 1}}}}, "inner.by_name.b c.dept: unknown"),
        ({"inners": [{}, {"by_name": {"a": {"z": 1}}}]}, "inners[1].by_name.a.z: unknown key (kno"),
        ({"points": [[{"a": "x"}]]}, "points[0][0][...]: expected int, got str"),
        ({"points": [["x"]]}, "points[0][0]: expected object, got str"),
        ({"size": "big"}, "size: expected float, got str"),
        ([], "expected object, got array"),
    ],
)
def test_path_of_an_error(data: Any, message: str) -> None:
    """An error names the place as far as the types tell, also inside of mappings."""
    data = {"needed": "x"} | data if isinstance(data, dict) else data
    with pytest.raises(ConfigError, match="^" + re.escape(f"file: {message}")):
        convert(data, Table, "file")


def test_path_beyond_known_types() -> None:
    """Where a type can not be followed, the path stays as far as it is known."""

    class Opaque(Struct):
        value: dict[str, Point]

    with pytest.raises(ConfigError, match=re.escape("t: agents.a.value.k[0][...]: expected int")):
        convert({"value": {"k": [{"a": "x"}]}}, Opaque, "t", ("agents", "a"))


def test_find_secrets() -> None:
    """Secrets are found by key, by option and by shape; references and paths are none."""
    parsed = tomllib.loads("""
    api_key = "s1"
    key_file = "no"
    max_tokens = 3
    empty_token = ""
    password = { env = "NO" }
    credentials = { file = "NO" }
    base_url = "https://user:s2@host/"
    plain_url = "https://host:80/@x"
    tokens = ["s3", { a = "s4" }]
    command = ["run", "--api-key", "s5", "--token=s6", "--token-file", "no", "--verbose", "no"]
    secret = { env = "s7", more = "s8" }
    [agents.monkey]
    backend = "no"
    headers = { Authorization = "Bearer s9" }
    """)
    assert dict(find_secrets(parsed)) == {
        "api_key": "s1",
        "base_url": "https://user:s2@host/",
        "tokens[0]": "s3",
        "tokens[1].a": "s4",
        "command[2]": "s5",
        "command[3]": "--token=s6",
        "secret.env": "s7",
        "secret.more": "s8",
        "agents.monkey.headers.Authorization": "Bearer s9",
    }


def redact_text(text: str) -> tuple[str | None, dict[str, Any]]:
    return redact(text, tomllib.loads(text))


def test_redact() -> None:
    """Every occurrence of a secret is replaced, longer ones first, and the rest is kept."""
    text = 'a_token = "abcabc"\nb_token = "abc"\nnote = "see abcabcabc"\nn = [1, 2.5, true]\n'
    raw, parsed = redact_text(text)
    assert raw == (
        f'a_token = "{REDACTED}"\nb_token = "{REDACTED}"\n'
        f'note = "see {REDACTED}{REDACTED}"\nn = [1, 2.5, true]\n'
    )
    assert parsed == {
        "a_token": REDACTED,
        "b_token": REDACTED,
        "note": f"see {REDACTED}{REDACTED}",
        "n": [1, 2.5, True],
    }


@pytest.mark.parametrize(
    "text",
    [
        'token = "\\u0061bc"',  # written in another way than it reads
        'token = "on"\npersonal = 1',  # part of a key
        'x = "# token = 1"',  # what looks like a comment is a string
    ],
)
def test_uncertain_text_is_not_shown(text: str) -> None:
    """Text that can not be redacted with certainty is not shown at all; its tables are."""
    raw, parsed = redact_text(text)
    assert raw is None
    assert set(parsed) == set(tomllib.loads(text))
    assert "abc" not in str(parsed)


def test_secrets_in_comments() -> None:
    """A comment that may hold an old secret is replaced as a whole, other comments stay."""
    raw, _ = redact_text(
        "a = 1 # fine\n# token = 'old'\nb = 2 # url: https://u:p@h\n# the key to success\n"
    )
    assert raw == (f"a = 1 # fine\n# {REDACTED}\nb = 2 # {REDACTED}\n# the key to success\n")


def test_dates_become_text() -> None:
    """Dates of a file are text in what is shown, since JSON has none."""
    raw, parsed = redact_text("d = 2024-01-02\nt = 03:04:05\n")
    assert raw == "d = 2024-01-02\nt = 03:04:05\n"
    assert parsed == {"d": "2024-01-02", "t": "03:04:05"}


def test_describe() -> None:
    """A struct describes its keys with those it inherits and those of the structs in it."""
    assert describe(Table, "t") == [
        FieldDoc("t.size", "number above 0 to 5", "1.5", "The size, in metres."),
        FieldDoc("t.needed", "text", "", "Has no default."),
        FieldDoc("t.inner.depth", "whole number from 1", "", "How deep."),
        FieldDoc("t.inner.by_name", "table", "", ""),
        FieldDoc("t.points", "list of " + str(Point), "[]", "Where."),
        FieldDoc("t.inners", "list of tables", "", ""),
    ]


def test_render() -> None:
    """A rendered table has each key under its meaning, as a comment if it has no default."""
    assert render(Base, "base") == (
        "[base]\n# The size, in metres. (number above 0 to 5)\nsize = 1.5\n"
    )
    assert render(Inner, "in") == (
        "# An inner table.\n[in]\n# How deep. (whole number from 1)\n# depth = …\n"
        "# (table)\n# by_name = …\n"
    )
    rendered = render(Table, "t", live=["points"])
    assert "\npoints = []\n" in rendered
    assert '\n# needed = "…"\n' in rendered
    assert "\n# size = 1.5\n" in rendered
    assert "\n# inners = …\n" in rendered


def test_type_text() -> None:
    """Types are told in words."""
    assert type_text(bool) == "true or false"
    assert type_text(Literal["a", 1]) == '"a" or 1'
    assert type_text(list[int] | str | None) == "list of whole number or text"
    assert type_text(datetime.date) == "<class 'datetime.date'>"
    assert type_text(Annotated[list[str], Meta(min_length=1)]) == "list of text"


def test_toml_value() -> None:
    """A value as TOML reads back as the same value."""
    value = {"a": [1, 2.0, True, 'q"ü\n', (3,)], "b": {}, "c d": {"e": "f"}}
    assert tomllib.loads(f"v = {toml_value(value)}") == {
        "v": {"a": [1, 2.0, True, 'q"ü\n', [3]], "b": {}, "c d": {"e": "f"}}
    }
    assert toml_value(None) == ""


class Leaf(Struct):
    size: int = 1
    """How large."""


class Tree(Struct):
    leaves: Annotated[list[Leaf], Meta(max_length=9)] = []
    """All of them."""
    named: dict[str, Leaf] = {}
    """Those with a name."""


def test_tables_in_lists_and_mappings_are_described() -> None:
    """The keys of a list's and a mapping's tables stand behind its own."""
    assert describe(Tree) == [
        FieldDoc("leaves", "list of tables", "[]", "All of them."),
        FieldDoc("leaves[].size", "whole number", "1", "How large."),
        FieldDoc("named", "table", "{}", "Those with a name."),
        FieldDoc("named.NAME.size", "whole number", "1", "How large."),
    ]
