"""All methods of the gateway, family by family."""

from __future__ import annotations

from gateway.rpc import (
    agent,
    compacting,
    history,
    inspect,
    listings,
    maintenance,
    nodes,
    runs,
    session_turns,
    sessions,
    system,
    turns,
    usage,
)
from gateway.rpc.table import MethodTable


def build_table() -> MethodTable:
    """Return the table of all methods."""
    table = MethodTable()
    for family in (
        system,
        turns,
        session_turns,
        agent,
        runs,
        history,
        sessions,
        compacting,
        listings,
        nodes,
        inspect,
        maintenance,
        usage,
    ):
        table.include(family.methods)
    return table
