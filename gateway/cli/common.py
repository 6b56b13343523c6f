"""What the commands share: the connection options, and how a command ends without success."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any

import click


@dataclass(frozen=True, slots=True)
class Flags:
    """The connection options as given, none of them resolved."""

    url: str | None = None
    token: str | None = field(default=None, repr=False)
    token_file: str | None = None
    state_dir: str | None = None
    identity: str | None = None

    def over(self, other: Flags) -> Flags:
        """Return these options, completed by others. A token and a token file exclude each other."""
        credential = other if self.token is None and self.token_file is None else self
        return Flags(
            self.url or other.url,
            credential.token,
            credential.token_file,
            self.state_dir or other.state_dir,
            self.identity or other.identity,
        )


class Failure(click.ClickException):
    """Ends the command: one line on stderr."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(printable(message).replace("\n", " "))

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the line."""
        click.echo(f"gatewayctl: {self.message}", file=file or sys.stderr)


class Unreachable(Failure):
    """Ends the command: no gateway to talk to."""

    exit_code = 2


class NobodyListens(Unreachable):
    """Ends the command: the address is free, or its gateway takes no more connections."""


class Interrupted(click.ClickException):
    """Ends the command after Ctrl-C."""

    exit_code = 130

    def __init__(self) -> None:
        super().__init__("interrupted")

    def show(self, file: IO[Any] | None = None) -> None:
        """Print nothing: whoever pressed the keys knows."""


def printable(text: str) -> str:
    """Return text without what could steer a terminal: control characters but newline and tab."""
    if text.isprintable():
        return text
    kept = (c if c in "\n\t" or not _is_control(c) else "\ufffd" for c in text)
    return "".join(kept)


def _is_control(char: str) -> bool:
    return char < " " or "\x7f" <= char <= "\x9f"


def connection_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say which gateway, and by what right."""
    options = (
        click.option(
            "--url",
            metavar="URL",
            help="ws:// or wss:// address of the gateway. [env: GATEWAY_URL]",
        ),
        click.option(
            "--token",
            metavar="TOKEN",
            help="Shared token or password. Others can see it in the list of processes:"
            " prefer --token-file. [env: GATEWAY_TOKEN]",
        ),
        click.option("--token-file", metavar="FILE", help="File that holds the token."),
        click.option(
            "--state-dir",
            metavar="DIR",
            help="State directory of the gateway on this host. [env: GATEWAY_STATE_DIR]",
        ),
        click.option(
            "--identity",
            metavar="FILE",
            help="Device key that this command is known by at gateways elsewhere; made if there is none."
            " [env: GATEWAY_IDENTITY]",
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


def connecting(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a command take the connection options, and hand it Flags as its first argument."""

    @connection_options
    @click.pass_context
    @functools.wraps(function)
    def command(
        ctx: click.Context,
        /,
        url: str | None,
        token: str | None,
        token_file: str | None,
        state_dir: str | None,
        identity: str | None,
        **rest: Any,
    ) -> Any:
        given = Flags(url, token, token_file, state_dir, identity)
        outer = ctx.find_object(Flags) or Flags()
        return function(given.over(outer), **rest)

    return command
