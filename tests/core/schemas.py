"""The recorded data of both versions, and their JSON Schemas as validators."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

DATA = Path(__file__).parents[1] / "data"
VERSIONS = (3, 4)

AGENT_KEYS = {3: {"sessionKey"}, 4: {"sessionKey", "agentId", "sessionId", "lane"}}
"""What an agent payload carries beside the closed schema AgentEvent, as real gateways send it."""


@cache
def load(name: str) -> Any:
    """Return the content of a data file."""
    return json.loads((DATA / name).read_text())


@cache
def _validator(name: str, protocol: int) -> Draft202012Validator:
    schema = load("schemas.json")[f"v{protocol}"][name]
    if name == "AgentEvent":
        extra = {key: {"type": "string"} for key in AGENT_KEYS[protocol]}
        schema = {**schema, "properties": {**schema["properties"], **extra}}
    return Draft202012Validator(schema)


def violations(name: str, protocol: int, value: Any) -> list[str]:
    """Return what is wrong with a value by a version's schema."""
    return [error.message for error in _validator(name, protocol).iter_errors(value)]


def validator_cases(schema: str, protocol: int) -> list[tuple[str, Any, bool]]:
    """Return label, value and verdict of every recorded case of a schema in a version."""
    return [
        (case["label"], case["value"], case[f"v{protocol}"]["valid"])
        for case in load("validator_cases.json")
        if case["schema"] == schema and case[f"v{protocol}"] is not None
    ]
