"""``gatewayctl nodes``: the nodes of a gateway, and what they are asked to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from gateway.cli.call import as_json, asked, parse_params
from gateway.cli.common import Failure, Flags, connecting
from gateway.cli.inspect import json_option, look, now_ms
from gateway.cli.tables import one_line, short_ids, span, table

if TYPE_CHECKING:
    from gateway.cli.session import Session

_HEAD: Final = ("ID", "NAME", "STATE", "PLATFORM", "COMMANDS", "SEEN")
_CELL: Final = 48
_ANSWER_S: Final = 10.0
"""What the answer of the gateway may take beyond the time that the node has."""


@click.group(invoke_without_command=True, short_help="List nodes, and ask them to do something.")
@json_option
@connecting
def nodes(flags: Flags, raw: bool) -> None:
    """List nodes, or work with one.

    NODE is an id, the beginning of one, or a name, where it fits one node.
    """
    context = click.get_current_context()
    context.obj = flags
    if context.invoked_subcommand is None:
        _list(flags, raw)


@nodes.command("list")
@json_option
@connecting
def list_(flags: Flags, raw: bool) -> None:
    """List paired and connected nodes, the connected ones first."""
    _list(flags, raw)


@nodes.command()
@click.argument("node")
@connecting
def describe(flags: Flags, node: str) -> None:
    """Print all that is known of NODE as JSON."""
    from gateway.cli.session import session

    with session(flags) as connected:
        params = {"nodeId": find(connected, node)}
        click.echo(as_json(asked(connected, "node.describe", params)))


@nodes.command()
@click.argument("node")
@click.argument("name")
@connecting
def rename(flags: Flags, node: str, name: str) -> None:
    """Give NODE the name NAME, which stays whatever it calls itself."""
    from gateway.cli.session import session

    with session(flags) as connected:
        params = {"nodeId": find(connected, node), "displayName": name}
        answer = asked(connected, "node.rename", params)
    click.echo(f"node {one_line(answer['nodeId'])} is {one_line(answer['displayName'])}")


@nodes.command(short_help="Ask a node to do something, and print its answer.")
@click.argument("node")
@click.argument("command")
@click.argument("params", metavar="[JSON]", required=False)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    default=30.0,
    show_default=True,
    help="How long the node may take.",
)
@connecting
def invoke(flags: Flags, node: str, command: str, params: str | None, timeout: float) -> None:
    """Ask NODE for COMMAND with the params JSON, and print the payload of its answer.

    The payload is printed as indented JSON; "-" as JSON reads the params from standard input. An error
    is printed as {code, message, details} on stderr, with exit status 1.
    """
    from gateway.cli.session import session
    from gateway.client.options import new_id

    value = parse_params(params)
    with session(flags) as connected:
        wanted = {
            "nodeId": find(connected, node),
            "command": command,
            "timeoutMs": round(timeout * 1000),
            "idempotencyKey": new_id(),
        }
        if value is not None:
            wanted["params"] = value
        answer = asked(connected, "node.invoke", wanted, timeout=timeout + _ANSWER_S)
    click.echo(as_json(answer["payload"]))


def find(connected: Session, text: str) -> str:
    """Return the id of the node that is meant. Raises Failure where it fits none, or several.

    What fits no node is taken for an id, so that the gateway says what it knows of it.
    """
    if not text:
        raise click.UsageError("NODE must not be empty")
    rows: Sequence[Mapping[str, Any]] = asked(connected, "node.list", {})["nodes"]
    ids = [row["nodeId"] for row in rows]
    if text in ids:
        return text
    found = {each for each in ids if each.startswith(text)}
    name = text.casefold()
    found |= {row["nodeId"] for row in rows if str(row.get("displayName", "")).casefold() == name}
    if len(found) > 1:
        raise Failure(f"several nodes fit {one_line(text)}: {', '.join(sorted(found))}")
    return found.pop() if found else text


def _list(flags: Flags, raw: bool) -> None:
    answer = look(flags, "node.list", {})
    rows = answer["nodes"]
    if raw:
        click.echo(as_json(answer))
    elif not rows:
        click.echo("There are no nodes.")
    else:
        now = now_ms()
        names = short_ids([row["nodeId"] for row in rows])
        lines = [_line(name, row, now) for name, row in zip(names, rows, strict=True)]
        click.echo(table(_HEAD, lines))


def _line(name: str, row: Mapping[str, Any], now: int) -> list[str]:
    state = "connected" if row["connected"] else "away"
    if row.get("approvalState", "approved") != "approved":
        state += f", {row['approvalState']}"
    seen = row.get("lastSeenAtMs")
    return [
        one_line(name),
        one_line(row.get("displayName") or "", _CELL),
        one_line(state, _CELL),
        one_line(row.get("platform") or "", _CELL),
        one_line(" ".join(row["commands"]), _CELL),
        "" if row["connected"] or seen is None else f"{span(now - seen)} ago",
    ]
