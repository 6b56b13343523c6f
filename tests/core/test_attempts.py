"""Failed credentials: who is locked out, who is answered late, and whose budget is whose."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.core.access import UNIX_ADDRESS, Peer
from gateway.core.attempts import (
    LOOPBACK,
    MAX_DELAY_S,
    Attempts,
    Credential,
    Source,
    canonical_address,
    sources_of,
)

REMOTE = (Source("192.0.2.7"),)
HERE = (LOOPBACK,)
TOKEN = (Credential.SHARED,)


def attempts(**how: int) -> Attempts:
    """Return a limiter with the defaults of the configuration."""
    return Attempts(**{"failures_max": 10, "window_s": 60, "lock_s": 300, **how})


def fail(
    limiter: Attempts, times: int, at: float = 0.0, source: tuple[Source, ...] = REMOTE
) -> None:
    for _ in range(times):
        limiter.failed(source, TOKEN, at)


def test_ten_failures_in_a_minute_lock_for_five_minutes() -> None:
    """The tenth failure locks the kind out for the time of the lock, counted from that failure."""
    limiter = attempts()
    for number in range(9):
        assert limiter.failed(REMOTE, TOKEN, float(number)).alerts == ()
        assert limiter.wait_s(REMOTE, TOKEN, float(number)) == 0
    assert limiter.failed(REMOTE, TOKEN, 9.0).alerts == REMOTE
    assert limiter.wait_s(REMOTE, TOKEN, 9.0) == 300
    assert limiter.wait_s(REMOTE, TOKEN, 308.9) == pytest.approx(0.1)
    assert limiter.wait_s(REMOTE, TOKEN, 309.0) == 0


def test_what_is_older_than_the_window_does_not_count() -> None:
    """A person who mistypes now and then is never locked out."""
    limiter = attempts()
    for number in range(200):
        assert limiter.failed(REMOTE, TOKEN, number * 6.7).alerts == ()


def test_after_the_lock_the_count_starts_anew() -> None:
    """A lock that is over takes its failures with it, whether a sweep came between or not."""
    for swept in (False, True):
        limiter = attempts(window_s=3600)
        fail(limiter, 10)
        if swept:
            limiter.sweep(300.0)
        fail(limiter, 9, at=300.0)
        assert limiter.wait_s(REMOTE, TOKEN, 300.0) == 0
        fail(limiter, 1, at=300.0)
        assert limiter.wait_s(REMOTE, TOKEN, 300.0) == 300


def test_kinds_and_sources_have_budgets_of_their_own() -> None:
    """A lock is of one kind from one source; who shows several kinds waits for the longest."""
    limiter = attempts()
    fail(limiter, 10)
    assert limiter.wait_s(REMOTE, (Credential.DEVICE,), 0.0) == 0
    assert limiter.wait_s(REMOTE, (Credential.DEVICE, Credential.SHARED), 0.0) == 300
    assert limiter.wait_s((Source("192.0.2.8"),), TOKEN, 0.0) == 0
    assert limiter.wait_s(REMOTE, (), 0.0) == 0


def test_a_success_forgets_the_failures_of_its_kind() -> None:
    """The right credential resets the count of its kind, and of no other."""
    limiter = attempts()
    fail(limiter, 9)
    limiter.failed(REMOTE, (Credential.DEVICE,), 0.0)
    limiter.succeeded(REMOTE, TOKEN)
    assert len(limiter) == 1
    fail(limiter, 9)
    assert limiter.wait_s(REMOTE, TOKEN, 0.0) == 0


def test_loopback_is_answered_later_and_later_but_never_locked() -> None:
    """Each failure doubles the delay, up to five seconds; whoever watches is told once a lock's time."""
    limiter = attempts()
    outcomes = [limiter.failed(HERE, TOKEN, 0.0) for _ in range(12)]
    assert [each.delay_s for each in outcomes] == [0.25, 0.5, 1, 2, 4, *[MAX_DELAY_S] * 7]
    assert [each.alerts for each in outcomes].count(HERE) == 1
    assert limiter.wait_s(HERE, TOKEN, 0.0) == 0
    assert limiter.failed(HERE, TOKEN, 59.0).alerts == ()
    assert limiter.failed(HERE, TOKEN, 300.0).delay_s == 0.25
    fail(limiter, 8, 300.0, HERE)
    assert limiter.failed(HERE, TOKEN, 300.0).alerts == HERE


def test_who_can_not_hold_an_answer_back_makes_loopback_wait() -> None:
    """Where no answer is held back, the next credential is not looked at until the delay is over."""
    limiter = attempts()
    assert limiter.wait_s(HERE, TOKEN, 0.0, paced=True) == 0
    fail(limiter, 3, 10.0, HERE)
    assert limiter.wait_s(HERE, TOKEN, 10.25, paced=True) == 0.75
    assert limiter.wait_s(HERE, TOKEN, 11.0, paced=True) == 0
    limiter.succeeded(HERE, TOKEN)
    assert limiter.wait_s(HERE, TOKEN, 10.0, paced=True) == 0


