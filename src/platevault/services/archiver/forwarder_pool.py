"""The Forwarders that work for an Archiver: leased, associated, watched, replaced."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import structlog

from platevault.domain.capture import PRIORITY_ANSWER
from platevault.domain.messages import Associated, AssociatedAck, HeaderReady
from platevault.domain.places import (
    FORWARDER_ROLE,
    forwarder_lease,
    forwarder_queue,
    work_queue,
)
from platevault.ports.clock import Clock
from platevault.ports.leases import Grant, Leases, LeasesUnavailableError
from platevault.ports.presence import Member, Presence
from platevault.ports.work_queue import QueueUnavailableError, WorkQueue
from platevault.runtime.limits import TimeLimitError, within
from platevault.runtime.waiting import wait_first
from platevault.services.archiver.faults import ArchiverFault, ArchiverFaultError
from platevault.services.archiver.settings import ArchiverConfiguration

#: Role under which Archivers that want Forwarders are present, for a fair share.
ARCHIVER_ROLE = "archiver"

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Held:
    """A Forwarder whose lease is held."""

    grant: Grant
    asked_tai: float
    answered: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True)
class PoolChange:
    """What a look at the Forwarders found.

    Attributes
    ----------
    lost
        Names of those that were paired and are not any more.
    gained
        Names of those that were taken in their place, or in addition.
    """

    lost: Sequence[str] = ()
    gained: Sequence[str] = ()


class ForwarderPool:
    """Holds up to ``forwarders`` Forwarders for one camera.

    Archivers share: where there are fewer Forwarders than all want, each keeps its part and lets
    the others have theirs.

    Parameters
    ----------
    archiver
        Name of the Archiver, holder of the leases. A restarted Archiver finds its own again.
    camera
        Camera name.
    reply_queue
        Where answers come in; whoever consumes it calls `heard`.
    leases, presence, queue, clock
        Ports.
    """

    def __init__(
        self,
        *,
        archiver: str,
        camera: str,
        reply_queue: str,
        leases: Leases,
        presence: Presence,
        queue: WorkQueue,
        clock: Clock,
    ) -> None:
        self._archiver = archiver
        self._camera = camera
        self._reply_queue = reply_queue
        self._leases = leases
        self._presence = presence
        self._queue = queue
        self._clock = clock
        self._held: dict[str, _Held] = {}
        self._deaf: dict[str, float] = {}  # when they did not answer [s, TAI]

    @property
    def paired(self) -> list[str]:
        """Names of the Forwarders that have answered, sorted."""
        return sorted(name for name, held in self._held.items() if held.answered.is_set())

    def heard(self, answer: AssociatedAck) -> bool:
        """Take an answer; ``False`` if it is out of date."""
        held = self._held.get(answer.forwarder)
        if held is None or held.grant.fence != answer.fence:
            return False
        held.answered.set()
        self._deaf.pop(answer.forwarder, None)
        return True

    async def pair(self, settings: ArchiverConfiguration) -> None:
        """Take Forwarders and wait for an answer.

        Raises
        ------
        ArchiverFaultError
            There is none (5701), the lease store is down (5702), the work queue is down (5703), or
            none answers (5752). Nothing is held.
        """
        try:
            await self._announce(settings)
            limit_s = settings.association_timeout_s
            with suppress(TimeLimitError):  # those that are held are judged below
                await within(self._clock, limit_s, self._take_some(settings), what="pairing")
            if not self.paired:
                code, text = ArchiverFault.NO_FORWARDER, "No Forwarder is free"
                if self._held:
                    code = ArchiverFault.ASSOCIATION_SILENT
                    text = "No Forwarder answers"
                raise ArchiverFaultError(
                    code, text, archiver=self._archiver, forwarders=sorted(self._held)
                )
        except LeasesUnavailableError as error:
            raise ArchiverFaultError(
                ArchiverFault.LEASES_DOWN, "Leases cannot be had", problem=str(error)
            ) from error
        except QueueUnavailableError as error:
            raise ArchiverFaultError(
                ArchiverFault.QUEUE_DOWN, "The work queue does not answer", problem=str(error)
            ) from error

    async def _take_some(self, settings: ArchiverConfiguration) -> None:
        """Return when a Forwarder has answered, or when there is none at all."""
        while not self.paired:
            alive = await self._alive()
            if not alive:
                return
            await self._top_up(alive, await self._share(alive, settings), settings)
            if self._held:
                await wait_first(*(held.answered.wait() for held in self._held.values()))
            else:
                await self._clock.sleep(settings.watch_s)  # another Archiver gives up its surplus

    async def look(self, settings: ArchiverConfiguration) -> PoolChange:
        """Renew leases, let go of who vanished, take spares; called every ``watch_s``.

        Raises
        ------
        LeasesUnavailableError, QueueUnavailableError
            Look again later; what is held stays held.
        """
        before = set(self.paired)
        await self._announce(settings)
        alive = await self._alive()
        now = self._clock.now_tai()
        for name, held in list(self._held.items()):
            member = alive.get(name)
            renewed = await self._leases.renew(held.grant, ttl_s=settings.lease_s)
            if renewed is None:
                self._held.pop(name, None)
            elif member is None:
                await self._drop(name)
            else:
                held.grant = renewed
                await self._remind(name, held, member, now, settings)
        share = await self._share(alive, settings)
        gained = await self._top_up(alive, share, settings)
        lost = sorted(before - set(self.paired))
        await self._let_go(alive, share)
        return PoolChange(lost, gained)

    async def hint(self, message: HeaderReady) -> None:
        """Tell every paired Forwarder that a header is there."""
        for name in self.paired:
            await self._queue.send(forwarder_queue(name), message, priority=PRIORITY_ANSWER)

    async def release_all(self) -> None:
        """Give every Forwarder back."""
        for name in list(self._held):
            await self._drop(name)
        try:
            await self._presence.withdraw(ARCHIVER_ROLE, self._archiver)
        except LeasesUnavailableError as error:
            _log.warning("Presence runs out by itself", problem=str(error))

    async def _announce(self, settings: ArchiverConfiguration) -> None:
        await self._presence.announce(
            ARCHIVER_ROLE,
            self._archiver,
            {"camera": self._camera, "forwarders": str(len(self._held))},
            ttl_s=settings.lease_s,
        )

    async def _alive(self) -> dict[str, Member]:
        """List Forwarders that can read this camera; one that says nothing of cameras can."""
        return {
            member.name: member
            for member in await self._presence.alive(FORWARDER_ROLE)
            if self._camera in member.facts.get("cameras", self._camera).split(",")
        }

    async def _share(self, alive: Mapping[str, Member], settings: ArchiverConfiguration) -> int:
        archivers = await self._presence.alive(ARCHIVER_ROLE)
        return max(1, min(settings.forwarders, len(alive) // max(1, len(archivers))))

    async def _top_up(
        self, alive: Mapping[str, Member], share: int, settings: ArchiverConfiguration
    ) -> list[str]:
        gained = []
        # Its own first, those that a former process of this name had; the deaf last.
        spares = sorted(
            alive,
            key=lambda name: (
                self._deaf.get(name, 0.0),
                alive[name].facts.get("archiver") != self._archiver,
                name,
            ),
        )
        for name in spares:
            if len(self._held) >= share:
                break
            if name in self._held:
                continue
            grant = await self._leases.acquire(
                forwarder_lease(name), holder=self._archiver, ttl_s=settings.lease_s
            )
            if grant is not None:
                self._held[name] = _Held(grant, self._clock.now_tai())
                gained.append(name)
                await self._associate(name, grant)
        return gained

    async def _associate(self, name: str, grant: Grant) -> None:
        message = Associated(
            archiver=self._archiver,
            forwarder=name,
            work_queue=work_queue(self._camera),
            reply_queue=self._reply_queue,
            fence=grant.fence,
        )
        await self._queue.send(forwarder_queue(name), message, priority=PRIORITY_ANSWER)

    async def _remind(
        self,
        name: str,
        held: _Held,
        member: Member,
        now: float,
        settings: ArchiverConfiguration,
    ) -> None:
        """Ask again a Forwarder that does not know of its pairing, as after its restart."""
        if member.facts.get("archiver") == self._archiver:
            return
        waited_s = now - held.asked_tai
        if held.answered.is_set() and member.seen_tai > held.asked_tai:
            held.answered.clear()
            held.asked_tai = now
            await self._associate(name, held.grant)
        elif not held.answered.is_set() and waited_s >= settings.association_timeout_s:
            _log.warning("Forwarder does not answer", forwarder=name, archiver=self._archiver)
            self._deaf[name] = now
            await self._drop(name)

    async def _let_go(self, alive: Mapping[str, Member], share: int) -> None:
        """Give up what another Archiver that has less than its share may take."""
        if len(self._held) <= share:
            return
        others = await self._presence.alive(ARCHIVER_ROLE)
        if any(
            int(other.facts.get("forwarders", "0")) < min(share, len(alive))
            for other in others
            if other.name != self._archiver
        ):
            surplus = max(self._held)
            await self._drop(surplus)
            _log.info("Forwarder left to another Archiver", forwarder=surplus)

    async def _drop(self, name: str) -> None:
        held = self._held.pop(name, None)
        if held is None:
            return
        try:
            await self._leases.release(held.grant)
        except LeasesUnavailableError as error:
            _log.warning("Lease runs out by itself", lease=held.grant.name, problem=str(error))
