"""Commands for the shared secret: ``secret rotate`` and ``hash-password``."""

from __future__ import annotations

import os
import sys

import click

from gateway.cli.common import Failure, Flags, connecting


@click.group()
def secret() -> None:
    """Change the secret that clients share with the gateway."""


@secret.command()
@connecting
def rotate(flags: Flags) -> None:
    """Put a new token in the place of the state directory's own.

    A gateway that runs takes it within five seconds and closes what came in with the old one. Paired
    devices keep their own tokens. "gatewayctl token --show" prints the new one.
    """
    from gateway.cli.where import local_token, state_directory
    from gateway.errors import StartError
    from gateway.runtime import SystemEntropy

    try:
        found = local_token(flags, os.environ)
        state = state_directory(flags, os.environ)
        if found is None or found.source != str(state.token):
            where = "nowhere: none is asked for" if found is None else f"at {found.source}"
            raise Failure(
                f"the secret is not the state directory's: it lies {where}; change it there"
            )
        if found.value is None:
            raise Failure(
                f"no token at {state.token} yet: the gateway makes one when it first starts"
            )
        state.rotate_token(SystemEntropy())
    except StartError as error:
        raise Failure(str(error)) from None
    click.echo(f"{state.token}: a new token; clients need it within five seconds")


@click.command("hash-password")
def hash_password() -> None:
    """Read a password and print its hash for auth.password.

    It is asked for twice on a terminal, else it is the first line of the standard input.
    """
    stdin = sys.stdin
    if stdin.isatty():
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    else:
        password = stdin.readline().rstrip("\r\n")
    if not password:
        raise Failure("no password was given")
    from gateway.app import passwords

    click.echo(passwords.hash_password(password))
