"""``gatewayctl devices``: what asks to be paired, what is; and ``gatewayctl token`` for tokens of devices."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final
from unicodedata import normalize

import click

from gateway.cli.call import RequestError, as_json, ask, refused
from gateway.cli.common import Failure, Flags, connecting
from gateway.cli.inspect import json_option, now_ms
from gateway.cli.tables import one_line, short_ids, span, table, who

_PENDING: Final = ("REQUEST", "AGE", "DEVICE", "NAME", "ROLE", "SCOPES", "CLIENT", "FROM", "KNOWN")
_PAIRED: Final = (
    "DEVICE",
    "NAME",
    "ROLES",
    "SCOPES",
    "CLIENT",
    "PLATFORM",
    "HERE",
    "SEEN",
    "TOKENS",
)
_TOKENS: Final = ("DEVICE", "NAME", "ROLE", "SCOPES", "MADE", "USED", "STATE")
_CELL: Final = 40
_WHY_NOT: Final = {
    "unknown-role": "The device has no such role now: operator or node, as the list says.",
    "scope-not-approved": "The device was not approved for that.",
}

Row = Mapping[str, Any]


@click.group(invoke_without_command=True, short_help="List, approve and remove devices.")
@json_option
@connecting
def devices(flags: Flags, raw: bool) -> None:
    """List devices that ask to be paired and those that are, or decide on them.

    "approve ID" and "reject ID" take the ID of a request or of the device that asks, "revoke ID [ROLE]",
    "remove ID" and "rename ID NAME" that of a device; the beginning is enough, where it fits one.
    """
    context = click.get_current_context()
    context.obj = flags
    if context.invoked_subcommand is None:
        _list(flags, raw)


@devices.command("list")
@json_option
@connecting
def list_(flags: Flags, raw: bool) -> None:
    """List devices that ask to be paired, and those that are."""
    _list(flags, raw)


@devices.command()
@click.argument("wanted", metavar="[ID]", required=False)
@click.option("--latest", is_flag=True, help="What was asked last; at a terminal after a question.")
@json_option
@connecting
def approve(flags: Flags, wanted: str | None, latest: bool, raw: bool) -> None:
    """Pair a device, or give one that is paired more: all that its request says."""
    if (wanted is None) != latest:
        raise click.UsageError("give the ID of a request, or --latest")
    listed = _listed(flags)
    pending = listed["pending"]
    if wanted is not None:
        request = _the_one(pending, wanted, "requestId", "deviceId")
    elif not pending:
        raise Failure('no device asks to be paired: "gatewayctl devices" lists what is')
    else:
        request = max(pending, key=lambda row: row.get("ts", 0))
        _confirm(request, listed["paired"])
    answer = _call(flags, "device.pair.approve", {"requestId": request["requestId"]})
    click.echo(as_json(answer) if raw else f"approved {_described(request)}")


@devices.command()
@click.argument("wanted", metavar="ID")
@connecting
def reject(flags: Flags, wanted: str) -> None:
    """Refuse what a device asks for; it may ask again."""
    request = _the_one(_listed(flags)["pending"], wanted, "requestId", "deviceId")
    _call(flags, "device.pair.reject", {"requestId": request["requestId"]})
    click.echo(f"rejected {_described(request)}")


@devices.command()
@click.argument("wanted", metavar="ID")
@connecting
def remove(flags: Flags, wanted: str) -> None:
    """Forget a device: its tokens end and its connections close."""
    device = find_device(flags, wanted)
    _call(flags, "device.pair.remove", {"deviceId": device["deviceId"]})
    click.echo(f"removed {_named(device)}")


@devices.command()
@click.argument("wanted", metavar="ID")
@click.argument("name")
@connecting
def rename(flags: Flags, wanted: str, name: str) -> None:
    """Give a device a name of your own."""
    device = find_device(flags, wanted)
    _call(flags, "device.pair.rename", {"deviceId": device["deviceId"], "label": name})
    click.echo(f"renamed {device['deviceId']} {one_line(name)}")


@click.command()
@click.argument("wanted", metavar="DEVICE")
@click.argument("role")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    help="What the token is for. [default: all that is approved]",
)
@json_option
@connecting
def rotate(flags: Flags, wanted: str, role: str, scopes: Sequence[str], raw: bool) -> None:
    """Replace the tokens of DEVICE for ROLE (operator or node) by a new one, and print it.

    The old ones end, and the connections of that role close. The token is printed on the gateway's own
    host only; elsewhere it stays secret, and the device gets another one when it is paired anew.
    """
    params: dict[str, Any] = {"deviceId": find_device(flags, wanted)["deviceId"], "role": role}
    if scopes:
        params["scopes"] = [_long(scope) for scope in scopes]
    answer = _call(flags, "device.token.rotate", params)
    if raw:
        click.echo(as_json(answer))
    elif "token" in answer:
        click.echo(answer["token"])
    else:
        click.echo(
            "rotated; the new token is not shown here: run this on the gateway's host", err=True
        )


@click.command()
@click.argument("wanted", metavar="DEVICE")
@click.argument("role", required=False)
@connecting
def revoke(flags: Flags, wanted: str, role: str | None) -> None:
    """End the tokens of DEVICE for ROLE (operator or node), or for each of its roles.

    Its connections of these roles close; they have to be approved anew.
    """
    device = find_device(flags, wanted)
    live = [token["role"] for token in device.get("tokens") or [] if not token.get("revokedAtMs")]
    if role is None and not live:
        raise Failure(f"{_named(device)} has no token that is not revoked")
    for each in live if role is None else [role]:
        _call(flags, "device.token.revoke", {"deviceId": device["deviceId"], "role": each})
        click.echo(f"revoked {one_line(each)} of {_named(device)}")


@click.command("list")
@json_option
@connecting
def list_tokens(flags: Flags, raw: bool) -> None:
    """List what paired devices have tokens for; the tokens themselves are kept by nobody but them."""
    paired, now = _listed(flags)["paired"], now_ms()
    short = short_ids([device["deviceId"] for device in paired])
    found = [
        (name, device, token)
        for name, device in zip(short, paired, strict=True)
        for token in device.get("tokens") or []
    ]
    if raw:
        rows = [{"deviceId": device["deviceId"], **token} for _, device, token in found]
        click.echo(as_json(rows))
    elif not found:
        click.echo("No device has a token.")
    else:
        click.echo(table(_TOKENS, [_token_line(*each, now) for each in found]))


devices.add_command(revoke)


def find_device(flags: Flags, wanted: str) -> Row:
    """Return the paired device whose id begins so. Raises Failure."""
    return _the_one(_listed(flags)["paired"], wanted, "deviceId")


def _list(flags: Flags, raw: bool) -> None:
    listed = _listed(flags)
    if raw:
        click.echo(as_json(listed))
        return
    pending, paired, now = listed["pending"], listed["paired"], now_ms()
    # Told apart from all others: the beginning of an id can be made to look like another's.
    ids = [row["deviceId"] for row in (*pending, *paired)]
    short = dict(zip(ids, short_ids(ids), strict=True))
    if pending:
        names = short_ids([row["requestId"] for row in pending])
        rows = [
            _request_line(name, short[row["deviceId"]], row, paired, now)
            for name, row in zip(names, pending, strict=True)
        ]
        click.echo("Waiting (gatewayctl devices approve ID):")
        click.echo(table(_PENDING, rows) + "\n")
    if not paired:
        click.echo("No device is paired.")
        return
    rows = [_device_line(short[row["deviceId"]], row, now) for row in paired]
    click.echo(table(_PAIRED, rows))


def _request_line(name: str, device: str, row: Row, paired: Sequence[Row], now: int) -> list[str]:
    return [
        one_line(name),
        span(now - row["ts"]),
        one_line(device),
        _cell(row.get("displayName")),
        one_line(",".join(row.get("roles") or [row.get("role", "")])),
        one_line(_short(row.get("scopes", []))),  # all of them: who approves grants all
        _cell(row.get("clientId")),
        _cell(row.get("remoteIp") or "here"),
        _known(row, paired),
    ]


def _known(row: Row, paired: Sequence[Row]) -> str:
    """Say whether who asks is paired, and what of it an operator has not approved; what is odd first."""
    own = next((each for each in paired if each["deviceId"] == row["deviceId"]), None)
    if own is None:
        if row.get("isRepair"):
            return "paired"
        name = _folded(row)
        like = next((each["deviceId"] for each in paired if name and _folded(each) == name), None)
        return f"new, but {one_line(like[:8])} has that name" if like else "new"
    for fact in ("platform", "deviceFamily"):
        was, now = (one_line(each.get(fact) or "", _CELL) for each in (own, row))
        if was and now and was.lower() != now.lower():
            return f"paired as {was}, now {now}"
    wanted, ended = set(row.get("roles") or [row.get("role", "")]), _ended(own)
    if wanted & set(ended):
        return "paired, but revoked"
    return "paired" if wanted <= set(own.get("roles", [])) else "paired, as another role"


def _folded(row: Row) -> str:
    """Return a name as it reads: width, ligatures and case make no other name."""
    return normalize("NFKC", one_line(row.get("displayName") or "")).casefold()


def _ended(row: Row) -> list[str]:
    return [token["role"] for token in row.get("tokens") or [] if token.get("revokedAtMs")]


def _device_line(name: str, row: Row, now: int) -> list[str]:
    ended = _ended(row)
    return [
        one_line(name),
        _cell(row.get("displayName")),
        one_line(",".join(row.get("roles", []))),
        one_line(_short(row.get("scopes", []))),
        _cell(row.get("clientId")),
        _cell(row.get("platform")),
        "yes" if row.get("connected") else "",
        _ago(row.get("lastSeenAtMs"), now),
        f"revoked: {_cell(','.join(ended))}" if ended else "",
    ]


def _token_line(name: str, device: Row, token: Row, now: int) -> list[str]:
    made = token.get("rotatedAtMs") or token.get("createdAtMs")
    used, ended = token.get("lastUsedAtMs"), token.get("revokedAtMs")
    return [
        one_line(name),
        _cell(device.get("displayName")),
        one_line(token["role"]),
        one_line(_short(token.get("scopes", []))),
        _ago(made, now),
        _ago(used, now),
        "" if ended is None else f"revoked {_ago(ended, now)}",
    ]


def _ago(moment: int | None, now: int) -> str:
    return "" if moment is None else f"{span(now - moment)} ago"


def _confirm(request: Row, paired: Sequence[Row]) -> None:
    """Show who asks; at a terminal, ask whether it is meant. Raises Failure."""
    known = _known(request, paired)
    click.echo(f"{_described(request)} asks to be paired ({known})", err=True)
    if sys.stdin.isatty() and not click.confirm("Approve it?", err=True):
        raise Failure("not approved")


def _the_one(rows: Sequence[Row], wanted: str, *keys: str) -> Row:
    """Return the row that one of its ids, or the beginning of one, names. Raises Failure."""
    wanted = wanted.strip()
    if not wanted:
        raise click.UsageError("ID must not be empty")
    exact = [row for row in rows if wanted in (row[key] for key in keys)]
    found = exact or [row for row in rows if any(row[key].startswith(wanted) for key in keys)]
    if len(found) == 1:
        return found[0]
    if found:
        raise Failure(f"{wanted} is the beginning of {len(found)} ids: give more of it")
    what = "paired device" if keys == ("deviceId",) else "request"
    raise Failure(f'no {what} begins with {wanted}: "gatewayctl devices" lists them')


def _described(request: Row) -> str:
    """Say who asks for what, in one line."""
    roles = ",".join(request.get("roles") or [request.get("role", "")])
    scopes = _short(request.get("scopes", []))
    origin = f" from {request['remoteIp']}" if request.get("remoteIp") else ""
    wants = f"{roles} ({scopes})" if scopes else roles
    return one_line(f"{_named(request)}{origin} as {wants}")


def _named(row: Row) -> str:
    return who(row.get("displayName") or row.get("clientId"), row["deviceId"])


def _short(scopes: Sequence[str]) -> str:
    return ",".join(scope.removeprefix("operator.") for scope in scopes)


def _long(scope: str) -> str:
    return scope if scope.startswith("operator.") else f"operator.{scope}"


def _cell(value: Any) -> str:
    return "" if value is None else one_line(value, _CELL)


def _listed(flags: Flags) -> dict[str, Any]:
    listed: dict[str, Any] = _call(flags, "device.pair.list", {})
    return listed


def _call(flags: Flags, method: str, params: dict[str, Any]) -> Any:
    try:
        return ask(flags, method, params)
    except RequestError as error:
        details = error.details if isinstance(error.details, Mapping) else {}
        hint = details.get("remediation") or _WHY_NOT.get(str(details.get("reason")))
        raise refused(method, error, hint) from None
