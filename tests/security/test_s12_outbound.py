"""A client makes the gateway itself connect to an address of the client's choosing (attack 12)."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

import gateway
from gateway.model import Role
from gateway.rpc.families import build_table
from tests.app.harness import Gate

PACKAGE = Path(gateway.__file__).parent
CONNECTING = {
    "connectTCP",
    "connectSSL",
    "connectUNIX",
    "connectUDP",
    "listenUDP",
    "HostnameEndpoint",
    "TCP4ClientEndpoint",
    "UNIXClientEndpoint",
    "wrapClientTLS",
    "clientFromString",
    "create_connection",
    "open_connection",
    "getaddrinfo",
    "gethostbyname",
    "urlopen",
    "HTTPConnection",
    "HTTPSConnection",
    "Agent",
}
"""What opens a connection or resolves a name."""
NAMES = (
    "httpx",
    "requests",
    "aiohttp",
    "treq",
    "urllib.request",
    "http.client",
    "openai",
    "smtplib",
)
CLIENTS = ("client/", "cli/", "agents/workers/", "testing.py")
"""Programs of their own: what users start, and the agents, which are processes apart."""
URLS = (
    "http://169.254.169.254/latest/meta-data/",
    "ws://10.0.0.1:18789",
    "file:///etc/passwd",
    "\\\\evil.example\\share",
    "http://[::ffff:169.254.169.254]/",
)


def trees() -> list[tuple[str, ast.Module]]:
    """Return the modules of the gateway's own process."""
    return [
        (name, ast.parse(path.read_text(encoding="utf-8")))
        for path in sorted(PACKAGE.rglob("*.py"))
        if not (name := path.relative_to(PACKAGE).as_posix()).startswith(CLIENTS)
    ]


def test_s12_nothing_in_the_gateway_connects_to_anybody() -> None:
    """The gateway's process only listens: no module of it names what connects, or a library for it."""
    found = []
    for path, tree in trees():
        for node in ast.walk(tree):
            name = ""
            if isinstance(node, ast.Name):
                name = node.id
            elif isinstance(node, ast.Attribute):
                name = node.attr
            elif isinstance(node, ast.ImportFrom):
                name = node.module or ""
                found += [
                    f"{path}: {a.name}" for a in node.names if a.name in CONNECTING - {"Agent"}
                ]
            elif isinstance(node, ast.Import):
                found += [f"{path}: {a.name}" for a in node.names if a.name.startswith(NAMES)]
            if name in CONNECTING - {"Agent"} or (
                name.startswith(NAMES)
                and isinstance(node, ast.ImportFrom)
                and [a.name for a in node.names] != ["responses"]
            ):
                found.append(f"{path}: {name}")
    assert found == []


def test_s12_no_params_name_where_an_agent_connects_to() -> None:
    """What an agent runs and which server it asks is the operator's file's alone: no method has it."""
    forbidden = {"baseUrl", "apiKey", "env", "cwd", "args", "proxy", "endpoint"}
    for method in build_table():
        if method.params is None or not method.name.startswith(("agents.", "models.", "config.")):
            continue
        names = {field.encode_name for field in msgspec.structs.fields(method.params)}
        assert names.isdisjoint(forbidden | {"url", "command"}), method.name


@pytest.fixture
def touched() -> list[str]:
    """Return what opens sockets and resolves names from now on; the hook stays, and does nothing later."""
    seen: list[str] = []

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in (
            "socket.connect",
            "socket.getaddrinfo",
            "socket.gethostbyname",
            "urllib.Request",
        ):
            seen.append(f"{event} {args[1:]}")

    sys.addaudithook(hook)
    return seen


def test_s12_no_param_makes_the_gateway_open_a_socket(touched: list[str]) -> None:
    """Addresses in every text param of every method are text: nothing is resolved, nothing connected."""
    gate = Gate()
    operator, node = gate.client(), gate.node()
    for method in build_table():
        if method.params is None:
            continue
        client = node if method.role is Role.NODE else operator
        fields = msgspec.structs.fields(method.params)
        for url in URLS:
            client.call(method.name, {field.encode_name: url for field in fields})
            required = {f.encode_name: url for f in fields if f.required}
            for field in fields:
                client.call(method.name, required | {field.encode_name: url})
                client.call(method.name, required | {field.encode_name: [url]})
        gate.clock.advance(1)
    for run in list(gate.runs._drives):
        gate.runs.abort(run, "test")

    assert touched == []
    gate.clock.advance(90_000)
    gate.close()
