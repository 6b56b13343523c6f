"""gatewayctl: talk to a gateway from the command line.

One module per group of commands. Modules import click at their top and everything heavier inside the
command that needs it, so that ``--help`` and the commands that do not connect start at once.

Exit status: 0 done; 1 the gateway answered with an error, or what was checked is wrong; 2 no
connection, or a command line that makes no sense; 130 interrupted.
"""

from __future__ import annotations

from typing import Any

import click

import gateway
from gateway.cli.agents import agents
from gateway.cli.approvals import approvals
from gateway.cli.call import call, methods
from gateway.cli.chat import chat
from gateway.cli.common import Flags, Interrupted, connection_options
from gateway.cli.devices import devices
from gateway.cli.inspect import connections, runs, why
from gateway.cli.local import config, token
from gateway.cli.maintenance import backup, drain, restore
from gateway.cli.nodepairing import COMMANDS as NODE_PAIRING
from gateway.cli.nodes import nodes
from gateway.cli.pair import pair
from gateway.cli.policy import policy
from gateway.cli.secrets import hash_password, secret
from gateway.cli.security import security


class _Group(click.Group):
    """A group whose commands end quietly on Ctrl-C."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted from None


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(gateway.__version__, prog_name="gatewayctl")
@connection_options
@click.pass_context
def cli(ctx: click.Context, /, **flags: str | None) -> None:
    """Talk to a gateway.

    On the gateway's own host no option is needed: address and token are those of the configuration
    that $GATEWAY_CONFIG names, or else the defaults. The connection options may stand before or
    after the command.
    """
    ctx.obj = Flags(**flags)


for _command in (
    approvals,
    agents,
    backup,
    call,
    chat,
    config,
    connections,
    devices,
    drain,
    hash_password,
    methods,
    nodes,
    pair,
    restore,
    runs,
    secret,
    security,
    token,
    why,
):
    cli.add_command(_command)
approvals.add_command(policy)


for _name, _command in NODE_PAIRING.items():
    nodes.add_command(_command, _name)


def main() -> None:
    """Run the command line; the console script."""
    cli(prog_name="gatewayctl")
