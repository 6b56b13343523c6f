"""Two engines that make inputs: Hypothesis, and Atheris, which follows what code an input reaches."""

from __future__ import annotations

import math
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as with_seed
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parents[1] / "data" / "fuzz"
MAX_BYTES = 1024
BATCH = 200
Report = Callable[[str], None]


def seeds(target: str) -> list[bytes]:
    """Return the inputs that are kept for a target: every one that has found something, and some others."""
    return [path.read_bytes() for path in sorted((CORPUS / target).glob("*.bin"))]


def keep(target: str, data: bytes) -> Path:
    """Write an input into the corpus; its name is what it holds."""
    path = CORPUS / target / f"{sha256(data).hexdigest()[:16]}.bin"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def failure(target: str, data: bytes) -> str | None:
    """Return what an input breaks, or None."""
    try:
        TARGETS[target](data)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def smaller(target: str, data: bytes, *, seconds: float = 20) -> bytes:
    """Return a shorter input that breaks something too."""
    until = time.monotonic() + seconds
    size = len(data) // 2
    while size and time.monotonic() < until:
        at = 0
        while at < len(data) and time.monotonic() < until:
            shorter = data[:at] + data[at + size :]
            if failure(target, shorter):
                data = shorter
            else:
                at += size
        size //= 2
    return data


def found(target: str, data: bytes, why: str, report: Report) -> None:
    """Keep the smallest form of what broke something."""
    data = smaller(target, data)
    report(f"FOUND {target} {keep(target, data)}\n{failure(target, data) or why}")


def hypothesis_engine(targets: Iterable[str], seconds: float, seed: int, report: Report) -> int:
    """Run Hypothesis on each target in turn, in batches; return how many inputs were tried."""
    names, tried = list(targets), 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for name in names:
            seed += 1
            tried += batch(name, seed, report, until=until)
    return tried


def batch(
    target: str, seed: int, report: Report, *, count: int = BATCH, until: float = math.inf
) -> int:
    """Try some inputs that Hypothesis makes, the same for the same seed; return how many there were."""
    tried, kept = 0, seeds(target)
    noise = st.builds(
        lambda number, size: random.Random(number).randbytes(size),
        st.integers(0, 2**32),
        st.integers(1, MAX_BYTES),
    )
    mixed = st.builds(_spliced, st.sampled_from(kept or [b"\0"]), noise, st.integers(0, MAX_BYTES))

    @with_seed(seed)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.one_of(noise, mixed, st.binary(max_size=MAX_BYTES)))
    def attempt(data: bytes) -> None:
        nonlocal tried
        if time.monotonic() > until:
            return
        tried += 1
        why = failure(target, data)
        if why is not None:
            found(target, data, why, report)

    attempt()
    return tried


def _spliced(kept: bytes, noise: bytes, at: int) -> bytes:
    at %= len(kept) + 1
    return (kept[:at] + noise[:64] + kept[at + len(noise) % 8 :])[:MAX_BYTES]


def atheris_engine(targets: Iterable[str], seconds: float, seed: int, report: Report) -> int:
    """Run Atheris on each target in turn, in a process of its own; return how many inputs were tried.

    It ends with whatever it finds, and is started again while there is time.
    """
    names, tried = list(targets), 0
    with TemporaryDirectory() as place:
        for name in names:
            work = Path(place)
            until = time.monotonic() + seconds / len(names)
            while (left := until - time.monotonic()) > 1:
                seed += 1
                done = subprocess.run(
                    [
                        sys.executable,
                        "-m",
                        "tests.fuzz.guided",
                        name,
                        str(work),
                        str(round(left)),
                        str(seed),
                    ],
                    capture_output=True,
                    text=True,
                    errors="replace",
                )
                tried += _executed(done.stderr)
                covered = re.findall(r"cov: (\d+)", done.stderr)
                report(f"{name}: {_executed(done.stderr)} inputs, {covered[-1:] or ['no']} edges")
                for path in work.glob(f"found-{name}-*"):
                    found(name, path.read_bytes(), done.stderr[-2000:], report)
                    path.unlink()
                if done.returncode and not covered:
                    report(done.stderr[-2000:])
                    return tried
    return tried


def _executed(text: str) -> int:
    counted = re.findall(
        r"number_of_executed_units:\s*(\d+)|Done (\d+) in|^#(\d+)", text, re.MULTILINE
    )
    return max((int(number) for each in counted for number in each if number), default=0)
