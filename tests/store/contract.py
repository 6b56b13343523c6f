"""What every provider of IStore does. A subclass has the fixtures ``store`` and ``wait``.

``store`` is open and started; ``wait(deferred)`` returns what a Deferred fires with, or raises.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec import structs
from zope.interface.verify import verifyObject

from gateway.errors import StoreError
from gateway.interfaces import IStore
from gateway.model import Device

from .contract_logs import LogContract, RetentionContract
from .contract_runs import AcceptContract, FinishContract, OpenRunContract, RunListContract
from .contract_sessions import ListingContract, SessionContract, TranscriptContract
from .contract_usage import UsageContract
from .harness import (
    NOW,
    a_device,
    a_token,
    putting,
)

Wait = Callable[[Any], Any]


class InterfaceContract:
    """The interface itself."""

    def test_provides_istore(self, store: IStore) -> None:
        """The store provides IStore with every method's signature."""
        assert verifyObject(IStore, store)


class DeviceContract:
    """Devices and their tokens."""

    def test_device_comes_back_whole(self, store: IStore, wait: Wait) -> None:
        """Every field of a device is kept, and only the version is set by the store."""
        device = a_device(
            roles=(),
            display_name="Küche",
            platform="linux",
            device_family="pi",
            client_id="node-host",
            client_mode="node",
            last_seen_at_ms=NOW,
            version=5,
        )

        returned = wait(store.update_device("device-1", putting(device)))

        assert returned == structs.replace(device, version=1)
        assert wait(store.get_device("device-1")) == returned
        assert wait(store.get_device("device-2")) is None

    def test_update_device(self, store: IStore, wait: Wait) -> None:
        """A change sees the stored device, None leaves it, and its version rises by one."""

        def rename(current: Device | None) -> Device:
            assert current is not None
            return structs.replace(current, display_name="new")

        assert wait(store.update_device("device-1", lambda current: None)) is None
        wait(store.update_device("device-1", putting(a_device())))
        stored = wait(store.update_device("device-1", rename))

        assert (stored.version, stored.display_name) == (2, "new")
        assert wait(store.update_device("device-1", lambda current: None)) == stored
        with pytest.raises(StoreError, match="can not change its id"):
            wait(store.update_device("device-2", putting(a_device())))

    def test_newest_devices_first(self, store: IStore, wait: Wait) -> None:
        """Devices are listed newest first."""
        for number, name in enumerate(("b", "a", "c")):
            device = a_device(name, created_at_ms=NOW + number)
            wait(store.update_device(name, putting(device)))

        assert [device.device_id for device in wait(store.list_devices())] == ["c", "a", "b"]

    def test_token_comes_back_by_its_digest(self, store: IStore, wait: Wait) -> None:
        """A token is found by its digest; storing it again fails and changes nothing."""
        wait(store.update_device("device-1", putting(a_device())))
        wait(store.put_device_token(a_token("aa"), keep=2))
        with pytest.raises(StoreError):
            wait(store.put_device_token(a_token("aa", last_used_at_ms=NOW + 1), keep=2))

        assert wait(store.get_device_token("aa")) == a_token("aa")
        assert wait(store.get_device_token("bb")) is None

    def test_only_the_newest_tokens_stay(self, store: IStore, wait: Wait) -> None:
        """The token stored last and the newest others stay; those of other roles and devices too."""
        for name in ("device-1", "device-2"):
            wait(store.update_device(name, putting(a_device(name))))
        wait(store.put_device_token(a_token("node", role="node"), keep=1))
        wait(store.put_device_token(a_token("other", device_id="device-2"), keep=1))
        for digest in ("zz", "yy", "xx"):
            wait(store.put_device_token(a_token(digest), keep=2))
        yesterday = NOW - 24 * 3600 * 1000
        wait(store.put_device_token(a_token("set back", issued_at_ms=yesterday), keep=2))

        kept = [
            digest
            for digest in ("node", "other", "zz", "yy", "xx", "set back")
            if wait(store.get_device_token(digest)) is not None
        ]

        assert len(kept) == 4
        assert {"node", "other", "set back"} < set(kept)

    def test_token_of_an_unknown_device_is_refused(self, store: IStore, wait: Wait) -> None:
        """A token can not be stored for a device that is not paired."""
        with pytest.raises(StoreError):
            wait(store.put_device_token(a_token("aa"), keep=1))
        assert wait(store.get_device_token("aa")) is None


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
    DeviceContract,
):
    """All of it."""
