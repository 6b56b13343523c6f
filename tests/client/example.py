"""Sends one message to a gateway and prints the answer, whatever becomes of the connection meanwhile."""

import asyncio
import sys
from pathlib import Path

from gateway.client import ClientOptions, Credentials, Reconnect, TextDelta
from gateway.client.aio import connect


async def main(url: str, token_file: str, message: str) -> None:
    """Print the answer as it comes."""
    credentials = Credentials(token=Path(token_file).read_text(encoding="utf-8").strip())
    options = ClientOptions(credentials=credentials, reconnect=Reconnect())
    async with await connect(url, options) as client:
        async for event in client.chat(message):
            print(event.text if isinstance(event, TextDelta) else "", end="", flush=True)
        print()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
