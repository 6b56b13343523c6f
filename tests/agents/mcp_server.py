"""A tiny server of the Model Context Protocol on standard input and output, without a library.

Tools: ``add {a, b}``; ``where {}`` gives the working directory and $MCP_SECRET; ``pid {}``; ``die {}`` ends
the process; ``fail {}`` answers an error; ``long {}`` answers very much; one has
a name that no provider takes. It notes each start in $MCP_LOG.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

SCHEMA: dict[str, Any] = {"type": "object", "properties": {}}
NUMBERS = {"a": {"type": "integer"}, "b": {"type": "integer"}}
TOOLS = [
    {"name": "add", "description": "Add.", "inputSchema": SCHEMA | {"properties": NUMBERS}},
    *(
        {"name": name, "description": name, "inputSchema": SCHEMA}
        for name in ("where", "pid", "die", "fail", "long", "odd name")
    ),
]


def call(name: str, args: dict[str, Any]) -> dict[str, Any]:
    """Return the result of a tool."""
    text, failed = "", False
    if name == "add":
        text = str(args["a"] + args["b"])
    elif name == "where":
        text = f"{os.getcwd()} {os.environ.get('MCP_SECRET')}"
    elif name == "pid":
        text = str(os.getpid())
    elif name == "die":
        os._exit(3)
    elif name == "long":
        text = "x" * 200_000
    else:
        text, failed = "it does not work", True
    return {"content": [{"type": "text", "text": text}], "isError": failed}


def answer(method: str, params: dict[str, Any]) -> dict[str, Any] | None:
    """Return the result of a request, None for a method that there is not."""
    if method == "initialize":
        return {
            "protocolVersion": params.get("protocolVersion", "2025-06-18"),
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "tiny", "version": "1"},
        }
    if method == "tools/list":
        return {"tools": TOOLS}
    if method == "tools/call":
        return call(params["name"], params.get("arguments") or {})
    return {} if method == "ping" else None


def main() -> None:
    """Serve until the input ends."""
    if log := os.environ.get("MCP_LOG"):
        with open(log, "a") as file:
            file.write(f"{os.getpid()}\n")
    for line in sys.stdin:
        message = json.loads(line)
        if "id" not in message or "method" not in message:
            continue
        result = answer(message["method"], message.get("params") or {})
        reply: dict[str, Any] = {"jsonrpc": "2.0", "id": message["id"]}
        if result is None:
            reply["error"] = {"code": -32601, "message": "Method not found"}
        else:
            reply["result"] = result
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
