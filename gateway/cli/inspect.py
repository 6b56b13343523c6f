"""What goes on and why it ended: ``connections``, ``runs`` and ``why``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.call import RequestError, as_json, ask, refused
from gateway.cli.common import Failure, Flags, connecting
from gateway.cli.tables import one_line

if TYPE_CHECKING:
    from gateway.cli.session import Session

Match = tuple[str, dict[str, Any]]
"""What has been found: "connection" or "run", and its row."""

STATES = ("accepted", "running", "done", "failed", "aborted")
LISTED = 20
"""How many ids are looked at where a beginning fits several."""
MAX_CONN_ID = 64
LONGEST_ID = 100
"""Characters that are shown of an id: those of runs are what clients made them."""

limit_option = click.option(
    "--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many at most."
)
json_option = click.option("--json", "raw", is_flag=True, help="Print what the gateway answers.")


@click.command(short_help="List who is connected, or who no longer is and why.")
@click.option("--closed", is_flag=True, help="Those that ended, refused ones included.")
@limit_option
@json_option
@connecting
def connections(flags: Flags, closed: bool, limit: int, raw: bool) -> None:
    """List the open connections, the newest first; with --closed those that ended, and why.

    "gatewayctl why ID" tells more of one; the beginning of an id is enough.
    """
    answer = look(flags, "connections.closed" if closed else "connections.list", {"limit": limit})
    if raw:
        click.echo(as_json(answer))
        return
    from gateway.cli import listing

    rows = answer["connections"]
    click.echo((listing.closed if closed else listing.opened)(rows, now_ms()))
    _more(len(rows), answer.get("total", len(rows)))


@click.command(short_help="List runs: what goes on, and what went on.")
@click.option("--session", "session_key", metavar="KEY", help="Only those of one session.")
@click.option("--state", type=click.Choice(STATES), help="Only those in one state.")
@limit_option
@json_option
@connecting
def runs(flags: Flags, session_key: str | None, state: str | None, limit: int, raw: bool) -> None:
    """List runs, the one that was accepted last first.

    "gatewayctl why ID" tells more of one; the beginning of an id is enough.
    """
    params = {"sessionKey": session_key, "state": state, "limit": limit}
    given = {name: value for name, value in params.items() if value is not None}
    answer = look(flags, "runs.list", given)
    if raw:
        click.echo(as_json(answer))
        return
    from gateway.cli import listing

    click.echo(listing.runs(answer["runs"], now_ms()))
    if answer.get("incomplete"):
        click.echo(f"Only what goes on is listed: {one_line(answer['incomplete'])}", err=True)


@click.command(short_help="Tell why a connection ended, or what a run waits for.")
@click.argument("wanted", metavar="ID")
@connecting
def why(flags: Flags, wanted: str) -> None:
    """Tell all that is known of the connection or run ID: what became of it, why, and what to do.

    ID may be the beginning of one, and conn=ID or run=ID as a log line has it. What the gateway has
    forgotten since it was started, and all while it is down, is looked for in its log files, if they
    are on this host. The exit status is 1 if nothing is known under that id.
    """
    wanted = wanted.strip().removeprefix("conn=").removeprefix("run=")
    if not wanted:
        raise click.UsageError("ID must not be blank")
    wanted = wanted.encode(errors="surrogateescape").decode(errors="replace")  # no UTF-8: no id
    from gateway.cli import explain

    not_asked: Failure | None = None
    found: list[Match] = []
    try:
        found = _remembered(flags, wanted)
    except Failure as error:
        not_asked = error
    source = ""
    if not found:
        found, source = _logged(flags, wanted)
    if not found and not_asked is not None:
        raise not_asked
    kind, row = _the_one(found, wanted)
    tell = explain.connection if kind == "connection" else explain.run
    click.echo(tell(row, now_ms()))
    if source:
        down = "the gateway could not be asked" if not_asked else "the gateway has forgotten it"
        click.echo(f"\n(from {source}: {down})")


def now_ms() -> int:
    """Return the time in milliseconds since the epoch."""
    from gateway.runtime import SystemClock

    return SystemClock(None).now_ms()


def look(flags: Flags, method: str, params: dict[str, Any]) -> dict[str, Any]:
    """Call a method on a connection of its own; return the payload. Raises Failure."""
    try:
        answer: dict[str, Any] = ask(flags, method, params)
    except RequestError as error:
        raise refused(method, error) from None
    return answer


def _more(shown: int, total: int) -> None:
    if total > shown:
        click.echo(f"{shown} of {total}; --limit shows more.", err=True)


def _remembered(flags: Flags, wanted: str) -> list[Match]:
    """Ask the gateway for everything whose id begins like that. Raises Unreachable, Failure."""
    from gateway.cli.session import session
    from gateway.client import RequestFailed

    with session(flags) as connected:
        found = _connections(connected, wanted)
        try:
            return found + _runs(connected, wanted)
        except RequestFailed as error:
            if not found:
                raise Failure(f"the gateway refused: {error.message}") from None
            click.echo(f"Runs were not looked at: {one_line(error.message)}", err=True)
            return found


def _connections(connected: Session, wanted: str) -> list[Match]:
    from gateway.client import RequestFailed

    found: list[Match] = []
    if len(wanted) > MAX_CONN_ID:
        return found
    for method in ("connections.closed", "connections.list"):
        params = {"connId": wanted, "limit": LISTED}
        try:
            answer = connected.call(method, params)
        except RequestFailed as error:
            click.echo(f"Connections were not looked at: {one_line(error.message)}", err=True)
            return []
        found += [("connection", row) for row in answer["connections"]]
    return found


def _runs(connected: Session, wanted: str) -> list[Match]:
    """Return the run, or those of the newest whose id begins like that. Raises RequestFailed."""
    from gateway.client import RequestFailed

    def call(method: str, **params: Any) -> Any:
        return connected.call(method, params)

    try:
        return [("run", call("runs.describe", runId=wanted)["run"])]
    except RequestFailed as error:
        if not isinstance(error.details, dict) or error.details.get("reason") != "unknown-run":
            raise
    rows = call("runs.list", limit=1000)["runs"]
    ids = [row["runId"] for row in rows if row["runId"].startswith(wanted)]
    if len(ids) != 1:
        return [("run", {"runId": run_id}) for run_id in ids]
    return [("run", call("runs.describe", runId=ids[0])["run"])]


def _logged(flags: Flags, wanted: str) -> tuple[list[Match], str]:
    """Look into the log files of this host; return what was found, and where."""
    from gateway.cli.closelines import find
    from gateway.cli.where import local_logs

    directory = local_logs(flags, os.environ)
    if directory is None:
        return [], ""
    try:
        return find(directory, wanted), str(directory)
    except OSError as error:
        click.echo(f"The log was not looked at: {error}", err=True)
        return [], ""


def _the_one(found: list[Match], wanted: str) -> Match:
    """Return the match that is meant. Raises Failure if there is none, or more than one."""
    by_id = {row["connId" if kind == "connection" else "runId"]: (kind, row) for kind, row in found}
    if wanted in by_id:
        return by_id[wanted]
    if len(by_id) == 1:
        return next(iter(by_id.values()))
    if not by_id:
        raise Failure(
            f"nothing is known of a connection or run {wanted}"
            " (gatewayctl connections --closed and gatewayctl runs list what is)"
        )
    ids = ", ".join(one_line(each, LONGEST_ID) for each in [*by_id][:LISTED])
    raise Failure(f"{wanted} is the beginning of more than one id: {ids}")
