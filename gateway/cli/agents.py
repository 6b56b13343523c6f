"""The agents of a gateway: ``agents`` and ``agents restart``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from gateway.cli.call import as_json
from gateway.cli.common import Flags, connecting
from gateway.cli.inspect import json_option, look
from gateway.cli.tables import one_line, table

Rows = Sequence[Mapping[str, Any]]

_HEAD = (
    "ID",
    "NAME",
    "BACKEND",
    "MODEL",
    "READY",
    "RUNS",
    "PID",
    "STATE",
    "RESTARTS",
    "LAST ERROR",
)
_CELL = 48
_KNOWN = frozenset({"pid", "state", "restarts", "lastError", "nextStartInMs"})
_LEFT_OUT = frozenset({"process", "launcherPid", "startedAtMs"})


@click.group(invoke_without_command=True, short_help="List the agents, and their processes.")
@json_option
@connecting
def agents(flags: Flags, raw: bool) -> None:
    """List the agents: what they answer with, their runs, and the processes behind them.

    An agent with several processes has a line for each. RUNS are those that go, and +N that wait.
    """
    ctx = click.get_current_context()
    ctx.obj = flags
    if ctx.invoked_subcommand is not None:
        return
    answer = look(flags, "agents.status", {})
    click.echo(as_json(answer) if raw else listed(answer["agents"]))


@agents.command(short_help="Start an agent anew.")
@click.argument("agent_id", metavar="ID")
@connecting
def restart(flags: Flags, agent_id: str) -> None:
    """Start the agent ID anew: later runs go to the new process, the old one ends with its runs."""
    answer = look(flags, "agents.restart", {"agentId": agent_id})
    click.echo(f"agent {one_line(answer['agentId'])} is started anew")


def listed(rows: Rows) -> str:
    """Return the table of agents, a line for each process; one without a process has a line as well."""
    lines = []
    for row in rows:
        runs = row["runs"]
        waiting = f"+{runs['waiting']}" if runs["waiting"] else ""
        about = [
            f"{row['agentId']}{' *' if row.get('isDefault') else ''}",
            row["name"],
            row["backend"],
            ", ".join(row["models"]),
            "yes" if row["ready"] else "no",
            f"{runs['going']}{waiting}",
        ]
        lines += [[*map(_cell, about), *_worker(each)] for each in row["workers"] or [{}]]
    return f"{table(_HEAD, lines)}\n* the default agent"


def _worker(facts: Mapping[str, Any]) -> list[str]:
    state = str(facts.get("state", ""))
    if "nextStartInMs" in facts:
        state += f" {facts['nextStartInMs'] / 1000:.1f}s"
    more = [f"{name}={value}" for name, value in facts.items() if name not in _KNOWN | _LEFT_OUT]
    cells = (
        facts.get("pid"),
        " ".join([state, *more]),
        facts.get("restarts"),
        facts.get("lastError"),
    )
    return [_cell(cell) for cell in cells]


def _cell(value: Any) -> str:
    return "" if value is None else one_line(value, _CELL)
