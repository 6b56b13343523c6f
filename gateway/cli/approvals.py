"""``gatewayctl approvals``: what agents and clients ask operators, and the answers."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from gateway.cli.call import RequestError, as_json, ask, asked, refused
from gateway.cli.common import Flags, connecting, printable
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
    """List what agents and clients ask, or answer it: "approve ID", "deny ID" (or "reject ID"), "watch".

    "show ID" shows one whole; "policy" says what need not be asked.

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
@json_option
@connecting
def show(flags: Flags, raw: bool, approval_id: str) -> None:
    """Show one question whole, also one that has ended, and what was answered."""
    if not approval_id:
        raise click.UsageError("ID must not be empty")
    found = _call(flags, "approval.get", {"id": approval_id})["approval"]
    request: Mapping[str, Any] = {}
    if found["status"] == "pending":  # only the list tells in which directory it would be run
        rows = _call(flags, "exec.approval.list", {})
        request = next((row["request"] for row in rows if row["id"] == found["id"]), {})
    if raw:
        click.echo(as_json({"approval": found, "request": request}))
        return
    for name, value in _facts(found, request):
        if value:
            click.echo(f"{name:<10}{one_line(value)}")
    click.echo(_indented(found["presentation"]["commandText"]))


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


approvals.add_command(deny, "reject")  # as devices and nodes call it


@approvals.command()
@connecting
def watch(flags: Flags) -> None:
    """Show each question as it comes, until Ctrl-C; at a terminal, ask for its answer."""
    from gateway.cli.session import session
    from gateway.client import Event

    with session(flags, CAPS) as connected:
        events = connected.events()
        seen: set[str] = set()
        try:
            waiting = asked(connected, "exec.approval.list", {})
        except RequestError as error:
            raise refused("exec.approval.list", error) from None
        for row in waiting:
            seen.add(row["id"])
            put(connected, row["id"], row["request"])
        for event in events:
            if not isinstance(event, Event) or not isinstance(event.payload, Mapping):
                continue
            approval_id = str(event.payload.get("id"))
            if event.name == "exec.approval.requested" and approval_id not in seen:
                seen.add(approval_id)
                put(connected, approval_id, event.payload.get("request"))
            elif event.name == "exec.approval.resolved":
                seen.discard(approval_id)
                click.echo(_resolved(event.payload))


def put(connected: Session, approval_id: str, request: object = None) -> None:
    """Show a question; at a terminal, ask for the answer and give it.

    ``request`` is what else is known of it. One that has ended meanwhile is passed over. Raises
    KeyboardInterrupt.
    """
    try:
        shown = asked(connected, "exec.approval.get", {"id": approval_id})
    except RequestError as error:
        _note(f"approval {approval_id}: {error.message}")
        return
    agent = f"Agent {shown['agentId']}" if shown.get("agentId") else "Somebody"
    click.echo(f"{agent} asks for approval {one_line(approval_id)}:", err=True)
    click.echo(_indented(shown["commandText"]), err=True)
    for line in _where(shown, request if isinstance(request, Mapping) else {}):
        _note(line)
    if not sys.stdin.isatty():
        name = shlex.quote(approval_id)
        _note(f"gatewayctl approvals approve {name}, or deny {name}")
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
    return [one_line(name), *times, *cells, _on_one_line(request["command"], _COMMAND)]


def _answer(flags: Flags, approval_id: str, decision: str) -> None:
    """Answer the one question that is meant, and say which one that was."""
    from gateway.cli.session import session

    if not approval_id:
        raise click.UsageError("ID must not be empty")
    command = ""
    with session(flags, CAPS) as connected:
        try:
            shown = asked(connected, "exec.approval.get", {"id": approval_id})
            approval_id, command = shown["id"], f": {_on_one_line(shown['commandText'])}"
        except RequestError:
            pass  # the answer to the decision says why
        params = {"id": approval_id, "decision": decision}
        try:
            asked(connected, "exec.approval.resolve", params)
        except RequestError as error:
            raise refused("exec.approval.resolve", error) from None
    click.echo(f"{decision} {one_line(approval_id)}{command}")


def _call(flags: Flags, method: str, params: dict[str, Any]) -> Any:
    try:
        return ask(flags, method, params, caps=CAPS)
    except RequestError as error:
        raise refused(method, error) from None


def _facts(found: Mapping[str, Any], request: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Yield what is known of a question, besides its command."""
    shown, source = found["presentation"], found.get("source") or {}
    yield "id", found["id"]
    yield "agent", shown.get("agentId")
    yield "session", found.get("sourceSessionKey") or source.get("sessionKey")
    yield "run", request.get("runId")
    yield "node", shown.get("nodeId")
    yield "cwd", request.get("cwd")
    yield "warning", shown.get("warningText")
    yield "asked", f"{span(now_ms() - found['createdAtMs'])} ago"
    if found["status"] == "pending":
        yield "answer", f"none yet, {span(found['expiresAtMs'] - now_ms())} left"
        return
    by = (found.get("resolver") or {}).get("id")
    answer = found.get("decision") or found["status"]
    yield "answer", f"{answer} by {by}" if by else answer


def _where(shown: Mapping[str, Any], request: Mapping[str, Any]) -> Iterator[str]:
    """Yield where a command would be run, as far as that is known."""
    if shown.get("nodeId"):
        yield f"on node {shown['nodeId']}"
    if request.get("cwd"):
        yield f"in {request['cwd']}"


def _on_one_line(command: str, longest: int = 0) -> str:
    """Return a command on one line, on which it is seen where its own lines end."""
    return one_line(command.replace("\n", " \\n "), longest)


def _resolved(payload: Mapping[str, Any]) -> str:
    outcome = payload.get("decision") or payload.get("reason") or "ended"
    by = f" by {one_line(payload['resolvedBy'])}" if payload.get("resolvedBy") else ""
    return f"{one_line(payload.get('id'))} {one_line(outcome)}{by}"


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in printable(text).split("\n"))


def _note(text: str) -> None:
    click.echo(f"({one_line(text)})", err=True)
