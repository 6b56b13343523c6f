"""What every provider of IStore does. A subclass has the fixtures ``store`` and ``wait``.

``store`` is open and started; ``wait(deferred)`` returns what a Deferred fires with, or raises.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zope.interface.verify import verifyObject

from gateway.interfaces import IStore

from .contract_logs import LogContract, RetentionContract
from .contract_pairings import NodeContract, PairingContract, SettingContract
from .contract_runs import AcceptContract, FinishContract, OpenRunContract, RunListContract
from .contract_sessions import ListingContract, SessionContract, TranscriptContract
from .contract_usage import UsageContract

Wait = Callable[[Any], Any]


class InterfaceContract:
    """The interface itself."""

    def test_provides_istore(self, store: IStore) -> None:
        """The store provides IStore with every method's signature."""
        assert verifyObject(IStore, store)


class StoreContract(
    InterfaceContract,
    SessionContract,
    ListingContract,
    TranscriptContract,
    AcceptContract,
    OpenRunContract,
    FinishContract,
    RunListContract,
    LogContract,
    RetentionContract,
    UsageContract,
    PairingContract,
    NodeContract,
    SettingContract,
):
    """All of it."""
