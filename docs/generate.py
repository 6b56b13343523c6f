"""Write the pages of the documentation that follow from the code: ``python docs/generate.py``.

``methods.md`` comes from the method table, ``configuration.md`` from the configuration's structs,
``refusals.md`` from the catalogue of refusals.
A test compares the committed pages with what is generated here.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

import msgspec.inspect as shapes

from gateway import config, settings
from gateway.config import AgentConfig
from gateway.core.catalogue import CATALOGUE
from gateway.core.lookalikes import looks_like
from gateway.interfaces import IAgentBackendFactory
from gateway.plugins import builtin
from gateway.rpc.families import build_table
from gateway.rpc.table import Method
from gateway.settings import FieldDoc

HERE = Path(__file__).parent

PATCH_SCOPE = (
    "`operator.admin`; on protocol 4 `operator.write` for a patch that names none of `sendPolicy`, "
    "`elevatedLevel`, `execHost`, `execSecurity`, `execAsk`, `execNode`"
)
INVOKE_SCOPE = (
    "`operator.write`; `operator.admin` for commands that run programs, reach files or a browser "
    "([nodes](protocol.md#nodes))"
)
SCOPE_RULES = {"sessions.patch": PATCH_SCOPE, "node.invoke": INVOKE_SCOPE}
SCOPE_RULES["talk.mode"] = "`operator.write`; on protocol 4 `operator.talk`"
"""What a scope that depends on the call asks for, in words, by method."""
REQUIRED = {("acp", "command")}
"""Keys of a backend that have to be given, though their struct has a default for its own checks."""

METHODS_INTRO = """\
# Methods

Every method of the gateway, by family. *Scope* is what the connection must have been granted;
`operator.admin` includes every other scope, `operator.write` includes `operator.read`. *Role* is who
may call it. Params are closed objects unless said: an unknown key is refused, the error names its path.

*Since* says which protocol versions have a param: a connection of the other version that sends it is
refused as for any unknown key. Several params of protocol 4 are there for the sake of its clients: they
are checked, and have no effect.

Methods marked ○ are not listed in `hello-ok.features.methods`, but can be called. Methods marked ⧖
answer when something happens; such a call ends with its connection.
"""

CONFIGURATION_INTRO = """\
# Configuration

One TOML file, named by `--config FILE` or `$GATEWAY_CONFIG`. There is no file by default: every key
has a default, and these are what the tables below show. `gatewayctl config default` prints them all as
a file to start from, `gatewayctl config check FILE` checks one, and
warns of programs, keys and libraries that are missing here. An unknown key, a wrong type or a value
out of range stops the start with one line that names the file, the key and the nearest known one.

What a command line option says goes before the environment, which goes before the file:

| what | option of `twistd gateway` | environment | key |
|---|---|---|---|
| the file itself | `--config`, `-c` | `GATEWAY_CONFIG` | |
| where to listen | `--listen`, `-l` (repeatable) | `GATEWAY_LISTEN` (separated by spaces) | `server.listen` |
| the state directory | `--state-dir`, `-s` | `GATEWAY_STATE_DIR` | |
| the shared token | `--token-file` | `GATEWAY_TOKEN` | `auth.token` |

A *secret* is `{ env = "NAME" }` or `{ file = "PATH" }`, a path being relative to the configuration's
own directory. A bare string works, and a warning in the log says that it lies there in plain text.
"""

REFUSALS_INTRO = """\
# Refusals

Everything that keeps a client from coming in, in the order in which it is looked at: what the client is
told, the code that stays the same from release to release, and the one command or key that mends it. The
answer carries all three, as far as the protocol has a place for them; the close frame has the sentence.
What is said of a credential begins with `unauthorized: `; on protocol 3 every device that has to be
approved is told `pairing required`.
On the gateway's host `gatewayctl why` tells the same of any connection that has ended.

An HTTP request that is refused, whether for an upgrade or not, is answered

- 400: it is no request, or one that can be read in two ways; mend the client, or the proxy before it;
- 401: no bearer token, or a wrong one; 429 with `Retry-After`: too many were wrong;
- 403: a proxy says who its client is that is not in `server.trusted_proxies`;
- 408, 414, 431: the head took too long, its first line or the whole is too large;
- 413: the body is too large; 429: too many requests at once, or their answers are not read;
- 421: the gateway has no such name (`server.allowed_hosts`);
- 503: too many connections (`limits.preauth_connections_per_address`, `limits.preauth_connections_max`), or
  too many passwords being compared.
"""

LOOKALIKES_INTRO = """\
## A credential of the wrong kind

