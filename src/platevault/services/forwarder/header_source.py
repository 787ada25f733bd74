"""The header of an exposure's files: awaited, fetched, verified, or replaced by what is known."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from platevault.domain.camera import Camera
from platevault.domain.capture import NO_HEADER
from platevault.domain.errors import PlatevaultError, TransientError
from platevault.domain.header_fallback import fallback_document
from platevault.domain.header_formats import MalformedHeaderError, parse_header
from platevault.domain.headers import HeaderDocument, HeaderValue
from platevault.domain.inventory import ExposureRecord, HeaderReference
from platevault.domain.places import header_lease
from platevault.ports.clock import Clock
from platevault.ports.file_ledger import FileLedger, UnknownExposureError
from platevault.ports.leases import Leases
from platevault.ports.object_store import ObjectStore
from platevault.runtime.retry import Backoff, retry
from platevault.runtime.service import Deadline
from platevault.runtime.waiting import wait_first

#: Exposures whose header is kept for further boards.
_KEPT = 16
#: Life of the lease under which a choice is made [s]; the choice takes milliseconds.
_CHOICE_TTL_S = 10.0
_FETCH_BACKOFF = Backoff(first_s=0.1, ceiling_s=2.0)

_log = structlog.get_logger(__name__)


class HeaderDamagedError(TransientError):
    """The header object is not what its announcement says: fetch it again."""


class HeaderUnusableError(TransientError):
    """The header was announced and cannot be had: try the board again later."""


@dataclass(frozen=True, slots=True)
class FileHeader:
    """The header that all files of an exposure are written with.

    Attributes
    ----------
    document
        The header.
    problem
        Why it is not the full one; empty if it is.
    """

    document: HeaderDocument
    problem: str = ""


class HeaderSource:
    """Gives each exposure one header for all its files.

    The first header object announced is the one; if none was when the first board needed it, the
    exposure has none, and the ledger says so to everybody. Both choices are made under one lease.

    Parameters
    ----------
    ledger, leases, objects, clock
        Ports.
    holder
        Name for the lease of the choice.
    poll_s
        Time between looks at the ledger, if no hint comes [s].
    patience_s
        After the end of readout a header that was announced and cannot be had is given up [s].
    """

    def __init__(
        self,
        *,
        ledger: FileLedger,
        leases: Leases,
        objects: ObjectStore,
        clock: Clock,
        holder: str,
        poll_s: float = 1.0,
        patience_s: float = 600.0,
    ) -> None:
        self._ledger = ledger
        self._leases = leases
        self._objects = objects
        self._clock = clock
        self._holder = holder
        self._poll_s = poll_s
        self._patience_s = patience_s
        self._hints: dict[str, tuple[asyncio.Event, int]] = {}
        self._documents: OrderedDict[tuple[str, str], HeaderDocument] = OrderedDict()
        self._fetching: dict[str, asyncio.Lock] = {}

    def hint(self, image: str) -> None:
        """Say that the header of an image is there: whoever waits looks at once."""
        if image in self._hints:
            self._hints[image][0].set()

    async def header(self, camera: Camera, image: str, deadline: Deadline) -> FileHeader:
        """Give the header for the files of an exposure, waiting for it until the deadline.

        Raises
        ------
        HeaderUnusableError
            It was announced, cannot be had, and patience is not over. Try the board again.
        LedgerUnavailableError, LeasesUnavailableError
            Retry.
        """
        reference = await self._reference(image, deadline)
        record = await self._record(image)
        if reference.url == NO_HEADER.url:
            return FileHeader(_fallback(camera, record), "no header came")
        try:
            return FileHeader(await self._document(image, reference, deadline))
        except MalformedHeaderError as error:
            # Every board reads the same bytes, so every board comes to the same header.
            _log.error("Header is malformed", image=image, url=reference.url, problem=str(error))
            return FileHeader(_fallback(camera, record), f"header is malformed: {error.message}")
        except PlatevaultError as error:
            give_up = record.registered_tai + self._patience_s
            if self._clock.now_tai() < give_up:
                raise HeaderUnusableError(
                    "The header cannot be had", url=reference.url, problem=str(error)
                ) from error
            _log.error("Header given up", image=image, url=reference.url, problem=str(error))
            return FileHeader(_fallback(camera, record), f"header cannot be had: {error.message}")

    async def _reference(self, image: str, deadline: Deadline) -> HeaderReference:
        with self._listening(image) as hinted:
            while True:
                hinted.clear()
                record = await self._record(image)
                if record.header is not None:
                    return record.header
                if deadline.passed:
                    await self._choose_none(image)
                    continue
                wait_s = min(self._poll_s, deadline.remaining_s)
                await wait_first(hinted.wait(), self._clock.sleep(wait_s))

    async def _choose_none(self, image: str) -> None:
        """Store that the exposure has no header, unless one came; or wait for who is choosing."""
        grant = await self._leases.acquire(
            header_lease(image), holder=self._holder, ttl_s=_CHOICE_TTL_S
        )
        if grant is None:
            await self._clock.sleep(self._poll_s / 10)
            return
        try:
            if (await self._record(image)).header is None:
                _log.warning("No header came", image=image)
                await self._ledger.set_header(image, NO_HEADER)
        finally:
            await self._leases.release(grant)

    async def _document(
        self, image: str, reference: HeaderReference, deadline: Deadline
    ) -> HeaderDocument:
        key = (image, reference.url)
        lock = self._fetching.setdefault(image, asyncio.Lock())
        try:
            async with lock:  # boards of one exposure need one fetch
                if key not in self._documents:
                    # Even when late, the first attempt gets a moment for a hiccup of the store.
                    soon = Deadline(self._clock, max(deadline.due_tai, self._clock.now_tai() + 2.0))
                    self._documents[key] = await retry(
                        lambda: self._fetch(image, reference),
                        clock=self._clock,
                        backoff=_FETCH_BACKOFF,
                        deadline=soon,
                    )
                    while len(self._documents) > _KEPT:
                        self._documents.popitem(last=False)
                return self._documents[key]
        finally:
            if not lock.locked():
                self._fetching.pop(image, None)

    async def _fetch(self, image: str, reference: HeaderReference) -> HeaderDocument:
        body = await self._objects.get(reference.url)
        if reference.size_bytes and len(body) != reference.size_bytes:
            raise HeaderDamagedError(
                "The header object has another size",
                url=reference.url,
                size_bytes=len(body),
                expected=reference.size_bytes,
            )
        md5 = hashlib.md5(body, usedforsecurity=False).hexdigest()
        if reference.md5 and md5 != reference.md5.lower():
            raise HeaderDamagedError(
                "The header object has another digest",
                url=reference.url,
                md5=md5,
                expected=reference.md5,
            )
        document = await asyncio.to_thread(parse_header, body)
        if document.image not in {"", image}:
            raise HeaderDamagedError(
                "The header object is of another image", url=reference.url, image=document.image
            )
        return document

    async def _record(self, image: str) -> ExposureRecord:
        record = await self._ledger.exposure(image)
        if record is None:
            raise UnknownExposureError("The exposure was never registered", image=image)
        return record

    @contextmanager
    def _listening(self, image: str) -> Iterator[asyncio.Event]:
        event, users = self._hints.get(image, (asyncio.Event(), 0))
        self._hints[image] = (event, users + 1)
        try:
            yield event
        finally:
            event, users = self._hints[image]
            if users == 1:
                del self._hints[image]
            else:
                self._hints[image] = (event, users - 1)


def _fallback(camera: Camera, record: ExposureRecord) -> HeaderDocument:
    facts: dict[str, HeaderValue] = dict(record.exposure.facts)
    if record.end_readout_tai is not None:
        facts.setdefault("timestampEndOfReadout", record.end_readout_tai)
    return fallback_document(record.exposure.image, camera, facts)
