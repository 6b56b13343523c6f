"""Which commands of nodes may be used at all: by platform, and by what the operator allows and denies.

A command is allowed if it is one of its platform's, or named by ``[nodes] allow_commands``, and not
named by ``deny_commands``. Names are compared whole and as they are written: there are no patterns, so
that no name can be made to fit one. What is not listed is not allowed, whatever a node declares: so it
is for commands that reach far into a machine (``fs.*``, ``terminal.*``, ``mcp.*`` ...), or that take
something of a person's (``camera.snap``, ``sms.send`` ...).

The platforms and their commands are the protocol's (version 3). ``browser.proxy`` is one of them for
nodes of version 3 only; those of version 4 need a policy for it, which ``allow_commands`` is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from gateway.model import NodeSurface

COMMAND_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+)*")
"""What the name of a command looks like."""

MAX_COMMAND_CHARS: Final = 128

_CANVAS: Final = frozenset(
    f"canvas.{name}"
    for name in (
        "present",
        "hide",
        "navigate",
        "eval",
        "snapshot",
        "a2ui.push",
        "a2ui.pushJSONL",
        "a2ui.reset",
    )
)
_MOBILE: Final = _CANVAS | {
    "camera.list",
    "location.get",
    "device.info",
    "device.status",
    "contacts.search",
    "calendar.events",
    "reminders.list",
    "photos.latest",
    "motion.activity",
    "motion.pedometer",
}
_BROWSER: Final = "browser.proxy"
_SYSTEM: Final = frozenset({"system.run", "system.which", "system.notify", _BROWSER})

DEFAULTS: Final[dict[str, frozenset[str]]] = {
    "ios": _MOBILE | {"system.notify"},
    "android": _MOBILE,
    "macos": _MOBILE | _SYSTEM,
    "linux": _SYSTEM,
    "windows": _SYSTEM,
    "unknown": _CANVAS | _SYSTEM | {"camera.list", "location.get"},
}
"""The commands of each platform that need no word of the operator."""

OPT_IN: Final = frozenset(
    {
        "camera.snap",
        "camera.clip",
        "screen.record",
        "sms.send",
        "contacts.add",
        "calendar.add",
        "reminders.add",
    }
)
"""Known commands of people's devices that only ``allow_commands`` allows."""

_PREFIXES: Final = (
    ("ios", "ios"),
    ("android", "android"),
    ("mac", "macos"),
    ("darwin", "macos"),
    ("win", "windows"),
    ("linux", "linux"),
)
_FAMILIES: Final = (
    ("iphone", "ios"),
    ("ipad", "ios"),
    ("ios", "ios"),
    ("android", "android"),
    ("mac", "macos"),
    ("windows", "windows"),
    ("linux", "linux"),
)

_ADMIN_COMMANDS: Final = frozenset({"system.run", "system.run.prepare"})
_ADMIN_FAMILIES: Final = frozenset(
    {"browser", "desktop", "dir", "file", "fs", "mcp", "terminal", "workspace"}
)
_EXEC_APPROVALS: Final = "system.execApprovals."


def platform_of(platform: str | None, device_family: str | None) -> str:
    """Return a platform of :data:`DEFAULTS`: by how ``client.platform`` begins, else by the device family."""
    text = (platform or "").strip().lower()
    for prefix, found in _PREFIXES:
        if text.startswith(prefix):
            return found
    family = (device_family or "").strip().lower()
    for part, found in _FAMILIES:
        if part in family:
            return found
    return "unknown"


def is_exec_approvals(command: str) -> bool:
    """Whether a command reads or writes a node's own approvals, which have methods of their own."""
    return command.startswith(_EXEC_APPROVALS)


def needs_admin(command: str) -> bool:
    """Whether a command runs programs, reaches files or a browser: only ``operator.admin`` may do that."""
    family = command.partition(".")[0]
    return command in _ADMIN_COMMANDS or family in _ADMIN_FAMILIES or is_exec_approvals(command)


@dataclass(frozen=True, slots=True)
class CommandPolicy:
    """What the table ``[nodes]`` of the configuration says about commands."""

    allow: frozenset[str] = frozenset()
    deny: frozenset[str] = frozenset()

    def allows(
        self, command: str, *, platform: str | None, device_family: str | None, protocol: int
    ) -> bool:
        """Whether a node of this platform and protocol version may be asked for a command."""
        if command in self.deny:
            return False
        if command in self.allow:
            return True
        if command == _BROWSER and protocol >= 4:
            return False
        return command in DEFAULTS[platform_of(platform, device_family)]

    def allowed(
        self,
        commands: Iterable[str],
        *,
        platform: str | None,
        device_family: str | None,
        protocol: int,
    ) -> tuple[str, ...]:
        """Return those of a node's commands that are allowed, sorted, each once."""
        return tuple(
            sorted(
                command
                for command in set(commands)
                if self.allows(
                    command,
                    platform=platform,
                    device_family=device_family,
                    protocol=protocol,
                )
            )
        )

    def offered(
        self,
        surface: NodeSurface,
        *,
        platform: str | None,
        device_family: str | None,
        protocol: int,
    ) -> NodeSurface:
        """Return what a node declared, without the commands that are not allowed."""
        return NodeSurface(
            caps=surface.caps,
            commands=self.allowed(
                surface.commands, platform=platform, device_family=device_family, protocol=protocol
            ),
            permissions=surface.permissions,
        )

    def refusal(self, command: str, *, platform: str | None, device_family: str | None) -> str:
        """Return why a command is not allowed, in words for people."""
        if command in self.deny:
            return f'"{command}" is denied by deny_commands of [nodes] in the configuration'
        if command in OPT_IN:
            return f'"{command}" has to be named in allow_commands of [nodes] in the configuration'
        name = platform_of(platform, device_family)
        return f'"{command}" is not in the allowlist for platform "{name}"'
