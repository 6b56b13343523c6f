"""What may be asked of a node: every reason to refuse before anything leaves the gateway."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec import UNSET

from gateway.app.context import Caller
from gateway.app.nodedirectory import NodeDirectory
from gateway.app.nodes import NodeSession, not_ready
from gateway.core.frames import EncodeFailed, encode
from gateway.core.invocation import Ask, not_allowed, not_connected, pairing_changed
from gateway.core.nodecommands import CommandPolicy, is_exec_approvals, platform_of
from gateway.errors import GatewayError, InvalidRequest
from gateway.interfaces import IEntropy
from gateway.limits import LimitsConfig

SYSTEM_RUN = "system.run"

SystemRun = Callable[[Caller, str, Mapping[str, Any]], Mapping[str, Any]]
"""Takes who asks, the node's id and the params of ``system.run``; returns the params that may be sent.

Raises InvalidRequest.
"""


class NodeGate:
    """Judges requests for nodes."""

    def __init__(
        self,
        *,
        policy: CommandPolicy,
        directory: NodeDirectory,
        entropy: IEntropy,
        limits: LimitsConfig,
        system_run: SystemRun,
    ) -> None:
        self._policy = policy
        self._directory = directory
        self._entropy = entropy
        self._limits = limits
        self.system_run = system_run

    async def absent(self, caller: Caller, node_id: str) -> GatewayError:
        """Return why a node that is not connected can not be asked."""
        if caller.protocol >= 4 and not await self._directory.knows(node_id):
            return pairing_changed()
        return not_connected(caller.protocol)

    def check(self, session: NodeSession, command: str) -> None:
        """Raise InvalidRequest for a command that a node may not be asked for.

        Raises Unavailable for one that it may perhaps be asked for in a moment.
        """
        client = session.caller.client
        if self._follows_run(session, command):
            if command in session.caller.surface.commands:
                return
            shown = platform_of(client.platform, client.device_family)
            text = f'the node (platform: {shown}) does not support "{command}"'
            raise not_allowed(command, "command not declared by node", text)
        if not self._policy.allows(
            command,
            platform=client.platform,
            device_family=client.device_family,
            protocol=session.caller.protocol,
        ):
            text = self._policy.refusal(
                command, platform=client.platform, device_family=client.device_family
            )
            raise not_allowed(command, "command not allowlisted", text)
        if command in session.live.commands:
            return
        shown = platform_of(client.platform, client.device_family)
        if command in session.offered.commands:
            if session.deciding:
                raise not_ready()
            text = f'"{command}" waits for approval: gatewayctl nodes approve'
            raise not_allowed(command, "command not approved", text)
        if not session.caller.surface.commands:
            text = f"the node (platform: {shown}) did not declare any commands"
            raise not_allowed(command, "node did not declare commands", text)
        text = f'the node (platform: {shown}) does not support "{command}"'
        raise not_allowed(command, "command not declared by node", text)

    def _follows_run(self, session: NodeSession, command: str) -> bool:
        """Whether a command needs no word of its own, since the node may be asked to run programs.

        It is asked for by ``exec.approvals.node.*`` alone: :func:`check_command` keeps others from it.
        """
        denied = command in self._policy.deny
        return is_exec_approvals(command) and not denied and SYSTEM_RUN in session.live.commands

    def params(self, caller: Caller, session: NodeSession, ask: Ask) -> tuple[Any, str | None]:
        """Return the params as a node gets them, and their JSON text. Raises InvalidRequest.

        UNSET and None where there are none; those of ``system.run`` are a mapping.
        """
        params = ask.params
        if ask.command == SYSTEM_RUN:
            params = {} if params is UNSET else params
            self._sized(params)  # what is too large anyway uses up no approval
            params = self._run_params(caller, session, params)
        elif params is UNSET:
            return UNSET, None
        return params, self._sized(params).decode()

    def _sized(self, params: Any) -> bytes:
        """Return params as JSON text. Raises InvalidRequest for too much of it, and for too deep."""
        try:
            text = encode(params)
        except EncodeFailed as error:  # it was read with a little more room on the stack
            raise too_deep() from error
        if len(text) > self._limits.node_params_bytes:
            raise InvalidRequest(
                f"the params have more than {self._limits.node_params_bytes} bytes",
                details={"code": "PAYLOAD_TOO_LARGE", "maxBytes": self._limits.node_params_bytes},
            )
        return text

    def _run_params(self, caller: Caller, session: NodeSession, params: Any) -> Any:
        if not isinstance(params, Mapping):
            raise InvalidRequest("the params of system.run must be an object")
        allowed = self.system_run(caller, session.node_id, params)
        if session.caller.protocol >= 4 and not allowed.get("runId"):
            return {**allowed, "runId": self._entropy.uuid4()}
        return allowed


def too_deep() -> InvalidRequest:
    """Refuse params that could be read, but can not be written again."""
    return InvalidRequest("invalid node.invoke params: at /params: nested too deeply")


def check_command(command: str) -> None:
    """Raise InvalidRequest for what ``node.invoke`` takes of no node."""
    if not command.strip():
        raise not_allowed(command, "command required", "a command is required")
    if is_exec_approvals(command):
        raise InvalidRequest(
            "node.invoke does not allow system.execApprovals.*; use exec.approvals.node.*",
            details={"command": command[:128]},
        )
