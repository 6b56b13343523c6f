"""All methods of the gateway, family by family."""

from __future__ import annotations

from gateway.rpc import (
    agentfiles,
    agents,
    history,
    inspect,
    listings,
    maintenance,
    models,
    nodes,
    runs,
    sessions,
    system,
    turns,
)
from gateway.rpc.table import MethodTable


def build_table() -> MethodTable:
    """Return the table of all methods."""
    table = MethodTable()
    chat = (system, turns, runs, history, sessions)
    for family in (*chat, agents, agentfiles, models, listings, nodes, inspect, maintenance):
        table.include(family.methods)
    return table
