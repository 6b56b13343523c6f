"""How many files and sockets the process may have open, and how many of them strangers may hold."""

from __future__ import annotations

import resource
from typing import Final

import msgspec

from gateway.config import LoadedConfig

SHARE: Final = 3
"""Strangers hold at most one of so many descriptors: clients, agents and the store need the others."""
ENOUGH: Final = 1_048_576
"""What is asked for where the system sets no limit."""


def raise_limit() -> int:
    """Let the process open as much as the system lets it, and return how much that is.

    Where nobody says otherwise the soft limit is 1,024 for the sake of programs that call select(2), while
    the hard one is far above it. Agents are started with a limit of their own.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return ENOUGH
    wanted = max(soft, ENOUGH) if hard == resource.RLIM_INFINITY else hard
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):  # some systems have a ceiling that they do not tell
        return soft
    return wanted


def fitted(loaded: LoadedConfig, descriptors: int) -> LoadedConfig:
    """Return the configuration with no more places for strangers than their share of the descriptors."""
    config, most = loaded.config, max(1, descriptors // SHARE)
    configured = config.limits.preauth_connections_max
    if configured <= most:
        return loaded
    limits = msgspec.structs.replace(config.limits, preauth_connections_max=most)
    warning = (
        f"the process may open {descriptors} files: of connections that are not authenticated {most} are"
        f" held instead of {configured} (limits.preauth_connections_max); raise ulimit -n, or LimitNOFILE"
    )
    return loaded._replace(
        config=msgspec.structs.replace(config, limits=limits),
        warnings=(*loaded.warnings, warning),
    )
