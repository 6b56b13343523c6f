"""One run of Atheris on one target: ``python -m tests.fuzz.guided TARGET DIRECTORY SECONDS SEED``.

A process of its own, since the code has to be imported with Atheris' marks in it, and libFuzzer ends the
process. What breaks something is left in the directory.
"""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path

MAX_BYTES = 1024


def main(target: str, work: str, seconds: str, seed: str) -> None:
    """Fuzz. Raises ImportError where the extra ``fuzz`` is not installed."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    import atheris

    with atheris.instrument_imports(include=["gateway"], enable_loader_override=False):
        from tests.fuzz.engines import seeds
        from tests.fuzz.targets import TARGETS

    corpus = Path(work) / target
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(seeds(target)):
        (corpus / f"kept-{number}").write_bytes(data)
    options = {
        "max_total_time": seconds,
        "seed": seed,
        "max_len": MAX_BYTES,
        "artifact_prefix": f"{work}/found-{target}-",
        "print_final_stats": 1,
        "rss_limit_mb": 4096,
        "timeout": 60,
    }
    arguments = [f"-{name}={value}" for name, value in options.items()]
    atheris.Setup([sys.argv[0], str(corpus), *arguments], TARGETS[target])
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
