"""Fuzz the gateway: ``python -m tests.fuzz --minutes 10 [--engine hypothesis|atheris] [--seed N]``."""

from __future__ import annotations

import argparse
import sys
import time
import warnings

from twisted.logger import globalLogBeginner

from tests.fuzz.engines import atheris_engine, hypothesis_engine
from tests.fuzz.targets import TARGETS


def main() -> int:
    """Run an engine; the status is 1 if something was found."""
    asked = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    asked.add_argument("--minutes", type=float, default=10)
    asked.add_argument("--engine", choices=("hypothesis", "atheris"), default="hypothesis")
    asked.add_argument("--seed", type=int, default=time.time_ns() % 2**31)
    asked.add_argument("--target", action="append", choices=sorted(TARGETS))
    options = asked.parse_args()
    warnings.simplefilter("ignore")
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)
    lines: list[str] = []

    def report(line: str) -> None:
        lines.append(line)
        print(line, flush=True)

    print(f"seed {options.seed}", flush=True)
    run = hypothesis_engine if options.engine == "hypothesis" else atheris_engine
    tried = run(options.target or sorted(TARGETS), options.minutes * 60, options.seed, report)
    finds = sum(line.startswith("FOUND") for line in lines)
    print(f"{tried} inputs, {finds} findings", flush=True)
    return 1 if finds else 0


if __name__ == "__main__":
    sys.exit(main())
