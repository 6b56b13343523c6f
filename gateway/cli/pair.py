"""``gatewayctl pair``: a setup code for a new device, and the use of one."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from gateway.cli.call import FROM_THE_HOST, RequestError, as_json, asked
from gateway.cli.common import Failure, Flags, connecting
from gateway.cli.inspect import json_option, now_ms
from gateway.cli.tables import one_line, span, who

if TYPE_CHECKING:
    from gateway.cli.session import Session

ROLES: Final = ("limited", "full", "node", "operator", "voice-node")
POLL_S: Final = 0.25
_MEANING: Final = {
    "full": "an admin, and a node",
    "limited": "a client that may read, write and answer approvals, and a node",
    "node": "a node",
    "operator": "an admin",
    "voice-node": "a node that may also read and talk",
}


@click.command(short_help="Make a setup code for a new device, or use one.")
@click.option(
    "--role",
    type=click.Choice(ROLES),
    default=None,
    show_default="limited",
    help="What the device becomes: limited (a phone), full (a phone that is admin), node, voice-node,"
    " operator (another command line, or a web page).",
)
@click.option(
    "--public-url",
    metavar="URL",
    help="Address that the device finds the gateway at. [default: --url, or where it listens]",
)
@click.option("--qr/--no-qr", default=None, help="Draw the code. [default: at a terminal]")
@click.option(
    "--link",
    is_flag=True,
    help="Print a link, which one node can open once: openclaw connect LINK.",
)
@click.option("--wait", is_flag=True, help="Wait until it was used; Ctrl-C ends the waiting only.")
@click.option("--use", "code", metavar="CODE", help='Pair this command line; "-" reads the code.')
@json_option
@connecting
def pair(
    flags: Flags,
    role: str | None,
    public_url: str | None,
    qr: bool | None,
    link: bool,
    wait: bool,
    code: str | None,
    raw: bool,
) -> None:
    """Print a setup code: whoever has it is paired with no question asked, once, for ten minutes.

    A phone scans it; on another machine "gatewayctl pair --use CODE" takes it, and from then on
    "gatewayctl --url URL" works there without a token.
    """
    if code is not None:
        use(flags, code)
        return
    from gateway.cli.reach import reachable_url
    from gateway.cli.session import session

    if link and role not in (None, "node"):
        raise Failure('a link is for a node: leave out "--role"')
    role = role or ("node" if link else "limited")
    params = {
        "publicUrl": public_url or reachable_url(flags, os.environ),
        "bootstrapProfile": role,
        "includeQr": False,  # it is drawn here
    } | ({"joinUrl": True} if link else {})
    with session(flags) as connected:
        try:
            made = asked(connected, "device.pair.setupCode", params)
        except RequestError as error:
            hint = f". {FROM_THE_HOST}" if error.message.startswith("missing scope") else ""
            raise Failure(f"no setup code was made: {error.message}{hint}") from None
        drawn = sys.stdout.isatty() and not link if qr is None else qr
        click.echo(as_json(made) if raw else _shown(made, role, qr=drawn))
        if wait:
            _wait(connected, made)


def use(flags: Flags, code: str) -> None:
    """Pair this command line by a setup code. Raises Failure and Unreachable."""
    import msgspec

    from gateway.cli.identity import FileTokens, identity_path, load_identity
    from gateway.cli.session import connected
    from gateway.cli.where import Target
    from gateway.client import ClientOptions, Credentials, client_info
    from gateway.core.setupcode import PROFILES, InvalidSetupCode, decode_setup_code

    try:
        setup = decode_setup_code(click.open_file("-").read() if code == "-" else code)
    except InvalidSetupCode as error:
        raise Failure(f'{error}: "gatewayctl pair" on the gateway\'s host prints one') from None
    profile = PROFILES.get(setup.profile or "")
    if profile is not None and "operator" not in profile.roles:
        raise Failure('the code is for a node: use it there, or make one with "--role operator"')
    url = flags.url or setup.url
    path = identity_path(flags, os.environ)
    tokens = FileTokens.beside(path, url)
    tokens.scopes = () if profile is None else profile.scopes
    options = ClientOptions(
        client=msgspec.structs.replace(
            client_info("cli", "cli"), display_name=socket.gethostname()
        ),
        credentials=Credentials(bootstrap_token=setup.secret),
        device=load_identity(path),
        tokens=tokens,
        scopes=tokens.scopes,
    )
    with connected(Target(url, None), options) as paired:
        scopes = paired.hello.scopes or tokens.scopes
    click.echo(f"paired with {one_line(url)}: {', '.join(scopes) or 'no scopes'}")
    click.echo(f"Now: gatewayctl --url {one_line(url)} chat", err=True)


def _shown(made: Mapping[str, Any], role: str, *, qr: bool) -> str:
    left = span(made["expiresAtMs"] - now_ms())
    shown = made.get("joinUrl") or made["setupCode"]
    lines = [_drawn(shown)] if qr else []
    lines += [
        one_line(shown),
        "",
        f"For one device, which becomes {_MEANING[role]} at {one_line(made['gatewayUrl'])}; good for {left}.",
        f"Who has this {'link' if 'joinUrl' in made else 'code'} comes in with it: show it to nobody else.",
    ]
    return "\n".join(lines)


def _drawn(code: str) -> str:
    """Return a QR code as text."""
    from io import StringIO

    import segno

    drawing = StringIO()
    segno.make(code, error="l", micro=False).terminal(drawing, compact=True, border=2)
    return drawing.getvalue()


def _wait(connected: Session, made: Mapping[str, Any]) -> None:
    """Wait until the code was used. Raises Failure when its time is over."""
    while True:
        try:
            status = asked(connected, "device.pair.setupStatus", {"setupId": made["setupId"]})
        except RequestError as error:
            raise Failure(f"whether the code is used is not known: {error.message}") from None
        used = status.get("completion") or status.get("deliveryUncertain")
        if used:
            name = used.get("deviceName")
            device = used["deviceId"]
            click.echo(f"paired {who(name, device) if name else one_line(device)}")
            return
        if now_ms() >= made["expiresAtMs"]:
            raise Failure('nobody used the setup code in time: "gatewayctl pair" makes another')
        time.sleep(POLL_S)
