"""What an Archiver depends on, watched; an outage is said at once and a fault when it lasts."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from platevault.ports.clock import Clock
from platevault.ports.leases import LeasesUnavailableError
from platevault.ports.work_queue import QueueUnavailableError
from platevault.runtime.service import StopToken
from platevault.runtime.work import pause
from platevault.services.archiver.controller_link import ControllerLink, ControllerSilentError
from platevault.services.archiver.faults import ArchiverFault, Outage
from platevault.services.archiver.forwarder_pool import ForwarderPool
from platevault.services.archiver.observing import ArchiverObserver
from platevault.services.archiver.settings import ArchiverConfiguration


class Watch:
    """Watches Forwarders and Archive Controller, and keeps count of outages.

    The Archiver stays ENABLED through an outage: exposures go on into the ledger, and catch-up
    brings them home. An outage that lasts longer than ``fault_after_s`` is a fault, for nobody
    looks into logs.

    Parameters
    ----------
    camera
        Camera name.
    clock, controller, pool, observer
        What it works with.
    settings
        Gives the settings in use.
    fault, log
        The voice of the component.
    """

    def __init__(
        self,
        *,
        camera: str,
        clock: Clock,
        controller: ControllerLink,
        pool: ForwarderPool,
        observer: ArchiverObserver,
        settings: Callable[[], ArchiverConfiguration],
        fault: Callable[[int, str], Awaitable[None]],
        log: Callable[..., Awaitable[None]],
    ) -> None:
        self._camera = camera
        self._clock = clock
        self._controller = controller
        self._pool = pool
        self._observer = observer
        self._settings = settings
        self._fault = fault
        self._log = log
        self._outages = {code: Outage(code=code, clock=clock) for code in ArchiverFault}

    def forget(self) -> None:
        """Begin anew: everything was just reached."""
        for outage in self._outages.values():
            outage.ended()

    async def is_out(self, code: ArchiverFault, problem: str) -> None:
        """Note an outage; go to FAULT when it lasts."""
        outage = self._outages[code]
        if outage.began():
            await self._log(
                logging.ERROR, "Outage began", code=int(code), cause=code.name, problem=problem
            )
        limit_s = self._settings().fault_after_s
        if limit_s and outage.lasted_s >= limit_s:
            outage.ended()
            await self._fault(int(code), f"{int(code)}: lasts longer than {limit_s:g} s: {problem}")

    async def is_back(self, code: ArchiverFault) -> None:
        """Note the end of an outage, if there was one."""
        if self._outages[code].ended():
            await self._log(logging.INFO, "Outage is over", code=int(code), cause=code.name)

    async def forwarders(self, stop: StopToken) -> None:
        """Keep Forwarders until the stop."""
        while True:
            await pause(self._clock, stop, self._settings().watch_s)
            if stop.requested:
                return
            try:
                change = await self._pool.look(self._settings())
            except LeasesUnavailableError as error:
                await self.is_out(ArchiverFault.LEASES_DOWN, str(error))
                continue
            except QueueUnavailableError as error:
                await self.is_out(ArchiverFault.QUEUE_DOWN, str(error))
                continue
            await self.is_back(ArchiverFault.LEASES_DOWN)
            if change.lost:
                await self._log(
                    logging.ERROR, "Forwarder lost", forwarders=change.lost, taken=change.gained
                )
            elif change.gained:
                await self._log(logging.INFO, "Forwarder taken", forwarders=change.gained)
            paired = self._pool.paired
            self._observer.forwarders_paired(self._camera, len(paired))
            if paired:
                await self.is_back(ArchiverFault.FORWARDER_LOST)
            else:
                await self.is_out(ArchiverFault.FORWARDER_LOST, "no Forwarder is paired")

    async def controller(self, stop: StopToken) -> None:
        """Check the health of the Archive Controller until the stop."""
        while True:
            await pause(self._clock, stop, self._settings().health_s)
            if stop.requested:
                return
            try:
                await self._controller.check(limit_s=self._settings().controller_timeout_s)
            except ControllerSilentError as error:
                await self.is_out(ArchiverFault.CONTROLLER_SILENT, str(error))
            except QueueUnavailableError as error:
                await self.is_out(ArchiverFault.QUEUE_DOWN, str(error))
            else:
                await self.is_back(ArchiverFault.CONTROLLER_SILENT)
                await self.is_back(ArchiverFault.QUEUE_DOWN)
