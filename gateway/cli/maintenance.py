"""Commands that look after a gateway: ``drain``, ``backup`` and ``restore``."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.common import Failure, Flags, NobodyListens, Unreachable, connecting

if TYPE_CHECKING:
    from gateway.cli.session import Session

POLL_S = 0.1
LOOK_S = 0.02
LOOKS = 750
"""How often it is looked whether the process has ended that has closed its connections: 15 s."""


@click.command(short_help="Stop the gateway once its runs have ended.")
@click.option(
    "--grace",
    type=click.FloatRange(0, 86_400),
    metavar="SECONDS",
    help="How long runs may still go. [default: limits.drain_grace_s of the gateway]",
)
@click.option("--reason", metavar="TEXT", help="What clients are told.")
@click.option(
    "--wait", is_flag=True, help="Show what goes on, and return when the gateway is gone."
)
@connecting
def drain(flags: Flags, grace: float | None, reason: str | None, wait: bool) -> None:
    """Stop the gateway: no new connections and runs; it ends when its runs have, or the grace is over.

    Runs that wait for their turn are kept for the next start. Said a second time, the gateway waits no
    longer. Where a service manager starts it again, this is a restart.
    """
    from gateway.cli.call import RequestError, asked, refused
    from gateway.cli.session import session

    params: dict[str, Any] = {}
    if grace is not None:
        params["graceMs"] = round(grace * 1000)
    if reason:
        params["reason"] = reason
    try:
        with session(flags) as connected:
            try:
                answer = asked(connected, "gateway.drain", params)
            except RequestError as error:
                raise refused("gateway.drain", error) from None
            click.echo(_told(answer))
            if not wait:
                return
            _watch(connected, answer["runs"], answer["waitingRuns"])
    except NobodyListens as error:
        _drains_already(flags, error, wait)
    else:
        _wait_for_the_end(flags, answer["pid"])
    click.echo("the gateway is gone")


def _drains_already(flags: Flags, error: NobodyListens, wait: bool) -> None:
    """Wait for a gateway of this host that takes no more connections, since it stops already."""
    from gateway.cli.where import announced, state_directory

    pid = announced(flags, os.environ)
    if pid is None:
        raise error
    told = f"process {pid} has the state directory and takes no connections: it starts, or stops already"
    if not wait:
        raise Unreachable(f"{error.message}; {told} (kill {pid} leaves it no more grace)")
    click.echo(f"{told}; waiting (kill {pid} leaves it no more grace)")
    state = state_directory(flags, os.environ)
    while state.owned_by(pid):
        time.sleep(POLL_S)


def _told(answer: dict[str, Any]) -> str:
    """Return in words what the gateway does now."""
    parts = [_count(answer["connections"], "connection")]
    if answer["runs"]:
        seconds = answer["graceMs"] / 1000
        parts.append(f"{_count(answer['runs'], 'run')} may go on for {seconds:g} s")
    if answer["waitingRuns"]:
        parts.append(f"{_count(answer['waitingRuns'], 'waiting run')} kept for the next start")
    return f"draining: {', '.join(parts)}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _watch(connected: Session, before: int, waiting: int) -> None:
    """Tell how many runs still go, until the gateway closes the connection."""
    from gateway.client import ConnectionLost, RequestFailed, RequestTimeout

    while True:
        time.sleep(POLL_S)
        try:
            status = connected.call("status", None, expect_final=False, timeout=None)
        except ConnectionLost as lost:
            click.echo(f"closed: {lost.reason} ({lost.code})")
            return
        except (RequestFailed, RequestTimeout):
            continue  # the end of the connection tells more
        now = status["tasks"]["active"] - waiting
        if now != before:
            click.echo(f"{_count(now, 'run')} left")
        before = now


def _wait_for_the_end(flags: Flags, pid: int) -> None:
    """Wait until the process has given its state directory up, if that is on this host."""
    from gateway.cli.where import state_directory

    state = state_directory(flags, os.environ)
    for _ in range(LOOKS):
        if not state.owned_by(pid):
            return
        time.sleep(LOOK_S)
    raise Failure(f"the gateway has closed its connections, but process {pid} is still there")


@click.command(short_help="Write a backup of the database.")
@click.argument("file", type=click.Path())
@connecting
def backup(flags: Flags, file: str) -> None:
    """Write a backup of the database of the gateway on this host to FILE, while it runs or not.

    The backup is whole and checked before it gets its name, and only its owner may read it. A backup
    that has the name is replaced, anything else is not.
    """
    from gateway.cli.where import database
    from gateway.errors import StartError, StoreError
    from gateway.store.backup import save

    try:
        written = save(database(flags, os.environ), os.path.abspath(file))
    except (StartError, StoreError) as error:
        raise Failure(str(error)) from None
    click.echo(f"{file}: {written.size} bytes, revision {written.revision}")


@click.command(short_help="Put a backup in the place of the database.")
@click.argument("file", type=click.Path())
@connecting
def restore(flags: Flags, file: str) -> None:
    """Put the backup FILE in the place of the database of the gateway on this host, which must not run.

    The backup is checked first, and stays. The database that was there is kept beside the new one, under a
    name that says when; one of an older revision is upgraded when the gateway starts.
    """
    from gateway.cli.where import database, state_directory
    from gateway.errors import StartError, StoreError
    from gateway.runtime import SystemClock
    from gateway.store.backup import restore as put_back

    clock = SystemClock(None)
    mark = time.strftime("-%Y%m%dT%H%M%SZ", time.gmtime(clock.now_ms() / 1000))
    try:
        path, state = database(flags, os.environ), state_directory(flags, os.environ)
        state.ensure()
        state.lock(clock)
        try:
            done = put_back(os.path.abspath(file), path, mark=mark)
        finally:
            state.unlock()
    except (StartError, StoreError) as error:
        raise Failure(str(error)) from None
    if done.kept is not None:
        click.echo(f"kept what was there: {done.kept}")
    click.echo(f"restored {path}: revision {done.revision}")