A wrong token or password is looked at once more: if it seems to be something else, the refusal says
what. It is told to who showed it, and nothing of the text itself is. A right token with blanks, quotes or
a line break around it is refused as any other wrong one, and told to have them: nobody learns from the
answer whether what is between them would have been right.
"""

COMMAND = re.compile(
    r"gatewayctl (?:--version|why|pair|security|token(?: --show)?|devices(?: approve REQUEST)?)"
    r"|ssh -L \S+ HOST|timedatectl|--token|(?:auth|server|agents\.ID)\.[a-z_]+"
)
"""What is typed, or a key of the configuration."""

SHOWN = (
    ("`sk-…`, `AIza…` and their like", "sk-0123456789abcdef", False),
    ("`eyJ….….…`", "eyJhbGciOiJub25lIn0.e30.c2ln", False),
    ("a setup code", "eyJ1cmwiOiJ3c3M6Ly9hLmIiLCJib290c3RyYXBUb2tlbiI6InMifQ", False),
    ("a device's token, as password", "A" * 43, True),
    ("a device's id", "0" * 64, False),
    ("`wss://…`", "wss://gateway.example?token=x", False),
    ("`Bearer …`", "Bearer x", False),
    ("a text in quotes", '"x"', False),
    ("a text with blanks or a line break around it", "x\n", False),
    ("`${GATEWAY_TOKEN}`, `<token>`", "${GATEWAY_TOKEN}", False),
    ("`$argon2id$…`", "$argon2id$v=19$m=1$a$b", True),
)
"""Credentials of wrong kinds: in words, one of them, and whether a password was asked for."""

AGENTS_INTRO = """\
## agents

