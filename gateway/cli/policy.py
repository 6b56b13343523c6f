"""``gatewayctl approvals policy``: what agents may run without being asked about."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from gateway.cli.call import RequestError, as_json, asked, parse_params, refused
from gateway.cli.common import Failure, Flags, connecting
from gateway.cli.inspect import json_option, now_ms
from gateway.cli.tables import one_line, short_ids, span, table

if TYPE_CHECKING:
    from gateway.cli.session import Session

EVERY_AGENT: Final = "*"

_MODES: Final = ("AGENT", "SECURITY", "ASK", "UNANSWERED")
_ENTRIES: Final = ("AGENT", "ID", "PROGRAM", "ARGUMENTS", "USED", "BY")
_CELL: Final = 60
_SECURITY: Final = click.Choice(("deny", "allowlist", "full"))


@click.group(invoke_without_command=True, short_help="What may be run without asking.")
@json_option
@connecting
def policy(flags: Flags, raw: bool) -> None:
    """Show or change what agents may run without asking; AGENT may be "*", for all of them."""
    context = click.get_current_context()
    context.obj = flags
    if context.invoked_subcommand is None:
        _show(flags, raw)


@policy.command()
@json_option
@connecting
def show(flags: Flags, raw: bool) -> None:
    """Show the policy: how strict it is for each agent, and the lists of what is allowed."""
    _show(flags, raw)


@policy.command("set")
@click.argument("file", type=click.File("rb"))
@connecting
def set_(flags: Flags, file: Any) -> None:
    """Replace the whole policy by the JSON in FILE, as "show --json" has it; "-" is standard input."""
    text = file.read().decode("utf-8", "replace")
    written = parse_params(text) or {}
    written = written.get("file", written)
    _change(flags, lambda _: written)
    click.echo("the policy is replaced")


@policy.command()
@click.argument("agent")
@click.argument("path")
@click.option(
    "--args",
    "arguments",
    metavar="PATTERN",
    help='Only with these arguments: "*" within one, "**" at the end for all that follow.',
)
@connecting
def allow(flags: Flags, agent: str, path: str, arguments: str | None) -> None:
    """Let AGENT run the program PATH without asking; "*" stands for a name in it, "**" for directories."""

    def change(file: dict[str, Any]) -> dict[str, Any]:
        entry = {"pattern": path} if arguments is None else _with(path, arguments)
        _agent(file, agent).setdefault("allowlist", []).append(entry)
        return file

    known = _change(flags, change)
    click.echo(f"agent {one_line(agent)} may run {one_line(path)}")
    _doubt(agent, known)
    if _starts_others(path, arguments):
        note = "it starts other programs, so that every word has to be spelled out by --args"
        click.echo(f"({one_line(path)}: {note}; as it is, this allows nothing)", err=True)


@policy.command()
@click.argument("agent")
@click.argument("entry_id", metavar="ID")
@connecting
def remove(flags: Flags, agent: str, entry_id: str) -> None:
    """Remove the entry ID from the list of AGENT; the beginning of the ID is enough."""

    def change(file: dict[str, Any]) -> dict[str, Any]:
        entries = _agent(file, agent).get("allowlist", [])
        found = [entry for entry in entries if entry_id and entry["id"].startswith(entry_id)]
        if len(found) != 1:
            known = "several entries begin so" if found else "there is no such entry"
            raise Failure(f"agent {agent}, {entry_id}: {known}")
        entries.remove(found[0])
        return file

    _change(flags, change)
    click.echo(f"agent {one_line(agent)}: removed {one_line(entry_id)}")


@policy.command()
@click.argument("agent")
@connecting
def deny(flags: Flags, agent: str) -> None:
    """Refuse everything that AGENT asks, until "mode" says otherwise."""
    _set_mode(flags, agent, {"security": "deny"})


@policy.command()
@click.argument("agent")
@click.option(
    "--security", type=_SECURITY, help="What may be run: nothing, what the list names, all."
)
@click.option(
    "--ask", type=click.Choice(("off", "on-miss", "always")), help="When operators are asked."
)
@click.option("--unanswered", type=_SECURITY, help="What may be run if nobody answers.")
@connecting
def mode(
    flags: Flags, agent: str, security: str | None, ask: str | None, unanswered: str | None
) -> None:
    """Say how strict the policy is for AGENT."""
    values = {"security": security, "ask": ask, "askFallback": unanswered}
    given = {name: value for name, value in values.items() if value is not None}
    if not given:
        raise click.UsageError("say --security, --ask or --unanswered")
    _set_mode(flags, agent, given)


def _set_mode(flags: Flags, agent: str, values: Mapping[str, str]) -> None:
    def change(file: dict[str, Any]) -> dict[str, Any]:
        _agent(file, agent).update(values)
        return file

    known = _change(flags, change)
    said = ", ".join(f"{name} {value}" for name, value in values.items())
    click.echo(f"agent {one_line(agent)}: {said}")
    _doubt(agent, known)


def _show(flags: Flags, raw: bool) -> None:
    from gateway.cli.session import session

    with session(flags) as connected:
        snapshot = _asked(connected, "exec.approvals.get", {})
    if raw:
        click.echo(as_json(snapshot))
        return
    defaults = snapshot.get("resolvedDefaults", {})
    file = snapshot["file"]
    agents = file.get("agents", {})
    modes = [["any other", *_mode({**defaults, **agents.get(EVERY_AGENT, {})})]]
    modes += [
        [one_line(name), *_mode(each)] for name, each in agents.items() if name != EVERY_AGENT
    ]
    click.echo(table(_MODES, modes))
    rows = list(_rows(agents, snapshot.get("grants", {})))
    if rows:
        short = dict(zip(ids := [row[1] for row in rows], short_ids(ids), strict=True))
        click.echo()
        click.echo(table(_ENTRIES, [[row[0], short[row[1]], *row[2:]] for row in rows]))


def _rows(agents: Mapping[str, Any], grants: Mapping[str, Any]) -> Iterator[list[str]]:
    now = now_ms()
    for name, agent in agents.items():
        for entry in agent.get("allowlist", []):
            used = f"{span(now - entry['lastUsedAt'])} ago" if "lastUsedAt" in entry else ""
            arguments = entry.get("argPattern", "**") or "(none)"
            if "commandText" in entry:
                arguments = f"exactly: {entry['commandText']}"
            yield [
                one_line(name),
                entry["id"],
                one_line(entry["pattern"], _CELL),
                one_line(arguments, _CELL),
                used,
                one_line(grants.get(entry["id"], {}).get("by", "")),
            ]


def _mode(values: Mapping[str, Any]) -> list[str]:
    return [one_line(values.get(name, "")) for name in ("security", "ask", "askFallback")]


def _with(path: str, arguments: str) -> dict[str, str]:
    return {"pattern": path, "argPattern": arguments}


def _agent(file: dict[str, Any], agent: str) -> dict[str, Any]:
    found: dict[str, Any] = file.setdefault("agents", {}).setdefault(agent, {})
    return found


def _starts_others(path: str, arguments: str | None) -> bool:
    """Whether a program counts only where every word of its command is literal, and not all are."""
    from gateway.core.execcommand import starts_others

    literal = arguments is not None and "*" not in path + arguments
    return not literal and starts_others([path], ())


def _doubt(agent: str, known: Collection[str]) -> None:
    """Say of an agent that is not there that it is not: its name may be misspelled."""
    if known and agent != EVERY_AGENT and agent not in known:
        text = f"there is no agent {one_line(agent)} now: {', '.join(map(one_line, known))}"
        click.echo(f"({text})", err=True)


def _change(flags: Flags, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Collection[str]:
    """Change the policy as it is now, and return the agents that there are, if the gateway says so.

    Raises Failure for what it refuses.
    """
    from gateway.cli.session import session

    with session(flags) as connected:
        snapshot = _asked(connected, "exec.approvals.get", {})
        params = {"file": change(snapshot["file"]), "baseHash": snapshot["hash"]}
        _asked(connected, "exec.approvals.set", params)
        try:
            agents = asked(connected, "agents.list", {})["agents"]
        except RequestError:
            return ()
    return [str(agent["id"]) for agent in agents]


def _asked(connected: Session, method: str, params: dict[str, Any]) -> Any:
    try:
        return asked(connected, method, params)
    except RequestError as error:
        raise refused(method, error) from None
