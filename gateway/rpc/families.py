"""All methods of the gateway, family by family."""

from __future__ import annotations

from gateway.rpc import (
    approvals,
    history,
    inspect,
    listings,
    maintenance,
    nodes,
    runs,
    sessions,
    system,
    turns,
)
from gateway.rpc.table import MethodTable

_FAMILIES = (
    system,
    turns,
    runs,
    history,
    sessions,
    approvals,
    listings,
    nodes,
    inspect,
    maintenance,
)


def build_table() -> MethodTable:
    """Return the table of all methods."""
    table = MethodTable()
    for family in _FAMILIES:
        table.include(family.methods)
    return table
