"""The Header Service: a component per camera that gives each exposure its header.

It listens in every state, so that nothing is lost while it is not ENABLED; headers go out only
while it is. Each exposure has a task of its own: none waits for another, and what goes wrong with
one is logged and stays with it.

References
----------
Header contract, parts A and B.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import structlog
from typing_extensions import override

from platevault.csc.csc import Csc
from platevault.domain.camera import Camera
from platevault.domain.errors import PlatevaultError, TransientError
from platevault.domain.header_sources import TopicMode, TopicPolicy
from platevault.domain.headers import HeaderDocument, HeaderValue
from platevault.domain.ids import ImageName, InvalidNameError
from platevault.domain.keywords import KeywordSet
from platevault.domain.lifecycles import SummaryState
from platevault.domain.samples import Sample
from platevault.ports.clock import Clock
from platevault.ports.object_store import (
    ObjectStore,
    StoredObject,
)
from platevault.ports.sample_bus import SampleBus
from platevault.runtime.queues import BoundedQueue, Overflow
from platevault.runtime.service import StopToken
from platevault.runtime.waiting import wait_first
from platevault.sal.schema import Interfaces
from platevault.services.header_service.assessing import checked_correction
from platevault.services.header_service.building import HeaderBuilder
from platevault.services.header_service.delivery import HeaderDelivery, header_key
from platevault.services.header_service.exposures import (
    IMAGE_TOPICS,
    Correction,
    ExposureEvents,
)
from platevault.services.header_service.images import Closing, OpenImage, Timing
from platevault.services.header_service.journal import HeaderJournal
from platevault.services.header_service.listening import Listener
from platevault.services.header_service.making import HeaderMaker
from platevault.services.header_service.observing import HeaderObserver, NoObserver
from platevault.services.header_service.recovery import PastState, Recovery
from platevault.services.header_service.sampling import Samples, reading_of

#: Names of exposures whose header is out that are remembered, so that a late repeat is none.
_REMEMBERED = 10_000
#: Saves of open exposures that may wait; an older one of the same exposure is worth nothing.
_SAVES_LIMIT = 1_000
#: True type of the announced form.
MIME_TYPE = "application/yaml"
_LISTENING_LIMIT_S = 30.0
#: Events of an image are told apart by when they were sent.
_AS_SENT = TopicPolicy("*.*", TopicMode.IMAGE)
_ALL_STATES = frozenset(SummaryState) - {SummaryState.OFFLINE}

_log = structlog.get_logger(__name__)


class ErrorCode(IntEnum):
    """Codes of faults, one per cause; 9 is historical."""

    STORE = 9
    """A header can be put nowhere."""
    INTERNAL = 12
    """A bug."""


class NotPermittedError(TransientError):
    """The component ends and never was ENABLED again: what is held comes out after a restart."""


class NotListeningError(TransientError):
    """The bus did not take the subscription in time: command again."""


@dataclass(frozen=True, slots=True)
class HeaderServiceOptions:
    """How a Header Service works.

    Attributes
    ----------
    timing
        How long headers wait for what.
    keep_s
        How far back telemetry is kept: the longest exposure and a minute [s].
    recall_s
        How far back the bus is asked at the start for what came while no process of ours was
        there [s]: a restart, and the age limit of weather before it (header contract, B1.6).
    retain_s
        How long after its last event an exposure can still be amended from memory [s].
    images_limit
        Exposures in memory at once; beyond it the oldest is given up, with an error.
    formats
        Forms that go into the annex: ``yaml`` always, ``json``, ``fits``.
    texts
        Values of the schema's ``config:`` sources.
    """

    timing: Timing = field(default_factory=Timing)
    keep_s: float = 960.0
    recall_s: float = 180.0
    retain_s: float = 600.0
    images_limit: int = 300
    formats: Sequence[str] = ("yaml", "json")
    texts: Mapping[str, HeaderValue] = field(default_factory=lambda: {"origin": "Platevault"})


class HeaderServiceCsc(Csc):
    """{AT,CC,MT,GC}HeaderService.

    Parameters
    ----------
    camera
        Whose headers.
    keywords
        Its keyword set.
    store
        The large file annex.
    spool
        Local store for open exposures and for what the annex does not take; without it a restart
        loses them.
    options, observer
        How it works, and who hears of it.
    bus, interfaces, clock, version, simulation_mode, initial_state, check_duplicates
        As for `Csc`.
    """

    def __init__(
        self,
        *,
        camera: Camera,
        keywords: KeywordSet,
        store: ObjectStore,
        bus: SampleBus,
        interfaces: Interfaces,
        clock: Clock,
        version: str,
        spool: ObjectStore | None = None,
        options: HeaderServiceOptions | None = None,
        observer: HeaderObserver | None = None,
        simulation_mode: int = 0,
        initial_state: SummaryState = SummaryState.STANDBY,
        check_duplicates: bool = False,
    ) -> None:
        super().__init__(
            component=camera.components.header_service,
            sal_index=camera.components.sal_index,
            bus=bus,
            interfaces=interfaces,
            clock=clock,
            version=version,
            simulation_mode=simulation_mode,
            initial_state=initial_state,
            check_duplicates=check_duplicates,
        )
        self._camera = camera
        self._keywords = keywords
        self._options = options or HeaderServiceOptions()
        self._observer = observer or NoObserver()
        self._store = store
        self._builder = HeaderBuilder(camera=camera, keywords=keywords, texts=self._options.texts)
        self._samples = Samples(keywords=keywords, keep_s=self._options.keep_s)
        self._listener = Listener(
            bus=bus,
            interfaces=interfaces,
            clock=clock,
            keywords=keywords,
            group=self.name,
            recall_s=self._options.recall_s,
            take=self._take,
            is_settled=self._is_settled,
        )
        topics = self._listener.image_topics()
        self._journal = HeaderJournal(component=self.name, store=spool, topics=topics)
        self._delivery = HeaderDelivery(
            component=self.name,
            store=store,
            journal=self._journal,
            announce=self._announce,
            permitted=self._permitted,
            no_output=self._no_output,
            clock=clock,
            observer=self._observer,
            formats=self._options.formats,
        )
        self._recovery = Recovery(
            samples=self._samples,
            limit_s=self._options.timing.recover_s,
            clock=clock,
            observer=self._observer,
            say=self._say,
        )
        self._maker = HeaderMaker(
            camera=camera,
            builder=self._builder,
            samples=self._samples,
            delivery=self._delivery,
            journal=self._journal,
            closing=Closing.of(keywords, known=topics),
            timing=self._options.timing,
            recovery=self._recovery,
            retain_s=self._options.retain_s,
            clock=clock,
            observer=self._observer,
            say=self._say,
        )
        self._images: OrderedDict[str, OpenImage] = OrderedDict()
        self._finished: OrderedDict[str, None] = OrderedDict()
        self._enabled = asyncio.Event()
        self._listening = asyncio.Event()
        self._ending = StopToken()
        self._saves: BoundedQueue[str] = BoundedQueue(
            max_items=_SAVES_LIMIT, overflow=Overflow.DROP_OLDEST
        )
        self._group: asyncio.TaskGroup | None = None
        self.while_in(
            _ALL_STATES, self._work, name=f"{self.name} headers", error_code=ErrorCode.INTERNAL
        )

    # --- states -----------------------------------------------------------------------------------

    @override
    async def on_start(self, settings: object) -> None:
        listening, limit_s = self._listening, _LISTENING_LIMIT_S
        await wait_first(listening.wait(), self._recovery.opened(), self.clock.sleep(limit_s))
        if self._images:
            return  # a silent bus must not cost the headers of exposures that are in hand
        await wait_first(listening.wait(), self.clock.sleep(limit_s))
        if not listening.is_set():
            raise NotListeningError("The bus gives no samples", limit_s=limit_s)

    @override
    async def on_enable(self) -> None:
        try:
            await self._store.stat(header_key(self.name, "probe", 1))
        except TransientError as error:
            if not self._journal.is_durable:
                raise
            await self.log(
                logging.WARNING, "Annex is down; headers are held back", problem=str(error)
            )

    @override
    async def on_state(self, state: SummaryState) -> None:
        if state is SummaryState.ENABLED:
            self._enabled.set()
        else:
            self._enabled.clear()

    @property
    def past(self) -> PastState:
        """What became of the past that the bus kept for this start."""
        return self._recovery.state

    async def _permitted(self) -> None:
        """Return once headers may go out."""
        while not self._enabled.is_set():
            if self._ending.requested:
                raise NotPermittedError("The component ends before it was ENABLED")
            await wait_first(self._enabled.wait(), self._ending.wait())

    async def _no_output(self, problem: str) -> None:
        await self.fault(ErrorCode.STORE, f"Headers can be put nowhere: {problem}")

    # --- reception --------------------------------------------------------------------------------

    async def _work(self, stop: StopToken) -> None:
        self._ending = stop
        self._recovery.begin()
        async with asyncio.TaskGroup() as group:
            self._group = group
            await self._resume(group)
            saving = group.create_task(self._save_open(), name=f"{self.name} journal")
            group.create_task(self._listener.catch_up(stop), name=f"{self.name} catch-up")
            group.create_task(self._recover(stop), name=f"{self.name} recovery")
            await self._listener.follow(stop, self._listening.set, self._recovery.past_taken)
            self._listening.clear()
            saving.cancel()

    async def _recover(self, stop: StopToken) -> None:
        if await self._recovery.watch(stop):
            for image in self._images.values():
                image.changed.set()

    async def _resume(self, group: asyncio.TaskGroup) -> None:
        try:
            entries = await self._journal.open_exposures()
        except TransientError as error:
            _log.error("Open exposures cannot be read", component=self.name, problem=str(error))
            return
        now = self.clock.now_tai()
        for entry in entries:
            events = ExposureEvents(entry.image, self._camera.readout_s, dict(entry.events))
            image = OpenImage(events, now, resumed=True, missed=True, kept=dict(entry.kept))
            image.arrivals.update(dict.fromkeys(entry.events, now))
            self._open(image)
        group.create_task(self._resend(), name=f"{self.name} held back")

    async def _resend(self) -> None:
        try:
            await self._delivery.resend(self._ending)
        except PlatevaultError as error:
            _log.error("Header still held back", component=self.name, problem=str(error))

    def _take(self, sample: Sample) -> None:
        topic = sample.topic
        mine = (topic.component, sample.sal_index) == (
            self._keywords.camera_component,
            self._keywords.sal_index,
        )
        if mine and topic.name in IMAGE_TOPICS:
            self._take_event(sample)
        else:
            self._samples.take(sample)

    def _take_event(self, sample: Sample) -> None:
        name = str(sample.fields.get("imageName") or "")
        if name in self._finished:
            return
        image = self._images.get(name)
        if image is None:
            try:
                ImageName.parse(name)
            except InvalidNameError:
                _log.error("Event names no image", component=self.name, image=name[:64])
                return
            events = ExposureEvents(name, self._camera.readout_s)
            missed = self._recovery.under_way
            image = OpenImage(events, self.clock.now_tai(), missed=missed)
            self._open(image)
        reading = reading_of(sample, _AS_SENT)
        if image.take(sample.topic.name, reading, self.clock.now_tai()):
            self._saves.put_nowait(name)

    def _open(self, image: OpenImage) -> None:
        assert self._group is not None
        name = image.events.image
        while len(self._images) >= self._options.images_limit:
            oldest, given_up = self._images.popitem(last=False)
            if given_up.task is not None:
                given_up.task.cancel()
            _log.error("Header given up: too many are open", component=self.name, image=oldest)
        self._images[name] = image
        image.task = self._group.create_task(self._follow(image), name=f"header {name}")

    def _is_settled(self) -> bool:
        return all(image.document is not None for image in self._images.values())

    # --- one exposure -----------------------------------------------------------------------------

    async def _follow(self, image: OpenImage) -> None:
        name = image.events.image
        try:
            await self._maker.follow(image, self._ending)
        except TransientError as error:
            _log.warning("Header held for a restart", image=name, problem=str(error))
        except Exception as error:  # noqa: BLE001 (outermost of this image: others go on)
            self._observer.image_failed(name)
            await self.log(
                logging.ERROR,
                "Header failed",
                traceback=traceback.format_exc(),
                image=name,
                problem=str(error),
            )
        finally:
            self._images.pop(name, None)
            image.fail(NotPermittedError("The exposure is not followed any more", image=name))
            if image.document is not None:
                self._finished[name] = None
                while len(self._finished) > _REMEMBERED:
                    self._finished.popitem(last=False)

    async def _save_open(self) -> None:
        async for name in self._saves:
            image = self._images.get(name)
            if image is None or image.is_out():
                continue
            kept = {**image.kept, **self._builder.snapshot(image.events, self._samples)}
            try:
                await self._journal.save(image.events, kept)
                if image.is_out():
                    await self._journal.forget(name)
            except PlatevaultError as error:
                _log.error("Open exposure not saved", image=name, problem=str(error))

    async def amend(
        self, image: str, values: Mapping[str, object], *, author: str, reason: str
    ) -> int:
        """Correct the header of an exposure; gives the version that has the correction.

        Parameters
        ----------
        image
            Image name.
        values
            By FITS keyword; ``None`` makes a value undefined.
        author, reason
            Who and why; they go into the header's records.

        Raises
        ------
        RejectedValueError
            A value may not stand in a header. Mend it; nothing was changed.
        ObjectMissingError
            There is no header of the image, and none is being made.
        """
        self.require_enabled("amend")
        followed = self._images.get(image)
        if followed is None:
            return await self._maker.amend(
                image, values, author=author, reason=reason, stop=self._ending
            )
        checked = checked_correction(values, self._keywords)
        return await followed.correct(Correction(checked, author, reason))

    async def _announce(self, document: HeaderDocument, stored: StoredObject) -> None:
        await self.publish(
            "largeFileObjectAvailable",
            force=True,
            url=stored.url,
            generator=self.name,
            version=float(document.version),
            byteSize=stored.size_bytes,
            checkSum=stored.md5,
            mimeType=MIME_TYPE,
            id=document.image,
        )

    async def _say(self, level: int, sentence: str, facts: Mapping[str, object]) -> None:
        await self.log(level, sentence, **facts)
