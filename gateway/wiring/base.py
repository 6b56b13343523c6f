"""What all parts of a gateway are made with."""

from __future__ import annotations

from typing import NamedTuple

from gateway.app.hub import Hub
from gateway.config import Config
from gateway.interfaces import IClock, IEntropy, IStore
from gateway.metrics import Metrics


class Base(NamedTuple):
    """Configuration, time, chance, persistence, who is connected, and what is counted."""

    config: Config
    clock: IClock
    entropy: IEntropy
    store: IStore
    hub: Hub
    metrics: Metrics
