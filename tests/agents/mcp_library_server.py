"""A server of the Model Context Protocol as the protocol's own library makes it.

Without an argument it speaks on standard input and output; with a port, streamable HTTP, and only to who
has the key in $MCP_KEY. Tools: ``shout {text}``; ``fail {}``; ``slow {seconds}``; ``noise {}`` writes what is
no message to standard output first.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import uvicorn
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer("library", log_level="ERROR")


@server.tool()
def shout(text: str) -> str:
    """Say it louder."""
    return text.upper()


@server.tool()
def fail() -> str:
    """Fail."""
    raise ToolError("it is broken")


@server.tool()
async def slow(seconds: float) -> str:
    """Take some time."""
    await asyncio.sleep(seconds)
    return "late"


@server.tool()
def noise() -> str:
    """Print rubbish between the messages."""
    os.write(1, b"rubbish {]\n\xff\xfe\n\n[]\n")
    return "quiet"


def guarded(app: Any, key: str) -> Any:
    """Return an application that refuses who has not the key."""

    async def guard(scope: Any, receive: Any, send: Any) -> None:
        wanted = (b"authorization", f"Bearer {key}".encode())
        if scope["type"] == "http" and wanted not in scope["headers"]:
            await send({"type": "http.response.start", "status": 401, "headers": []})
            await send({"type": "http.response.body", "body": b"no"})
        else:
            await app(scope, receive, send)

    return guard


if __name__ == "__main__":
    if len(sys.argv) > 1:
        app = guarded(server.streamable_http_app(), os.environ["MCP_KEY"])
        uvicorn.run(app, port=int(sys.argv[1]), log_level="error")
    else:
        server.run("stdio")
