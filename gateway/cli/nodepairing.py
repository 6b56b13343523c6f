"""``gatewayctl nodes pending|approve|reject|remove|revoke``: what nodes may do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import click

from gateway.cli.call import RequestError, as_json, ask, asked, refused
from gateway.cli.common import Failure, Flags, connecting
from gateway.cli.inspect import json_option, now_ms
from gateway.cli.nodes import find
from gateway.cli.tables import one_line, short_ids, span

_NAME: Final = 48
_LIST: Final = "node.pair.list"


@click.command()
@json_option
@connecting
def pending(flags: Flags, raw: bool) -> None:
    """Show the nodes that wait for approval, with all that each would be allowed."""
    answer = _told(_LIST, lambda: ask(flags, _LIST, {}))
    rows: list[dict[str, Any]] = answer["pending"]
    if raw:
        click.echo(as_json(rows))
    elif not rows:
        click.echo("No node waits for approval.")
    else:
        names = short_ids([row["requestId"] for row in rows])
        for name, row in zip(names, rows, strict=True):
            click.echo("\n".join(_described(name, row)))


@click.command()
@click.argument("request_id", metavar="ID")
@connecting
def approve(flags: Flags, request_id: str) -> None:
    """Allow a node all that its request names, at once and from now on.

    The beginning of an ID is enough, where it fits one request. See "gatewayctl nodes pending".
    """
    answer = _decide(flags, "node.pair.approve", request_id)
    node = answer["node"]
    commands = ", ".join(map(one_line, node.get("commands") or ())) or "no commands"
    click.echo(f"approved {one_line(node['nodeId'])}: {commands}")
    if node.get("token"):
        click.echo(f"token (shown this once): {one_line(node['token'])}")


@click.command()
@click.argument("request_id", metavar="ID")
@connecting
def reject(flags: Flags, request_id: str) -> None:
    """Refuse what a node asks for; what was approved before stays."""
    answer = _decide(flags, "node.pair.reject", request_id)
    click.echo(f"rejected {one_line(answer['nodeId'])}")


@click.command()
@click.argument("node")
@connecting
def remove(flags: Flags, node: str) -> None:
    """Let a device be a node no more: its connection is closed, and it has to be paired again."""
    from gateway.cli.session import session

    with session(flags) as connected:
        params = {"nodeId": find(connected, node)}
        _told("node.pair.remove", lambda: asked(connected, "node.pair.remove", params))
    click.echo(f"removed {one_line(params['nodeId'])}")


COMMANDS: Final = {
    "pending": pending,
    "approve": approve,
    "reject": reject,
    "remove": remove,
    "revoke": remove,  # as devices and tokens call it; a node's rights end with its pairing alone
}
"""What belongs to the group ``nodes``."""


def _decide(flags: Flags, method: str, given: str) -> Any:
    """Decide about the one request whose id begins as given. Raises Failure."""
    from gateway.cli.session import session

    with session(flags) as connected:
        rows = _told(_LIST, lambda: asked(connected, _LIST, {}))["pending"]
        params = {"requestId": _request_id(given, rows)}
        return _told(method, lambda: asked(connected, method, params))


def _request_id(given: str, rows: Sequence[Mapping[str, Any]]) -> str:
    from gateway.core.approval import by_prefix

    found = by_prefix([str(row["requestId"]) for row in rows], given) if given else []
    if len(found) != 1:
        what = "several requests begin" if found else "no request begins"
        raise Failure(f"{what} with {one_line(given, _NAME)!r}; see: gatewayctl nodes pending")
    return found[0]


def _told(method: str, call: Any) -> Any:
    try:
        return call()
    except RequestError as error:
        raise refused(method, error) from None


def _described(name: str, row: Mapping[str, Any]) -> list[str]:
    """Return the lines of a request. Nothing of what it offers is cut: it is what is approved."""
    about = ", ".join(
        one_line(row[key], _NAME)
        for key in ("platform", "deviceFamily", "clientId", "version")
        if row.get(key)
    )
    title = one_line(row.get("displayName") or "a node without a name", _NAME)
    where = one_line(row.get("remoteIp") or "this machine", _NAME)
    lines = [
        f"{one_line(name)}  {title}{f' ({about})' if about else ''}",
        f"    node: {one_line(row['nodeId'])}",
        f"    asked: {span(now_ms() - row['ts'])} ago, from {where}",
    ]
    held = [key for key, given in (row.get("permissions") or {}).items() if given]
    for label, names in (
        ("commands", row.get("commands")),
        ("capabilities", row.get("caps")),
        ("permissions", held),
        ("to approve it takes", row.get("requiredApproveScopes")),
    ):
        if names:
            lines.append(f"    {label}: {', '.join(map(one_line, names))}")
    return lines
