"""What all clients of a soak share: where the gateway is, what was counted, what went wrong."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter, deque
from collections.abc import Awaitable

from bench.soak.raw import Address
from gateway.client import OPERATOR_SCOPES, ClientOptions, Credentials, Reconnect, client_info
from gateway.client.aio import Client, connect
from gateway.core.deviceproof import DeviceIdentity
from gateway.model import Role

MAX_FAULTS = 100
QUICK = Reconnect(first_s=0.2, cap_s=2.0)


class World:
    """The common ground of all clients."""

    def __init__(self, address: Address, rate: float) -> None:
        self.address = address
        self.rate = rate
        self.counts: Counter[str] = Counter()
        self.faults: deque[str] = deque(maxlen=MAX_FAULTS)
        self.faulty = 0
        self.calls_s: deque[float] = deque(maxlen=10_000)
        self.stopping = asyncio.Event()
        self._numbers = 0

    def options(self, protocol: int = 4, **changes: object) -> ClientOptions:
        """Return the options of an operator that may do everything."""
        chosen = {
            "credentials": Credentials(token=self.address.token),
            "scopes": OPERATOR_SCOPES,
            "min_protocol": protocol,
            "max_protocol": protocol,
            **changes,
        }
        return ClientOptions(**chosen)  # type: ignore[arg-type]

    def node_options(self, device: DeviceIdentity) -> ClientOptions:
        """Return the options of a node."""
        return self.options(
            random.choice((3, 4)),
            client=client_info("node-host", "node"),
            role=Role.NODE,
            scopes=(),
            device=device,
            reconnect=QUICK,
        )

    async def join(self, options: ClientOptions | None = None) -> Client:
        """Connect a client."""
        options = options or self.options(random.choice((3, 4)))
        client = await connect(self.address.url, options)
        self.counts["connected"] += 1
        return client

    async def timed(self, answer: Awaitable[object]) -> None:
        """Wait for an answer, and note how long it took."""
        started = time.perf_counter()
        await answer
        self.calls_s.append(time.perf_counter() - started)
        self.counts["calls"] += 1

    def number(self) -> int:
        """Return the next number, for what must differ."""
        self._numbers += 1
        return self._numbers

    def words(self, least: int = 5, most: int = 40) -> str:
        """Return a message that is like no other."""
        count = random.randint(least, most)
        return " ".join(
            [f"m{self.number()}", *(f"w{random.randrange(10_000)}" for _ in range(count))]
        )

    def fault(self, text: str) -> None:
        """Note something that must not happen."""
        self.faulty += 1
        self.faults.append(f"{time.strftime('%H:%M:%S', time.gmtime())} {text}"[:500])

    async def pause(self, seconds: float) -> bool:
        """Wait about so long, shorter at a higher rate; return whether the load goes on."""
        delay = random.uniform(0.5, 1.5) * seconds / self.rate
        try:
            await asyncio.wait_for(self.stopping.wait(), delay)
        except TimeoutError:
            return True
        return False

    def report(self, *, over: bool = False) -> None:
        """Print the totals."""
        calls = sorted(self.calls_s)
        self.calls_s.clear()
        line = {
            "over": over,
            "counts": dict(self.counts),
            "faulty": self.faulty,
            "faults": list(self.faults),
            "call_p50_ms": _ms(calls, 0.5),
            "call_p99_ms": _ms(calls, 0.99),
        }
        print(json.dumps(line), flush=True)


def _ms(ordered: list[float], part: float) -> float | None:
    return round(ordered[int(part * (len(ordered) - 1))] * 1000, 2) if ordered else None
