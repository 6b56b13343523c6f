"""Which commands of nodes may be used."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.nodecommands import (
    COMMAND_NAME,
    DEFAULTS,
    OPT_IN,
    CommandPolicy,
    is_exec_approvals,
    needs_admin,
    platform_of,
)
from gateway.model import NodeSurface


@pytest.mark.parametrize(
    ("platform", "family", "found"),
    [
        ("iOS 26.0", None, "ios"),
        ("ios", "Android", "ios"),
        ("android", None, "android"),
        ("macOS 15", None, "macos"),
        ("darwin", None, "macos"),
        ("win32", None, "windows"),
        (" Linux ", None, "linux"),
        ("iPadOS 26", "iPad", "ios"),
        ("", "iPhone 17", "ios"),
        (None, "Android phone", "android"),
        ("x", "MacBook", "macos"),
        ("x", "a Windows PC", "windows"),
        ("x", "some linux", "linux"),
        ("x", "watch", "unknown"),
        (None, None, "unknown"),
        ("my-linux", None, "unknown"),
    ],
)
def test_platforms(platform: str | None, family: str | None, found: str) -> None:
    """A platform is told by how its name begins, else by what the device family contains."""
    assert platform_of(platform, family) == found


def test_the_defaults() -> None:
    """The defaults of the platforms are the protocol's: nothing in them needs an opt-in."""
    assert set(DEFAULTS) == {"ios", "android", "macos", "linux", "windows", "unknown"}
    assert DEFAULTS["ios"] - DEFAULTS["android"] == {"system.notify"}
    assert not DEFAULTS["android"] - DEFAULTS["ios"]
    assert DEFAULTS["macos"] - DEFAULTS["android"] == DEFAULTS["linux"] == DEFAULTS["windows"]
    assert DEFAULTS["linux"] == {"system.run", "system.which", "system.notify", "browser.proxy"}
    assert {len(DEFAULTS["android"]), len(DEFAULTS["unknown"])} == {18, 14}
    assert not OPT_IN & frozenset().union(*DEFAULTS.values())
    assert all(COMMAND_NAME.fullmatch(name) for names in DEFAULTS.values() for name in names)


def allowed(
    policy: CommandPolicy, *commands: str, platform: str = "linux", protocol: int = 4
) -> tuple[str, ...]:
    """Return what a policy allows of some commands."""
    return policy.allowed(commands, platform=platform, device_family=None, protocol=protocol)


def test_allow_and_deny() -> None:
    """What is allowed is added to the platform's commands, what is denied is taken from all; deny wins."""
    policy = CommandPolicy(
        frozenset({"camera.snap", "fs.read"}), frozenset({"system.run", "fs.read"})
    )

    assert allowed(policy, "system.which", "system.run", "camera.snap", "fs.read", "zz") == (
        "camera.snap",
        "system.which",
    )


@pytest.mark.parametrize(
    "name",
    [
        "System.run",
        "system.run ",
        " system.run",
        "system.*",
        "system",
        "system.run.x",
        "syst\u0435m.run",
        "",
    ],
)
def test_names_are_whole(name: str) -> None:
    """A name that only looks like an allowed one is not allowed, and what only looks denied is not denied."""
    assert allowed(CommandPolicy(), name) == ()
    assert allowed(CommandPolicy(deny=frozenset({name})), "system.run") == ("system.run",)


def test_the_browser_of_version_4() -> None:
    """A node of protocol 4 may be asked for the browser only where the operator allows it."""
    assert allowed(CommandPolicy(), "browser.proxy", protocol=3) == ("browser.proxy",)
    assert allowed(CommandPolicy(), "browser.proxy") == ()
    assert allowed(CommandPolicy(frozenset({"browser.proxy"})), "browser.proxy") != ()


def test_what_is_offered() -> None:
    """Of what a node declares only commands are filtered, and each is there once."""
    surface = NodeSurface(
        caps=("x",), commands=("system.which", "bogus", "system.run"), permissions=(("p", True),)
    )
    offered = CommandPolicy().offered(surface, platform="linux", device_family=None, protocol=4)

    assert offered == NodeSurface(
        caps=("x",), commands=("system.run", "system.which"), permissions=(("p", True),)
    )


@pytest.mark.parametrize(
    ("command", "admin"),
    [
        ("system.run", True),
        ("system.run.prepare", True),
        ("system.which", False),
        ("system.notify", False),
        ("system.execApprovals.get", True),
        ("fs.read", True),
        ("mcp.tools.call.v1", True),
        ("browser.proxy", True),
        ("camera.snap", False),
        ("fsx.read", False),
    ],
)
def test_admin_commands(command: str, admin: bool) -> None:
    """Commands that run programs, reach files or a browser are for admins."""
    assert needs_admin(command) is admin


def test_exec_approvals() -> None:
    """A node's own approvals are known by how their commands begin."""
    assert is_exec_approvals("system.execApprovals.set")
    assert not is_exec_approvals("system.execApprovals")


@given(st.text(max_size=20), st.sampled_from([*DEFAULTS, "x"]), st.sampled_from([3, 4]))
def test_nothing_else_is_allowed(command: str, platform: str, protocol: int) -> None:
    """Whatever a node declares, only what stands in its platform's list is allowed."""
    found = allowed(CommandPolicy(), command, platform=platform, protocol=protocol)

    assert set(found) <= DEFAULTS[platform_of(platform, None)]


def test_refusals() -> None:
    """A refusal says what keeps a command away, and which key of the configuration is about it."""
    policy = CommandPolicy(deny=frozenset({"system.run"}))
    texts = [
        policy.refusal(command, platform="linux", device_family=None)
        for command in ("system.run", "sms.send", "zz")
    ]

    assert texts == [
        '"system.run" is denied by deny_commands of [nodes] in the configuration',
        '"sms.send" has to be named in allow_commands of [nodes] in the configuration',
        '"zz" is not in the allowlist for platform "linux"',
    ]