def test_a_page_of_this_machine_is_locked() -> None:
    """A web page counts as its origin too, which is locked; programs beside it are not."""
    page = sources_of(Peer("127.0.0.1", origin="http://localhost:3000"))
    limiter = attempts()
    for _ in range(10):
        delay_s = limiter.failed(page, TOKEN, 0.0).delay_s
    assert delay_s == MAX_DELAY_S
    assert limiter.wait_s(page, TOKEN, 0.0) == 300
    assert limiter.wait_s(sources_of(Peer("127.0.0.1")), TOKEN, 0.0) == 0
    other = sources_of(Peer("127.0.0.1", origin="http://localhost:3001"))
    assert limiter.failed(other, TOKEN, 0.0).delay_s == MAX_DELAY_S, "the delay is one for all"


def test_sources() -> None:
    """Local peers are one source, also on a Unix socket; a proxy's client is its own address."""
    assert sources_of(Peer(UNIX_ADDRESS)) == HERE
    assert sources_of(Peer("::ffff:127.0.0.1")) == HERE
    assert sources_of(Peer("127.0.0.1", forwarded=True)) == (Source("127.0.0.1"),)
    assert sources_of(Peer("192.0.2.7", origin="http://a.example")) == REMOTE


@pytest.mark.parametrize(
    ("address", "canonical"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("::ffff:c000:207", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unix", "unix"),
    ],
)
def test_canonical_addresses(address: str, canonical: str) -> None:
    """An address has one form, however it is written; a network of one host is one address."""
    assert canonical_address(address) == canonical


@given(st.ip_addresses(v=4))
def test_an_address_counts_once_in_both_families(ip: ipaddress.IPv4Address) -> None:
    """An IPv4 address has no second budget through IPv6."""
    assert canonical_address(f"::ffff:{ip}") == canonical_address(str(ip)) == str(ip)


@given(st.ip_addresses(v=6), st.integers(0, 2**64 - 1))
def test_a_host_has_one_budget_in_all_of_its_network(ip: ipaddress.IPv6Address, low: int) -> None:
    """The last 64 bits of an IPv6 address, which a host chooses, change nothing."""
    other = ipaddress.IPv6Address(int(ip) >> 64 << 64 | low)
    if ip.ipv4_mapped is None and other.ipv4_mapped is None:
        assert canonical_address(str(other)) == canonical_address(str(ip))
        assert canonical_address(f"{ip}%eth0") == canonical_address(ip.exploded)


def test_sweeping() -> None:
    """A sweep forgets what no longer matters, and nothing else."""
    limiter = attempts()
    fail(limiter, 10)
    fail(limiter, 1, 290.0, (Source("192.0.2.8"),))
    assert limiter.sweep(299.0) == 0
    assert limiter.sweep(301.0) == 1
    assert len(limiter) == 1
    assert limiter.sweep(350.0) == 1


def test_a_full_table_gives_up_who_is_not_locked_first() -> None:
    """A flood of addresses does not free those that are locked; of them the oldest goes last."""
    limiter = attempts(maximum=3)
    fail(limiter, 10)
    for number in range(20):
        fail(limiter, 1, 0.0, (Source(f"198.51.100.{number}"),))
    assert len(limiter) == 3
    assert limiter.wait_s(REMOTE, TOKEN, 0.0) == 300
    for number in range(20, 23):
        fail(limiter, 10, 1.0, (Source(f"198.51.100.{number}"),))
    assert len(limiter) == 3
    assert limiter.wait_s(REMOTE, TOKEN, 1.0) == 0


class Limiter(RuleBasedStateMachine):
    """The limiter beside a plain list of what happened."""

    def __init__(self) -> None:
        super().__init__()
        self.limiter = Attempts(failures_max=3, window_s=10, lock_s=30, maximum=4)
        self.now = 0.0
        self.recent: list[float] = []
        self.until = 0.0

    @rule(seconds=st.sampled_from([0.0, 1.0, 4.0, 9.0, 31.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def fail(self) -> None:
        if self.limiter.wait_s(REMOTE, TOKEN, self.now) > 0:
            return
        self.limiter.failed(REMOTE, TOKEN, self.now)
        if 0 < self.until <= self.now:
            self.recent, self.until = [], 0.0
        self.recent = [at for at in self.recent if at > self.now - 10] + [self.now]
        if len(self.recent) >= 3:
            self.until = self.now + 30

    @rule()
    def succeed(self) -> None:
        if self.until <= self.now:
            self.limiter.succeeded(REMOTE, TOKEN)
            self.recent, self.until = [], 0.0

    @rule(number=st.integers(0, 2))
    def somebody_else(self, number: int) -> None:
        self.limiter.failed((Source(str(number)),), TOKEN, self.now)

    @rule()
    def sweep(self) -> None:
        self.limiter.sweep(self.now)

    @invariant()
    def as_it_should(self) -> None:
        expected = max(0.0, self.until - self.now)
        assert max(0.0, self.limiter.wait_s(REMOTE, TOKEN, self.now)) == expected
        assert len(self.limiter) <= 4


TestLimiter = Limiter.TestCase


def test_sweeping_what_was_told_of() -> None:
    """Loopback's recent failures outlive the time in which nobody is told again."""
    limiter = attempts(lock_s=30)
    fail(limiter, 10, 0.0, HERE)
    limiter.sweep(31.0)
    assert limiter.failed(HERE, TOKEN, 31.0).delay_s == MAX_DELAY_S
