"""All methods of the gateway, family by family."""

from __future__ import annotations

from gateway.rpc import (
    agent,
    agentfiles,
    agents,
    approvals,
    compacting,
    history,
    inspect,
    listings,
    maintenance,
    models,
    nodes,
    runs,
    session_turns,
    sessions,
    system,
    turns,
    usage,
)
from gateway.rpc.table import MethodTable

_FAMILIES = (
    system,
    turns,
    session_turns,
    agent,
    runs,
    history,
    sessions,
    compacting,
    approvals,
    agents,
    agentfiles,
    models,
    listings,
    nodes,
    inspect,
    maintenance,
    usage,
)


def build_table() -> MethodTable:
    """Return the table of all methods."""
    table = MethodTable()
    for family in _FAMILIES:
        table.include(family.methods)
    return table
