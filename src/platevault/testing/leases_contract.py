"""What every lease store must do; subclass `LeasesContract` in a test."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from typing_extensions import override

from platevault.domain.errors import UsageError
from platevault.ports.leases import Grant, Leases

#: Lets time pass for the store under test [s].
Advance = Callable[[float], Awaitable[None]]
#: Opens an empty store, and gives it with what lets time pass for it.
OpenLeases = Callable[[], AbstractAsyncContextManager[tuple[Leases, Advance]]]

_NAMES = ("image-1/00/1", "image-1/00/2")
_HOLDERS = ("f1", "f2", "f3")


class LeasesContract:
    """Give the fixtures ``leases``, ``advance`` and ``open_leases``.

    ``leases`` is an empty `Leases`, ``advance`` lets time pass for it (`Advance`);
    ``open_leases`` opens empty stores (`OpenLeases`) for the state machine, outside the loop of
    the test.
    """

    #: Unit of the times below [s]; small where time is real.
    unit_s: ClassVar[float] = 10.0
    #: Examples and steps of the state machine; few where time is real.
    machine: ClassVar[settings] = settings(max_examples=60, stateful_step_count=40)

    async def test_one_holder_at_a_time(self, leases: Leases) -> None:
        grant = await leases.acquire("w", holder="f1", ttl_s=self.unit_s)
        assert grant is not None
        assert (grant.name, grant.holder) == ("w", "f1")
        assert await leases.acquire("w", holder="f2", ttl_s=self.unit_s) is None
        assert await leases.current("w") == grant

    async def test_of_many_at_once_one_gets_it(self, leases: Leases) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(leases.acquire("w", holder=f"f{n}", ttl_s=self.unit_s))
                for n in range(20)
            ]
        winners = [grant for task in tasks if (grant := task.result()) is not None]
        assert len(winners) == 1
        assert await leases.current("w") == winners[0]

    async def test_names_do_not_know_each_other(self, leases: Leases) -> None:
        one = await leases.acquire("w1", holder="f1", ttl_s=self.unit_s)
        two = await leases.acquire("w2", holder="f2", ttl_s=self.unit_s)
        assert one is not None
        assert two is not None
        assert await leases.current("w1") == one

    async def test_nobody_holds_what_was_never_taken(self, leases: Leases) -> None:
        assert await leases.current("w") is None

    async def test_the_holder_gets_its_grant_again_and_longer(
        self, leases: Leases, advance: Advance
    ) -> None:
        first = await leases.acquire("w", holder="f1", ttl_s=2 * self.unit_s)
        await advance(self.unit_s)
        again = await leases.acquire("w", holder="f1", ttl_s=2 * self.unit_s)
        assert first is not None
        assert again is not None
        assert again.fence == first.fence
        assert again.expires_tai > first.expires_tai

    async def test_a_lease_lapses(self, leases: Leases, advance: Advance) -> None:
        first = await leases.acquire("w", holder="f1", ttl_s=self.unit_s)
        assert first is not None
        await advance(1.5 * self.unit_s)
        assert await leases.current("w") is None
        assert await leases.renew(first, ttl_s=self.unit_s) is None
        second = await leases.acquire("w", holder="f2", ttl_s=self.unit_s)
        assert second is not None
        assert second.fence > first.fence

    async def test_a_renewed_lease_lasts(self, leases: Leases, advance: Advance) -> None:
        grant = await leases.acquire("w", holder="f1", ttl_s=2 * self.unit_s)
        for _ in range(3):
            assert grant is not None
            await advance(self.unit_s)
            renewed = await leases.renew(grant, ttl_s=2 * self.unit_s)
            assert renewed is not None
            assert renewed.fence == grant.fence
            assert renewed.expires_tai > grant.expires_tai
            grant = renewed
        assert await leases.acquire("w", holder="f2", ttl_s=self.unit_s) is None

    async def test_an_old_grant_renews_and_releases_nothing(
        self, leases: Leases, advance: Advance
    ) -> None:
        old = await leases.acquire("w", holder="f1", ttl_s=self.unit_s)
        assert old is not None
        await advance(1.5 * self.unit_s)
        new = await leases.acquire("w", holder="f2", ttl_s=100 * self.unit_s)
        assert await leases.renew(old, ttl_s=self.unit_s) is None
        await leases.release(old)
        assert await leases.current("w") == new

    async def test_an_old_grant_of_the_same_holder_renews_and_releases_nothing(
        self, leases: Leases, advance: Advance
    ) -> None:
        old = await leases.acquire("w", holder="f1", ttl_s=self.unit_s)
        assert old is not None
        await advance(1.5 * self.unit_s)
        new = await leases.acquire("w", holder="f1", ttl_s=100 * self.unit_s)
        assert new is not None
        assert new.fence > old.fence
        assert await leases.renew(old, ttl_s=self.unit_s) is None
        await leases.release(old)
        assert await leases.current("w") == new

    async def test_what_was_released_is_free_and_its_fence_is_not_used_again(
        self, leases: Leases
    ) -> None:
        first = await leases.acquire("w", holder="f1", ttl_s=self.unit_s)
        assert first is not None
        await leases.release(first)
        await leases.release(first)
        assert await leases.current("w") is None
        assert await leases.renew(first, ttl_s=self.unit_s) is None
        second = await leases.acquire("w", holder="f1", ttl_s=self.unit_s)
        assert second is not None
        assert second.fence > first.fence

    @pytest.mark.parametrize("ttl_s", [0.0, -1.0])
    async def test_a_lease_that_does_not_last_is_refused(
        self, leases: Leases, ttl_s: float
    ) -> None:
        with pytest.raises(UsageError):
            await leases.acquire("w", holder="f1", ttl_s=ttl_s)
        assert await leases.current("w") is None

    async def test_a_cancelled_call_is_whole_or_nothing(self, leases: Leases) -> None:
        for steps in range(8):
            name = f"w{steps}"
            task = asyncio.get_running_loop().create_task(
                leases.acquire(name, holder="f1", ttl_s=100 * self.unit_s)
            )
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})
            other = await leases.acquire(name, holder="f2", ttl_s=100 * self.unit_s)
            present = await leases.current(name)
            assert present is not None
            assert present.holder == ("f1" if other is None else "f2")

    def test_any_sequence_of_calls_agrees_with_the_oracle(self, open_leases: OpenLeases) -> None:
        unit_s = self.unit_s

        class Machine(_LeasesMachine):
            opener = staticmethod(open_leases)
            unit = unit_s

        run_state_machine_as_test(Machine, settings=self.machine)


class _LeasesMachine(RuleBasedStateMachine):
    """Compares a store with a list of who was given what until when.

    Times are odd numbers of half units, and steps are whole units, so that no lease ends at the
    very moment of a call.
    """

    opener: ClassVar[Any]
    unit: ClassVar[float]

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._opened: AbstractAsyncContextManager[tuple[Leases, Advance]] = self.opener()
        self._leases, self._advance = self._runner.run(self._opened.__aenter__())
        self._now = 0
        #: Every grant ever given: name, holder, fence; and until when, in half units.
        self._given: list[tuple[Grant, int]] = []

    @override
    def teardown(self) -> None:
        self._runner.run(self._opened.__aexit__(None, None, None))
        self._runner.close()

    def _holder(self, name: str) -> tuple[Grant, int] | None:
        of_name = [entry for entry in self._given if entry[0].name == name]
        if not of_name or of_name[-1][1] <= self._now:
            return None
        return of_name[-1]

    def _check_current(self, name: str) -> None:
        present = self._runner.run(self._leases.current(name))
        expected = self._holder(name)
        assert (present is None) == (expected is None)
        if present is not None and expected is not None:
            assert (present.holder, present.fence) == (expected[0].holder, expected[0].fence)

    @rule(name=st.sampled_from(_NAMES), holder=st.sampled_from(_HOLDERS), length=st.integers(0, 4))
    def acquire(self, name: str, holder: str, length: int) -> None:
        half_units = 2 * length + 1
        grant = self._runner.run(
            self._leases.acquire(name, holder=holder, ttl_s=half_units * self.unit / 2)
        )
        present = self._holder(name)
        if present is not None and present[0].holder != holder:
            assert grant is None
            return
        assert grant is not None
        assert (grant.name, grant.holder) == (name, holder)
        if present is not None:
            assert grant.fence == present[0].fence
        else:
            assert all(grant.fence > old.fence for old, _ in self._given if old.name == name)
        self._given.append((grant, self._now + half_units))

    @rule(which=st.integers(0, 30), length=st.integers(0, 4))
    def renew(self, which: int, length: int) -> None:
        if not self._given:
            return
        grant, _ = self._given[which % len(self._given)]
        half_units = 2 * length + 1
        renewed = self._runner.run(self._leases.renew(grant, ttl_s=half_units * self.unit / 2))
        present = self._holder(grant.name)
        if present is None or present[0].fence != grant.fence:
            assert renewed is None
            return
        assert renewed is not None
        assert (renewed.holder, renewed.fence) == (grant.holder, grant.fence)
        self._given.append((renewed, self._now + half_units))

    @rule(which=st.integers(0, 30))
    def release(self, which: int) -> None:
        if not self._given:
            return
        grant, _ = self._given[which % len(self._given)]
        present = self._holder(grant.name)
        self._runner.run(self._leases.release(grant))
        if present is not None and present[0].fence == grant.fence:
            self._given.append((present[0], self._now))
        self._check_current(grant.name)

    @rule(units=st.integers(1, 3))
    def let_time_pass(self, units: int) -> None:
        self._runner.run(_run(self._advance, units * self.unit))
        self._now += 2 * units
        for name in _NAMES:
            self._check_current(name)


async def _run(advance: Advance, duration_s: float) -> None:
    await advance(duration_s)
