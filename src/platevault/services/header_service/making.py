"""Makes the header of one exposure, and its later versions.

References
----------
Header contract, sections B2 to B4 and B8.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping

from platevault.domain.camera import Camera
from platevault.domain.errors import PermanentError, TransientError
from platevault.domain.header_validation import problems_of
from platevault.domain.headers import HeaderDocument, HeaderStatus
from platevault.ports.clock import Clock
from platevault.ports.object_store import ObjectConflictError, ObjectMissingError
from platevault.runtime.service import StopToken
from platevault.runtime.waiting import wait_first
from platevault.services.header_service.assessing import (
    amended,
    checked_correction,
    corrected,
    describe_missing,
)
from platevault.services.header_service.building import HeaderBuilder
from platevault.services.header_service.delivery import HeaderDelivery
from platevault.services.header_service.exposures import Correction
from platevault.services.header_service.images import Closing, OpenImage, Timing
from platevault.services.header_service.journal import HeaderJournal
from platevault.services.header_service.observing import HeaderObserver
from platevault.services.header_service.recovery import Recovery, StoppedWaitingError
from platevault.services.header_service.sampling import Samples

#: How often a header is tried again when somebody else wrote the same version meanwhile.
_VERSION_TRIES = 5

Say = Callable[[int, str, Mapping[str, object]], Awaitable[None]]


class VersionConflictError(PermanentError):
    """Others write versions of the same header all the time: find out who, then try again."""


class HeaderMaker:
    """Turns open exposures into published headers.

    Parameters
    ----------
    camera, builder, samples
        What headers are made of.
    delivery, journal
        Where they go, and what survives a restart.
    closing, timing, recovery
        When a header is due.
    retain_s
        How long after its last event an exposure is amended from memory [s].
    clock, observer
        Time, and who hears of the work.
    say
        Logs with a level, a sentence and facts, also on the bus.
    """

    def __init__(
        self,
        *,
        camera: Camera,
        builder: HeaderBuilder,
        samples: Samples,
        delivery: HeaderDelivery,
        journal: HeaderJournal,
        closing: Closing,
        timing: Timing,
        recovery: Recovery,
        retain_s: float,
        clock: Clock,
        observer: HeaderObserver,
        say: Say,
    ) -> None:
        self._camera = camera
        self._builder = builder
        self._samples = samples
        self._delivery = delivery
        self._journal = journal
        self._closing = closing
        self._timing = timing
        self._recovery = recovery
        self._retain_s = retain_s
        self._clock = clock
        self._observer = observer
        self._say = say

    async def follow(self, image: OpenImage, stop: StopToken) -> None:
        """Publish the header of an exposure when it is due, and amend it while it is in memory.

        Raises
        ------
        StoppedWaitingError, NotPermittedError, DestinationDownError
            ``stop`` came first. Nothing is lost that the journal could take.
        """
        name = image.events.image
        await self._recovery.wait(name, stop)
        await self._await_events(image, stop)
        if image.missed:
            await self._recovery.wait_telemetry(name, lambda: self._lacks_telemetry(image), stop)
        await self._publish_first(image, stop)
        await self._forget(image)
        while await self._await_news(image, stop):
            document = await self._build(image)
            assert image.document is not None
            await self._publish_next(image, document, stop)

    async def amend(
        self, image: str, values: Mapping[str, object], *, author: str, reason: str, stop: StopToken
    ) -> int:
        """Correct a header that is only in the annex; gives the new version.

        Raises
        ------
        RejectedValueError
            A value may not stand in a header. Mend it.
        ObjectMissingError
            The annex has no header of the image.
        """
        keywords = self._builder.keywords
        correction = Correction(checked_correction(values, keywords), author, reason)
        for _ in range(_VERSION_TRIES):
            found = await self._delivery.newest(image)
            if found is None:
                raise ObjectMissingError("There is no header of this image", image=image)
            document = corrected(found[0], correction, keywords)
            if document is None:
                return found[0].version
            try:
                await self._delivery.deliver(document, stop)
            except ObjectConflictError:
                continue
            await self._tell(document, None)
            return document.version
        raise VersionConflictError("Header is being amended by others", image=image)

    # --- first version ----------------------------------------------------------------------------

    def _lacks_telemetry(self, image: OpenImage) -> bool:
        return self._builder.lacks_telemetry(image.events, self._samples, image.kept)

    async def _await_events(self, image: OpenImage, stop: StopToken) -> None:
        while True:
            wait_s = image.wait_s(self._closing, self._timing, self._clock.now_tai())
            if wait_s <= 0.0:
                return
            if stop.requested:
                raise StoppedWaitingError("Exposure is still open", image=image.events.image)
            image.changed.clear()
            await wait_first(image.changed.wait(), self._clock.sleep(wait_s), stop.wait())

    async def _build(self, image: OpenImage) -> HeaderDocument:
        began = time.perf_counter()
        image.changed.clear()
        image.corrections_taken = len(image.events.corrections)
        document = self._builder.build(
            image.events,
            self._samples,
            version=1,
            created_tai=self._clock.now_tai(),
            kept=image.kept,
            missed=image.missed,
        )
        self._observer.header_built(document, duration_s=time.perf_counter() - began)
        keywords = self._builder.keywords
        problems = await asyncio.to_thread(problems_of, document, self._camera, keywords)
        if problems:
            facts = {"image": document.image, "problems": "; ".join(problems[:8])}
            await self._say(logging.ERROR, "Header breaks its own rules", facts)
        return document

    async def _publish_first(self, image: OpenImage, stop: StopToken) -> None:
        document = await self._build(image)
        last_event_tai = image.last_arrival_tai
        try:
            await self._delivery.deliver(document, stop)
        except ObjectConflictError:
            found = await self._delivery.newest(document.image)
            if found is None:
                raise
            image.out(found[0])
            if image.resumed:
                await self._delivery.announce(*found, stop)
            await self._publish_next(image, document, stop)
            return
        image.out(document)
        await self._tell(document, last_event_tai)

    async def _forget(self, image: OpenImage) -> None:
        try:
            await self._journal.forget(image.events.image)
        except TransientError as error:
            facts = {"image": image.events.image, "problem": str(error)}
            await self._say(logging.WARNING, "Journal entry not removed", facts)

    # --- later versions ---------------------------------------------------------------------------

    async def _await_news(self, image: OpenImage, stop: StopToken) -> bool:
        """Return when there is something new; ``False`` when the exposure may be let go."""
        while not image.changed.is_set():
            left_s = image.last_arrival_tai + self._retain_s - self._clock.now_tai()
            if left_s <= 0 or stop.requested:
                return False
            await wait_first(image.changed.wait(), self._clock.sleep(left_s), stop.wait())
        return True

    async def _publish_next(
        self, image: OpenImage, document: HeaderDocument, stop: StopToken
    ) -> None:
        """Publish what ``document`` knows better than what is out, if anything."""
        last_event_tai = image.last_arrival_tai
        for _ in range(_VERSION_TRIES):
            assert image.document is not None
            better = amended(image.document, document, self._builder.keywords)
            if better is None:
                image.out(image.document)
                return
            try:
                await self._delivery.deliver(better, stop)
            except ObjectConflictError:
                found = await self._delivery.newest(better.image)
                if found is None or found[0].version <= image.document.version:
                    raise
                image.document = found[0]
                continue
            image.out(better)
            await self._tell(better, last_event_tai)
            return
        raise VersionConflictError("Header is being amended by others", image=document.image)

    async def _tell(self, document: HeaderDocument, last_event_tai: float | None) -> None:
        if last_event_tai is not None:
            latency_s = self._clock.now_tai() - last_event_tai
            self._observer.header_published(document, latency_s=latency_s)
        complete = document.status is HeaderStatus.COMPLETE
        await self._say(
            logging.INFO if complete else logging.WARNING,
            "Header published" if complete else "Header is not complete",
            {
                "image": document.image,
                "version": document.version,
                "status": str(document.status),
                "completeness": round(document.completeness, 4),
                "missing": describe_missing(document.missing),
                "changed": describe_missing(document.changed),
            },
        )
