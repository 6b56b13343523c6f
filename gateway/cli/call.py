"""Commands that ask the gateway one thing: ``call`` and ``methods``."""

from __future__ import annotations

import sys
from typing import IO, TYPE_CHECKING, Any, Final

import click

from gateway.cli.common import Failure, Flags, connecting

if TYPE_CHECKING:
    from gateway.cli.session import Session


class RequestError(click.ClickException):
    """Ends the command with the error of an answer, as JSON on stderr."""

    exit_code = 1

    def __init__(self, code: str, message: str, details: Any) -> None:
        super().__init__(message)
        self.details = details
        self._shape = {"code": code, "message": message, "details": details}

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it."""
        click.echo(as_json(self._shape), file=file or sys.stderr)


@click.command(short_help="Call a method and print its payload as JSON.")
@click.argument("method")
@click.argument("params", metavar="[JSON]", required=False)
@click.option(
    "--expect-final",
    is_flag=True,
    help="Wait for the outcome where the first answer only says that the request is accepted.",
)
@click.option(
    "--timeout",
    type=float,
    metavar="SECONDS",
    help="How long to wait for the answer. [default: 30; no limit with --expect-final]",
)
@connecting
def call(
    flags: Flags, method: str, params: str | None, expect_final: bool, timeout: float | None
) -> None:
    """Call METHOD with the params JSON and print the payload of the answer.

    The payload is printed as indented JSON with its keys in the order received; "-" as JSON reads the
    params from standard input. An error of the gateway is printed as {code, message, details} on
    stderr, with exit status 1; without a connection the exit status is 2.
    """
    value = parse_params(params)
    if timeout is not None and not timeout > 0:
        raise click.UsageError("--timeout must be more than 0 seconds")
    payload = ask(flags, method, value, expect_final=expect_final, timeout=timeout)
    click.echo(as_json(payload))


FROM_THE_HOST: Final = (
    "Run this on the gateway's host, by its loopback address (--url ws://127.0.0.1:PORT)."
)


def refused(method: str, error: RequestError, hint: str | None = None) -> Failure:
    """Say that the gateway refused, why, and what mends it: the hint, or where the right is held."""
    text = f"the gateway refused {method}: {error.message}"
    if hint is None and error.message.startswith("missing scope"):
        hint = FROM_THE_HOST
    return Failure(f"{text}. {hint}" if hint else text)


def ask(
    flags: Flags,
    method: str,
    params: dict[str, Any] | None = None,
    *,
    caps: tuple[str, ...] = (),
    **how: Any,
) -> Any:
    """Call a method on a connection of its own; return the payload. Raises RequestError."""
    from gateway.cli.session import session

    with session(flags, caps) as connected:
        return asked(connected, method, params, **how)


def asked(
    connected: Session,
    method: str,
    params: dict[str, Any] | None,
    *,
    expect_final: bool = False,
    timeout: float | None = None,
) -> Any:
    """Call a method on an open connection; return the payload. Raises RequestError."""
    from gateway.client import RequestFailed, RequestNotSent, RequestTimeout

    try:
        return connected.call(method, params, expect_final=expect_final, timeout=timeout)
    except RequestFailed as error:
        raise RequestError(error.code, error.message, error.details) from None
    except RequestTimeout as error:
        raise RequestError("TIMEOUT", str(error), None) from None
    except RequestNotSent as error:
        raise RequestError("NOT_SENT", str(error), None) from None


@click.command()
@connecting
def methods(flags: Flags) -> None:
    """List the methods that the gateway offers, one a line."""
    from gateway.cli.session import session

    with session(flags) as connected:
        names = connected.hello.methods
    for name in names:
        click.echo(name)


def parse_params(text: str | None) -> dict[str, Any] | None:
    """Read the params of a call: an object, or nothing. Raises UsageError, without the text itself."""
    if text is None:
        return None
    from gateway.core import frames

    raw = text.encode("utf-8", "surrogateescape")
    if text == "-":
        raw = click.open_file("-", "rb").read()
    try:
        value = frames.decode(raw)
    except frames.NotJson as error:
        raise click.UsageError(f"the params are not JSON: {error}") from None
    if value is not None and not isinstance(value, dict):
        raise click.UsageError("the params must be a JSON object, such as '{\"limit\": 5}'")
    return value


def as_json(value: Any) -> bytes:
    """Return a payload as indented JSON."""
    import msgspec

    from gateway.core import frames

    return msgspec.json.format(frames.encode(value), indent=2)
