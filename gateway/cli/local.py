"""Commands that need no gateway, ``token`` and ``config``; tokens of devices are the gateway's to change."""

from __future__ import annotations

import os
from pathlib import Path

import click

from gateway.cli.common import Failure, Flags, connecting
from gateway.cli.devices import list_tokens, revoke, rotate


@click.group(invoke_without_command=True)
@click.option("--show", is_flag=True, help="Print the token itself.")
@connecting
def token(flags: Flags, show: bool) -> None:
    """Print where the token of the gateway on this host lies; with --show, the token.

    "list", "rotate DEVICE ROLE" and "revoke DEVICE [ROLE]" are for the tokens of paired devices.
    """
    context = click.get_current_context()
    context.obj = flags
    if context.invoked_subcommand is None:
        _own_token(flags, show)


token.add_command(list_tokens)
token.add_command(rotate)
token.add_command(revoke)


def _own_token(flags: Flags, show: bool) -> None:
    from gateway.cli.where import local_token
    from gateway.errors import StartError

    try:
        found = local_token(flags, os.environ)
    except StartError as error:
        raise Failure(str(error)) from None
    if found is None:
        raise Failure("the configuration asks for no token (auth.mode)")
    if found.hashed and show:
        raise Failure(f"{found.source}: only the hash is kept; whoever chose it knows the password")
    if found.value is None and not found.hashed:
        raise Failure(f"no token at {found.source} yet: the gateway makes one when it first starts")
    click.echo(found.value if show else found.source)


@click.group()
def config() -> None:
    """Check a configuration, or print one to start from."""


@config.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
def check(file: Path | None) -> None:
    """Check FILE, or the configuration that $GATEWAY_CONFIG names: one line per problem.

    The exit status is 1 if there is any. What an agent lacks on this host alone (a program, a key, a
    library) is a warning.
    """
    from gateway.cli.checks import problems

    found, warnings, name = problems(file, os.environ)
    for line in warnings:
        click.echo(f"warning: {line}", err=True)
    for line in found:
        click.echo(line, err=True)
    if found:
        raise click.exceptions.Exit(1)
    click.echo(f"{name}: ok")


@config.command()
def default() -> None:
    """Print the default configuration as TOML, every key with what it means."""
    from gateway.config import default_toml

    click.echo(default_toml(), nl=False)
