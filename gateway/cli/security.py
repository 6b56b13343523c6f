"""The command ``security``: what is open, and how to close it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.common import Failure, Flags, Unreachable, connecting

if TYPE_CHECKING:
    from gateway.cli.audit import Finding

_MARKS = {"danger": "!!", "warning": " !", "ok": "ok"}


@click.command(short_help="Tell what is open to whom, and how to close it.")
@click.option("--json", "raw", is_flag=True, help="Print it as JSON.")
@click.option("--offline", is_flag=True, help="Look at this host's files only.")
@connecting
def security(flags: Flags, raw: bool, offline: bool) -> None:
    """Tell what is open to whom, and how to close it.

    Looks at the configuration that $GATEWAY_CONFIG names, at the state directory, and at the gateway if
    one runs. The exit status is 1 if something is dangerous (marked !!).
    """
    findings, asked = _look(flags, offline=offline)
    if raw:
        from gateway.cli.call import as_json

        click.echo(as_json({"gateway": asked, "findings": [each.row() for each in findings]}))
    else:
        for finding in findings:
            click.echo(_line(finding))
        if not asked:
            click.echo("(no gateway was asked: devices and policies were not looked at)")
    if any(finding.level == "danger" for finding in findings):
        raise click.exceptions.Exit(1)


def _look(flags: Flags, *, offline: bool) -> tuple[list[Finding], bool]:
    from gateway.cli.audit import look_offline
    from gateway.cli.inspect import now_ms
    from gateway.cli.where import state_directory
    from gateway.config import load
    from gateway.errors import ConfigError

    try:
        loaded = load(None, os.environ)
    except ConfigError as error:
        raise Failure(str(error)) from None
    state = state_directory(flags, os.environ)
    findings = look_offline(loaded, state, os.environ, now_ms=now_ms())
    if offline:
        return findings, False
    try:
        return [*findings, *_online(flags)], True
    except Unreachable:
        return findings, False


def _online(flags: Flags) -> list[Finding]:
    from gateway.cli.audit import look_online
    from gateway.cli.session import session
    from gateway.client import RequestFailed

    with session(flags) as connected:
        known = frozenset(connected.hello.methods)

        def ask(method: str) -> Any:
            if method not in known:
                return None
            try:
                return connected.call(method, {})
            except RequestFailed:
                return None  # it may not be asked with these rights

        return look_online(ask)


def _line(finding: Finding) -> str:
    from gateway.cli.tables import one_line

    mend = f"\n     -> {one_line(finding.mend)}" if finding.mend else ""
    return f"{_MARKS[finding.level]}  {finding.check}: {one_line(finding.text)}{mend}"
