"""``gatewayctl approvals``: what agents and clients ask operators, and the answers."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from gateway.cli.call import RequestError, as_json, ask, asked
from gateway.cli.common import Failure, Flags, connecting, printable
from gateway.cli.inspect import json_option, now_ms
from gateway.cli.tables import one_line, short_ids, span, table

if TYPE_CHECKING:
    from gateway.cli.session import Session

CAPS: Final = ("approvals",)
"""What makes the gateway tell this client of questions, and wait for its answer."""

_HEAD: Final = ("ID", "AGE", "LEFT", "AGENT", "SESSION", "CWD", "COMMAND")
_CELL: Final = 48
_COMMAND: Final = 80
_ANSWERS: Final = {
    "y": "allow-once",
    "yes": "allow-once",
    "a": "allow-always",
    "always": "allow-always",
    "n": "deny",
    "no": "deny",
}


@click.group(invoke_without_command=True, short_help="List, approve and deny what agents ask.")
@json_option
@connecting
def approvals(flags: Flags, raw: bool) -> None:
    """List what agents and clients ask, or answer it: "approve ID", "deny ID", "watch".

    "policy" says what need not be asked.

    The beginning of an ID is enough, where it fits one question.
    """
    context = click.get_current_context()
    context.obj = flags
    if context.invoked_subcommand is None:
        _list(flags, raw)


@approvals.command("list")
@json_option
@connecting
def list_(flags: Flags, raw: bool) -> None:
    """List the questions that wait for an answer, the oldest first."""
    _list(flags, raw)


@approvals.command()
@click.argument("approval_id", metavar="ID")
@click.option(
    "--always",
    is_flag=True,
    help="For exactly this command from now on, or what the agent calls alike in its session.",
)
@connecting
def approve(flags: Flags, approval_id: str, always: bool) -> None:
    """Allow what is asked, once or with --always."""
    _answer(flags, approval_id, "allow-always" if always else "allow-once")


@approvals.command()
@click.argument("approval_id", metavar="ID")
@connecting
def deny(flags: Flags, approval_id: str) -> None:
    """Refuse what is asked."""
    _answer(flags, approval_id, "deny")


@approvals.command()
@connecting
def watch(flags: Flags) -> None:
    """Show each question as it comes, until Ctrl-C; at a terminal, ask for its answer."""
    from gateway.cli.session import session
    from gateway.client import Event

    with session(flags, CAPS) as connected:
        events = connected.events()
        seen: set[str] = set()
        for row in asked(connected, "exec.approval.list", {}):
            seen.add(row["id"])
            put(connected, row["id"])
        for event in events:
            if not isinstance(event, Event) or not isinstance(event.payload, Mapping):
                continue
            approval_id = str(event.payload.get("id"))
            if event.name == "exec.approval.requested" and approval_id not in seen:
                seen.add(approval_id)
                put(connected, approval_id)
            elif event.name == "exec.approval.resolved":
                seen.discard(approval_id)
                click.echo(_resolved(event.payload))


def put(connected: Session, approval_id: str) -> None:
    """Show a question; at a terminal, ask for the answer and give it.

    One that has ended meanwhile is passed over. Raises KeyboardInterrupt.
    """
    try:
        shown = asked(connected, "exec.approval.get", {"id": approval_id})
    except RequestError as error:
        _note(f"approval {approval_id}: {error.message}")
        return
    agent = f"Agent {shown['agentId']}" if shown.get("agentId") else "Somebody"
    click.echo(f"{agent} asks for approval {one_line(approval_id)}:", err=True)
    click.echo(_indented(shown["commandText"]), err=True)
    if not sys.stdin.isatty():
        _note(f"gatewayctl approvals approve {approval_id}, or deny {approval_id}")
        return
    decision = _typed(shown.get("allowedDecisions") or [])
    if decision is None:
        _note("not answered")
        return
    try:
        asked(connected, "exec.approval.resolve", {"id": approval_id, "decision": decision})
    except RequestError as error:
        _note(f"not answered: {error.message}")


def _typed(allowed: Sequence[str]) -> str | None:
    """Return what is typed at the prompt; None for nothing that is an answer."""
    always = "allow-always" in allowed
    click.echo(
        f"Allow it? [y]es, once{' / [a]lways' if always else ''} / [n]o: ", nl=False, err=True
    )
    while True:
        try:
            line = input().strip().lower()
        except EOFError:
            return None
        decision = _ANSWERS.get(line)
        if decision is not None and (decision != "allow-always" or always):
            return decision
        click.echo("y, a or n: " if always else "y or n: ", nl=False, err=True)


def _list(flags: Flags, raw: bool) -> None:
    rows = _call(flags, "exec.approval.list", {})
    if raw:
        click.echo(as_json(rows))
    elif not rows:
        click.echo("Nothing waits for approval.")
    else:
        now = now_ms()
        names = short_ids([row["id"] for row in rows])
        lines = [_line(name, row, now) for name, row in zip(names, rows, strict=True)]
        click.echo(table(_HEAD, lines))


def _line(name: str, row: Mapping[str, Any], now: int) -> list[str]:
    request = row["request"]
    cells = (one_line(request.get(key) or "", _CELL) for key in ("agentId", "sessionKey", "cwd"))
    times = (span(now - row["createdAtMs"]), span(row["expiresAtMs"] - now))
    return [one_line(name), *times, *cells, one_line(request["command"], _COMMAND)]


def _answer(flags: Flags, approval_id: str, decision: str) -> None:
    if not approval_id:
        raise click.UsageError("ID must not be empty")
    _call(flags, "exec.approval.resolve", {"id": approval_id, "decision": decision})
    click.echo(f"{decision} {one_line(approval_id)}")


def _call(flags: Flags, method: str, params: dict[str, Any]) -> Any:
    try:
        return ask(flags, method, params, caps=CAPS)
    except RequestError as error:
        raise Failure(f"the gateway refused {method}: {error.message}") from None


def _resolved(payload: Mapping[str, Any]) -> str:
    outcome = payload.get("decision") or payload.get("reason") or "ended"
    by = f" by {one_line(payload['resolvedBy'])}" if payload.get("resolvedBy") else ""
    return f"{one_line(payload.get('id'))} {one_line(outcome)}{by}"


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in printable(text).split("\n"))


def _note(text: str) -> None:
    click.echo(f"({one_line(text)})", err=True)
