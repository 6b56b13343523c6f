"""What ``gatewayctl config check`` looks at: the file, the table of every agent, and what it needs here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from gateway.config import LoadedConfig, decode_agent, load
from gateway.errors import ConfigError, StartError
from gateway.settings import one_line


class Findings(NamedTuple):
    """Problems and warnings, a line each, and what was looked at."""

    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    name: str


def problems(file: Path | None, environ: Mapping[str, str]) -> Findings:
    """Check a configuration file, else the one named by GATEWAY_CONFIG, else the defaults."""
    try:
        loaded = load(file, environ)
    except ConfigError as error:
        return Findings((str(error),), (), str(file))
    name = "no configuration file: the defaults" if loaded.path is None else str(loaded.path)
    found, missing = _agent_problems(loaded)
    return Findings(tuple(found), (*loaded.warnings, *missing), name)


def _agent_problems(loaded: LoadedConfig) -> tuple[list[str], list[str]]:
    """Return what is wrong with the agents' tables, and what the right ones lack on this host.

    A program, a key or a library that is not here may well be where the gateway runs.
    """
    from twisted.internet.task import Clock

    from gateway.backends import AgentMaker, backend_factories
    from gateway.runtime import SystemClock, SystemEntropy

    factories = backend_factories()
    where = "configuration" if loaded.path is None else str(loaded.path)
    found, missing = [], []
    reactor = Clock()  # nothing is ever started on it
    clock, entropy = SystemClock(reactor), SystemEntropy()
    maker = AgentMaker(
        loaded, reactor=reactor, clock=clock, entropy=entropy, state_dir=".", factories=factories
    )
    for agent_id, table in loaded.config.agents.items():
        backend = table.get("backend", "demo")
        factory = factories.get(backend) if isinstance(backend, str) else None
        if factory is None:
            known = ", ".join(sorted(factories))
            key = f"agents.{agent_id}.backend"
            found.append(one_line(where, key, f'unknown backend "{backend}" (known: {known})'))
            continue
        try:
            decode_agent(agent_id, table, factory.config_type, loaded.path, loaded.config.limits)
        except ConfigError as error:
            found.append(str(error))
            continue
        try:
            maker.make(agent_id, table)  # it is never started
        except StartError as error:
            missing.append(f"the gateway would not start on this host: {error}")
    return found, missing
