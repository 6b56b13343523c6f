"""The load of a soak: one process with many clients, well behaved and otherwise.

    python -m bench.soak.load --port N --token-file FILE [--rate 1]

Every few seconds it prints one JSON line of totals. SIGTERM ends the load: what runs comes to its end,
then everybody leaves; the last line has ``"over": true``. What went wrong stands under ``faults``.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from bench.soak.raw import Address
from bench.soak.scenes import Observer, Scene, Step, cast
from bench.soak.world import World
from gateway.client import ClientError

REPORT_S = 5.0
LEAVE_S = 40.0


async def again(world: World, scene: Scene, seconds: float) -> None:
    """Play a scene again and again, about so many seconds apart; it may fail only by a fault."""
    try:
        while await world.pause(seconds):
            await _tried(world, scene.play, scene.name)
    finally:
        await _tried(world, scene.leave, scene.name)


async def _tried(world: World, step: Step, name: str) -> None:
    try:
        await step(world)
    except Exception as error:
        world.fault(f"{name}: {error!r}")


async def play(world: World) -> None:
    """Play everything until the load is told to stop."""
    observer = Observer(world)
    await observer.start()
    tasks = [
        asyncio.create_task(again(world, scene, seconds))
        for scene, seconds in cast(world, observer)
    ]
    while await world.pause(REPORT_S * world.rate):
        observer.check()
        world.report()
    _, late = await asyncio.wait(tasks, timeout=LEAVE_S)
    for task in late:
        world.fault(f"did not end: {task.get_coro()}")
        task.cancel()
    if late:
        await asyncio.wait(late)
    await observer.stop()
    world.report(over=True)


def main() -> None:
    """Play the load."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak.load", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--token-file", type=Path, required=True)
    parser.add_argument("--rate", type=float, default=1.0)
    arguments = parser.parse_args()
    address = Address(arguments.port, arguments.token_file.read_text().strip())

    async def playing() -> int:
        world = World(address, arguments.rate)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, world.stopping.set)
        try:
            await play(world)
        except ClientError as error:
            world.fault(f"the load could not be played: {error!r}")
            world.report(over=True)
        return 1 if world.faulty else 0

    sys.exit(asyncio.run(playing()))


if __name__ == "__main__":
    main()
