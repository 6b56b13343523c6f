"""What ``gatewayctl config check`` looks at: the file, and the table of every agent by its backend."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from gateway.config import LoadedConfig, decode_agent, load
from gateway.errors import ConfigError
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
    return Findings(tuple(_agent_problems(loaded)), loaded.warnings, name)


def _agent_problems(loaded: LoadedConfig) -> list[str]:
    from gateway.backends import backend_factories

    factories = backend_factories()
    where = "configuration" if loaded.path is None else str(loaded.path)
    found = []
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
    return found
