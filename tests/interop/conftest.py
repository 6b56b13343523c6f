"""A gateway for all tests of a module, and the clients of both generations, fresh for each test."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from .clients import OpenClaw
from .install import GENERATIONS, Generation, Installation, InstallError, install_all
from .server import Gateway
from .terminal import Terminal


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add what the gateway printed and logged to the report of a failed test."""
    report = yield
    gateway = getattr(item, "funcargs", {}).get("gateway")
    if report.failed and isinstance(gateway, Gateway):
        report.sections.append(("gateway", gateway.report()))
    return report


@pytest.fixture(scope="session")
def installations() -> dict[Generation, Installation]:
    """Return where the real clients lie; they are installed if they are missing."""
    try:
        return install_all()
    except InstallError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Start a gateway with nothing configured but where it listens and keeps its state."""
    running = Gateway(tmp_path_factory.mktemp("gateway") / "state")
    yield running
    obeyed = running.stop()
    assert obeyed, f"the gateway did not stop when asked:\n{running.report()}"


@pytest.fixture(params=GENERATIONS, ids=lambda generation: generation.name)
def generation(request: pytest.FixtureRequest) -> Generation:
    """Return one generation after the other."""
    chosen: Generation = request.param
    return chosen


@pytest.fixture
def make_client(
    installations: dict[Generation, Installation], gateway: Gateway, tmp_path: Path
) -> Callable[[Generation], OpenClaw]:
    """Return what makes a client of a generation that knows the gateway."""

    def make(generation: Generation) -> OpenClaw:
        home = tmp_path / generation.name
        return OpenClaw(installations[generation], home, gateway.url, gateway.token)

    return make


@pytest.fixture
def openclaw(make_client: Callable[[Generation], OpenClaw], generation: Generation) -> OpenClaw:
    """Return a client of the generation under test."""
    return make_client(generation)


@pytest.fixture
def open_tui() -> Iterator[Callable[[OpenClaw], Terminal]]:
    """Return what starts a client's terminal interface and waits until it is connected."""
    opened: list[Terminal] = []

    def open_one(client: OpenClaw) -> Terminal:
        terminal = client.tui()
        opened.append(terminal)
        terminal.wait_for("connected | idle", 45)
        return terminal

    yield open_one
    for terminal in opened:
        terminal.close()