One table per agent, `[agents.ID]`, whose id is 1 to 64 of `a-z`, `0-9`, `_` and `-`. Without any there
is one demo agent called `main`. Every agent has the keys of the first table, and those of its backend.
"""


def methods_page() -> str:
    """Return methods.md."""
    table = build_table()
    families: dict[str, list[Method]] = {}
    for method in table:
        families.setdefault(method.handler.__module__, []).append(method)
    parts = [METHODS_INTRO, *_method_index(table)]
    for module, methods in families.items():
        parts.append(f"\n## {_family(sys.modules[module])}\n")
        for method in methods:
            parts += _method(method)
    return "\n".join(parts)


def configuration_page() -> str:
    """Return configuration.md."""
    tables: dict[str, list[FieldDoc]] = {}
    for doc in config.describe():
        tables.setdefault(doc.key.partition(".")[0], []).append(doc)
    parts = [CONFIGURATION_INTRO]
    for name, docs in tables.items():
        if name == "agents":
            parts += [AGENTS_INTRO, *_keys(docs, "agents.ID."), ""]
            for factory in (builtin.demo, builtin.acp, builtin.llm):
                parts += _backend(factory)
        else:
            parts += [f"## {name}\n", *_keys(docs, f"{name}."), ""]
    return "\n".join(parts)


def refusals_page() -> str:
    """Return refusals.md."""
    parts = [
        REFUSALS_INTRO,
        "| the client is told | `details.code` | what mends it |\n|---|---|---|",
    ]
    for advice in CATALOGUE.values():
        says = f"`{advice.says}`" if advice.says else "nothing: it is closed with 1000"
        codes = f"`{advice.code}`" if advice.code else ""
        if advice.code_3 is not None:
            older = f"`{advice.code_3}`" if advice.code_3 else "none"
            codes += f"; on protocol 3 {older}"
        if advice.reason and advice.reason not in advice.says:
            codes += f", reason `{advice.reason}`"
        parts.append(f"| {says} | {codes} | {_commands(advice.mend)} |")
    parts.append(f"\n{LOOKALIKES_INTRO}")
    parts.append("| what was shown | what is told of it |\n|---|---|")
    parts += [
        f"| {shown} | {looks_like(text, password=password)} |" for shown, text, password in SHOWN
    ]
    return "\n".join([*parts, ""])


def _commands(mend: str) -> str:
    """Return a mend with its commands and keys marked as such."""
    return COMMAND.sub(lambda found: f"`{found[0]}`", mend)


PAGES = {
    "methods.md": methods_page,
    "configuration.md": configuration_page,
    "refusals.md": refusals_page,
}


def _family(module: ModuleType) -> str:
    """Return the title of a family: the first line of its module, without what follows a colon."""
    first = (module.__doc__ or "").partition("\n")[0].rstrip(".")
    head, colon, rest = first.partition(": ")
    title = rest if colon and head.startswith("``") else first
    return title.replace("``", "`")[:1].upper() + title.replace("``", "`")[1:]


def _method_index(methods: Iterable[Method]) -> Iterator[str]:
    yield "| method | role | scope | |\n|---|---|---|---|"
    for method in sorted(methods, key=lambda m: m.name):
        marks = ("" if method.advertised else " ○") + (" ⧖" if method.waits else "")
        link = f"[`{method.name}`](#{_anchor(method.name)}){marks}"
        scope = "by params" if callable(method.scope) else _scope(method)
        yield f"| {link} | {_role(method)} | {scope} | {_code(method.doc)} |"


def _method(method: Method) -> Iterator[str]:
    yield f"({_anchor(method.name)})=\n### `{method.name}`\n\n{_code(method.doc)}\n"
    yield f"Role: {_role(method)}. Scope: {_scope(method)}.\n"
    shape = None if method.params is None else _shape(method.params)
    if shape is None or not shape.fields:
        yield "Params are ignored.\n" if shape is None else "Takes no params.\n"
        return
    if not shape.forbid_unknown_fields:
        yield "Other keys are ignored.\n"
    yield "| param | type | required | since |\n|---|---|---|---|"
    for field in shape.fields:
        words, since = _type(field.type), _since(field.type)
        required = "yes" if field.required else ""
        yield f"| `{field.encode_name}` | {words} | {required} | {since} |"
    yield ""


def _shape(params: type) -> shapes.StructType:
    shape = shapes.type_info(params)
    assert isinstance(shape, shapes.StructType)
    return shape


def _role(method: Method) -> str:
    return "any" if method.role is None else method.role.value


def _scope(method: Method) -> str:
    if callable(method.scope):
        return SCOPE_RULES[method.name]
    return "none" if method.scope is None else f"`{method.scope}`"


def _anchor(name: str) -> str:
    return "method-" + name.replace(".", "-").lower()


def _since(kind: shapes.Type) -> str:
    extra = kind.extra or {} if isinstance(kind, shapes.Metadata) else {}
    return "4" if extra.get("since") == 4 else "3 only" if extra.get("until") == 3 else ""


def _type(kind: shapes.Type) -> str:
    """Return a type in words, with its bounds."""
    match kind:
        case shapes.Metadata(type=inner, extra=extra):
            limit = (extra or {}).get("v3_max_length")
            return _type(inner) + (f" ({limit} on protocol 3)" if limit else "")
        case shapes.UnionType(types=members):
            return " or ".join(_type(member) for member in members)
        case shapes.LiteralType(values=values):
            return " or ".join(f"`{settings.toml_value(value)}`" for value in values)
        case shapes.StructType(fields=fields):
            names = ", ".join(f"`{field.encode_name}`" for field in fields)
            return f"object of {names}"
        case shapes.ListType(item_type=item):
            return "list" + _of(item) + _bounds(kind.min_length, kind.max_length, "items")
        case shapes.DictType(value_type=value):
            return "object" + _of(value)
        case shapes.StrType():
            return "text" + _bounds(kind.min_length, kind.max_length, "characters")
        case shapes.IntType() | shapes.FloatType():
            word = "integer" if isinstance(kind, shapes.IntType) else "number"
            return word + _bounds(kind.ge, kind.le, "")
    return {shapes.BoolType: "boolean", shapes.NoneType: "null"}.get(type(kind), "any")


def _of(item: shapes.Type) -> str:
    return "" if isinstance(item, shapes.AnyType) else f" of {_type(item)}"


def _bounds(least: float | None, most: float | None, unit: str) -> str:
    if unit == "characters" and (least, most) == (1, None):
        return ", not empty"
    words = [f"{word} {bound}" for word, bound in (("from", least), ("to", most)) if bound]
    if least == 0:
        words.insert(0, "from 0")
    return ", " + " ".join([*words, unit]).rstrip() if words else ""


def _keys(docs: Iterable[FieldDoc], prefix: str, backend: str = "") -> Iterator[str]:
    yield "| key | type | default | meaning |\n|---|---|---|---|"
    for doc in docs:
        default = f"`{doc.default}`" if doc.default else ""
        default = "*required*" if (backend, doc.key) in REQUIRED else default
        cells = (f"`{doc.key.removeprefix(prefix)}`", _plain(doc.type_text), default)
        yield f"| {' | '.join(cells)} | {_plain(doc.doc)} |"


def _backend(factory: IAgentBackendFactory) -> Iterator[str]:
    shared = set(AgentConfig.__struct_fields__)
    docs = [doc for doc in settings.describe(factory.config_type) if doc.key not in shared]
    yield f'### backend = "{factory.name}"\n\n{factory.summary}\n'
    yield from _keys(docs, "", factory.name)
    yield ""


def _code(text: str) -> str:
    return text.replace("``", "`")


def _plain(text: str) -> str:
    """Return text that may stand in a cell: no bar, no markup of its own."""
    return text.replace("|", "\\|").replace("<", "\\<").replace("{ ", "`{ ").replace(" }", " }`")


def main() -> None:
    """Write every page."""
    for name, page in PAGES.items():
        (HERE / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
