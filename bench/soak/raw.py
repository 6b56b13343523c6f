"""WebSocket clients by hand, for what no library does: vanish at any point, and never read."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import struct
from dataclasses import dataclass
from typing import Any

from gateway.client import ClientOptions
from gateway.client.handshake import connect_params

_SMALL = 4096
"""The receive buffer of a socket that is not to be read, in bytes."""


@dataclass(frozen=True)
class Address:
    """Where the gateway is."""

    port: int
    token: str

    @property
    def url(self) -> str:
        """The address for clients."""
        return f"ws://127.0.0.1:{self.port}"


class RawClient:
    """One socket, driven step by step."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, address: Address) -> RawClient:
        """Connect the socket; nothing is said yet."""
        made = socket.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL)
        made.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(made, ("127.0.0.1", address.port))
        except BaseException:
            made.close()
            raise
        # A limit as small as this stops asyncio from reading ahead.
        return cls(*await asyncio.open_connection(sock=made, limit=_SMALL))

    def request_head(self) -> bytes:
        """Return the head of the upgrade request."""
        key = base64.b64encode(os.urandom(16)).decode()
        lines = (
            "GET / HTTP/1.1",
            "Host: 127.0.0.1",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Version: 13",
        )
        return "".join(f"{line}\r\n" for line in (*lines, "")).encode()

    async def upgrade(self) -> dict[str, Any]:
        """Become a WebSocket; return the challenge's payload."""
        self.writer.write(self.request_head())
        await self.reader.readuntil(b"\r\n\r\n")
        payload: dict[str, Any] = (await self.frame())["payload"]
        return payload

    async def hello(self, options: ClientOptions) -> None:
        """Shake hands to the end."""
        challenge = await self.upgrade()
        self.connect(options, challenge["nonce"])
        while (await self.frame()).get("type") != "res":
            pass

    def connect(self, options: ClientOptions, nonce: str) -> None:
        """Send ``connect``."""
        self.send("connect", connect_params(options, nonce, None))

    def send(self, method: str, params: dict[str, Any]) -> None:
        """Send a request; its answer is nobody's concern."""
        frame = {"type": "req", "id": os.urandom(6).hex(), "method": method, "params": params}
        self.writer.write(_masked(json.dumps(frame).encode()))

    async def frame(self) -> dict[str, Any]:
        """Read one message, which has to be a text."""
        first, size = await self.reader.readexactly(2)
        if size == 126:
            (size,) = struct.unpack("!H", await self.reader.readexactly(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", await self.reader.readexactly(8))
        body = await self.reader.readexactly(size)
        if first & 15 != 1:
            raise ConnectionError(f"opcode {first & 15}")
        message: dict[str, Any] = json.loads(body)
        return message

    def reset(self) -> None:
        """End the connection by RST."""
        reset(self.writer.transport)

    def close(self) -> None:
        """End the connection by FIN, without a close frame."""
        self.writer.close()


def reset(transport: Any) -> None:
    """End the connection of an asyncio transport by RST."""
    made = transport.get_extra_info("socket")
    if made is not None and made.fileno() >= 0:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _masked(payload: bytes) -> bytes:
    """Return a text frame as clients send it; the mask is zero, which leaves the payload as it is."""
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", 0x81, 0x80 | size)
    elif size < 65_536:
        head = struct.pack("!BBH", 0x81, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", 0x81, 0x80 | 127, size)
    return head + bytes(4) + payload
