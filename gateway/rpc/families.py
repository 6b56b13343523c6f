"""All methods of the gateway, family by family."""

from __future__ import annotations

from gateway.rpc import (
    agent,
    agentfiles,
    agents,
    approvals,
    compacting,
    devices,
    history,
    inspect,
    invocations,
    listings,
    maintenance,
    models,
    nodepairing,
    nodepending,
    nodes,
    policies,
    runs,
    session_turns,
    sessions,
    setupcodes,
    system,
    turns,
    usage,
    voicewake,
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
    policies,
    nodepairing,
    nodepending,
    devices,
    setupcodes,
    invocations,
    inspect,
    maintenance,
    usage,
    voicewake,
)


def build_table() -> MethodTable:
    """Return the table of all methods."""
    table = MethodTable()
    for family in _FAMILIES:
        table.include(family.methods)
    return table
