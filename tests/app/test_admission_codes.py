"""Devices that come with a setup code."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from gateway.core.access import digest_of
from gateway.errors import StoreError, Unavailable
from gateway.testing import TOKEN
from tests.app.door import READ, Door, make_door
from tests.app.harness import REMOTE

CODE = {"bootstrapToken": "code"}


@dataclass(frozen=True)
class Code:
    """What the code grants."""

    roles: tuple[str, ...] = ("node", "operator")
    scopes: tuple[str, ...] = ("operator.read", "operator.write", "odd")


@dataclass
class Codes:
    """One setup code, and what became of it."""

    code: Code = field(default_factory=Code)
    log: list[str] = field(default_factory=list)
    good: bool = True

    def claim(self, secret: str, device_id: str, public_key: str) -> Code | None:
        """Hold the code, if it is the one."""
        if secret != "code":
            return None
        self.log.append("claim")
        return self.code

    def holds(self, grant: Any) -> bool:
        """Say whether the maker still has its rights."""
        return self.good

    def release(self, grant: Any) -> None:
        """Let the code go."""
        assert grant is self.code
        self.log.append("release")

    def consume(self, grant: Any, device_id: str, device_name: str | None) -> None:
        """Use the code up."""
        assert grant is self.code
        self.log.append(f"consume {device_id[:4]} {device_name}")


@pytest.fixture
def codes() -> Codes:
    """Return a code that is good."""
    return Codes()


@pytest.fixture
def door(codes: Codes) -> Door:
    """Return a door that takes the code."""
    return make_door(setup_codes=codes)


@pytest.mark.parametrize("shared", [{}, {"token": "wrong"}])
def test_a_setup_code(door: Door, codes: Codes, shared: dict[str, str]) -> None:
    """A device from elsewhere comes in by a setup code alone, and has a token for each of its roles."""
    proven = door.proven(auth={**shared, **CODE}, peer=REMOTE, displayName="Ann")
    admitted = door.enter(proven)
    door.admission.settle(admitted, proven, entered=True)

    assert admitted.principal.auth_method == "bootstrap-token"
    assert admitted.principal.scopes == READ
    assert admitted.token_scopes == ("operator.read", "operator.write")
    assert [(other.role, other.scopes) for other in admitted.others] == [("node", ())]
    device = door.device()
    assert device is not None
    assert (device.roles, device.approved_via) == (("node", "operator"), "setup-code")
    stored = {token.role: token.digest for token in door.pairing().tokens}
    assert stored == {
        "operator": digest_of(admitted.device_token or ""),
        "node": digest_of(admitted.others[0].token),
    }
    assert admitted.principal.token_digest == stored["operator"]
    assert codes.log == ["claim", f"consume {door.identity.device_id[:4]} Ann"]
    assert [payload["decision"] for _, payload in door.told] == ["approved"]
    assert door.knock(auth={"deviceToken": admitted.others[0].token}, role="node", scopes=())


def test_the_code_goes_before_everything(door: Door, codes: Codes) -> None:
    """A setup code is looked at first, also where the shared credential is right."""
    admitted = door.knock(auth={"token": TOKEN, **CODE})

    assert admitted.principal.auth_method == "bootstrap-token"
    assert door.refusal(auth={"token": TOKEN, "bootstrapToken": "no"})


@pytest.mark.parametrize(
    "how",
    [
        {"auth": {"bootstrapToken": "zzz"}},
        {"auth": {"bootstrapToken": ""}},
        {"auth": CODE, "scopes": ("operator.admin",)},
    ],
)
def test_a_code_that_is_no_good(door: Door, codes: Codes, how: dict[str, Any]) -> None:
    """A wrong code, and one that does not grant what is asked, is refused; it is not used up."""
    error = door.refusal(peer=REMOTE, **how)

    assert error["details"] == {
        "code": "AUTH_BOOTSTRAP_TOKEN_INVALID",
        "authReason": "bootstrap_token_invalid",
        "canRetryWithDeviceToken": False,
        "recommendedNextStep": "review_auth_configuration",
    }
    assert codes.log in ([], ["claim", "release"])
    assert door.device() is None


def test_a_role_that_the_code_does_not_grant(codes: Codes) -> None:
    """A code for a node makes no operator."""
    codes.code = Code(roles=("node",), scopes=())
    door = make_door(setup_codes=codes)

    assert door.refusal(auth=CODE, scopes=())["details"]["authReason"] == "bootstrap_token_invalid"
    assert door.knock(auth=CODE, role="node", scopes=()).device_token


def test_without_codes() -> None:
    """A gateway that has no setup codes takes none."""
    door = make_door()

    assert door.refusal(auth=CODE)["details"]["authReason"] == "bootstrap_token_invalid"
    proven = door.proven()
    door.admission.settle(door.enter(proven), proven, entered=True)


def test_a_failed_connect_frees_the_code(
    door: Door, codes: Codes, expected_failures: list[type[BaseException]]
) -> None:
    """Where the store fails, or the connection is not entered, the code may be used again."""
    expected_failures.append(StoreError)
    door.store.failing["update_pairing"] = StoreError("disk full")
    with pytest.raises(Unavailable):
        door.knock(auth=CODE)
    door.store.failing.clear()
    proven = door.proven(auth=CODE)
    door.admission.settle(door.enter(proven), proven, entered=False)

    assert codes.log == ["claim", "release", "claim", "release"]


def test_a_new_shared_secret_frees_the_code(door: Door, codes: Codes) -> None:
    """A code that came with a shared credential which was changed meanwhile is not held for ever."""
    real = door.admission._store.update_pairing

    def write(device_id: str, change: Any) -> Any:
        door.revocations.shared("token")
        return real(device_id, change)

    door.store.update_pairing = write
    with pytest.raises(Unavailable, match="credential was changed"):
        door.knock(auth={"token": TOKEN, **CODE})

    assert codes.log == ["claim", "release"]


def test_who_leaves_frees_the_code(door: Door, codes: Codes) -> None:
    """A device that leaves while it is paired by a code may come back with it."""
    door.store.hanging.add("update_pairing")
    knocking = door.knocking(auth=CODE)
    knocking.addErrback(lambda failure: None)
    knocking.cancel()
    door.store.release()

    assert codes.log == ["claim", "release"]


def test_a_revocation_meanwhile_frees_the_code(door: Door, codes: Codes) -> None:
    """A device that is judged anew claims its code anew."""
    real, writes = door.admission._store.update_pairing, list[str]()

    def write(device_id: str, change: Any) -> Any:
        if not writes:
            writes.append(device_id)
            door.revocations.device(device_id)
        return real(device_id, change)

    door.store.update_pairing = write
    assert door.knock(auth=CODE).device_token
    assert codes.log == ["claim", "release", "claim"]


def test_a_maker_that_loses_its_rights_meanwhile(door: Door, codes: Codes) -> None:
    """The code ends after it was shown and before the device is stored: nothing is stored."""
    codes.good = False

    error = door.refusal(auth=CODE, peer=REMOTE)

    assert "bootstrap_token_invalid" in str(error)
    assert door.device() is None
    assert codes.log == ["claim", "release"]
