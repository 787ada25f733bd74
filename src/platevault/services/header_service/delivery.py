"""Brings headers into the annex and says so; tries for as long as it takes.

References
----------
Header contract, sections A5, B3, B4 and B7.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Sequence

import structlog

from platevault.domain.errors import PermanentError, TransientError
from platevault.domain.header_cards import PRIMARY
from platevault.domain.header_formats import format_fits, format_json, format_yaml, parse_header
from platevault.domain.headers import HeaderDocument
from platevault.domain.ids import ImageName, InvalidNameError
from platevault.ports.clock import Clock
from platevault.ports.object_store import ObjectStore, StoredObject
from platevault.runtime.retry import Backoff, Gate
from platevault.runtime.service import StopToken
from platevault.services.header_service.journal import HeaderJournal
from platevault.services.header_service.observing import HeaderObserver

#: Failures in a row after which a header that is nowhere on disk is a fault.
_FAULT_AFTER = 5
_BACKOFF = Backoff(first_s=0.2, ceiling_s=30.0)
_VERSION = re.compile(r"_v(\d+)\.yaml$")
_FORMATS: dict[str, Callable[[HeaderDocument], bytes]] = {
    "yaml": format_yaml,
    "json": format_json,
    "fits": lambda document: format_fits(document.sections[PRIMARY]),
}

_log = structlog.get_logger(__name__)


def header_key(component: str, image: str, version: int, suffix: str = "yaml") -> str:
    """Name a header in the annex.

    Parameters
    ----------
    component
        Header service, ``Name`` or ``Name:index``.
    image
        Image name; the folder is its observing day.
    version
        Version 1 has the historical name, later ones end with ``_v<n>``.
    suffix
        ``yaml``, ``json`` or ``fits``.
    """
    later = f"_v{version}" if version > 1 else ""
    return f"{_folder(component, image)}/{component}_header_{image}{later}.{suffix}"


def _folder(component: str, image: str) -> str:
    try:
        day = f"{ImageName.parse(image).day_obs:08d}"
    except InvalidNameError:
        return f"{component}/header/other"
    return f"{component}/header/{day[:4]}/{day[4:6]}/{day[6:]}"


class HeaderDelivery:
    """Stores and announces the headers of one component.

    Parameters
    ----------
    component
        ``Name`` or ``Name:index``.
    store
        The annex.
    journal
        Holds back what the annex does not take.
    announce
        Publishes ``largeFileObjectAvailable``.
    permitted
        Returns when the component may publish, or when it ends.
    no_output
        Told when a header can be put nowhere.
    clock, observer
        Time, and who hears of the work.
    formats
        Forms that are stored; ``yaml`` is the announced one.
    """

    def __init__(
        self,
        *,
        component: str,
        store: ObjectStore,
        journal: HeaderJournal,
        announce: Callable[[HeaderDocument, StoredObject], Awaitable[None]],
        permitted: Callable[[], Awaitable[None]],
        no_output: Callable[[str], Awaitable[None]],
        clock: Clock,
        observer: HeaderObserver,
        formats: Sequence[str],
    ) -> None:
        self._component = component
        self._store = store
        self._journal = journal
        self._announce = announce
        self._permitted = permitted
        self._no_output = no_output
        self._clock = clock
        self._observer = observer
        self._formats = [name for name in formats if name != "yaml"]
        self._annex = Gate(name="large file annex", clock=clock, backoff=_BACKOFF)
        self._bus = Gate(name="sample bus", clock=clock, backoff=_BACKOFF)
        self._failures = 0

    async def deliver(self, document: HeaderDocument, stop: StopToken) -> None:
        """Store a header and announce it, in this order; other forms follow.

        Raises
        ------
        ObjectConflictError
            The annex has another header of this image and version. Look at it, then decide.
        DestinationDownError
            ``stop`` ended the waiting. What was not stored is held back if that was possible.
        """
        await self._permitted()
        began = self._clock.now_tai()
        data = await asyncio.to_thread(_FORMATS["yaml"], document)
        key = header_key(self._component, document.image, document.version)
        stored = await self._put(key, data, stop)
        self._observer.header_stored(
            document, size_bytes=len(data), duration_s=self._clock.now_tai() - began
        )
        await self.announce(document, stored, stop)
        for suffix in self._formats:
            other = await asyncio.to_thread(_FORMATS[suffix], document)
            key = header_key(self._component, document.image, document.version, suffix)
            await self._put(key, other, stop)

    async def announce(
        self, document: HeaderDocument, stored: StoredObject, stop: StopToken
    ) -> None:
        """Say that a header is in the annex."""
        await self._permitted()
        await self._bus.call(lambda: self._announce(document, stored), stop=stop)

    async def resend(self, stop: StopToken) -> None:
        """Deliver what a former process held back."""
        for key, data in await self._journal.held():
            try:
                document = parse_header(data) if key.endswith(".yaml") else None
                stored = await self._put(key, data, stop, held=True)
            except PermanentError as error:
                _log.error("Held back header set aside", key=key, problem=str(error))
                await self._journal.reject(key)
                continue
            if document is not None:
                await self.announce(document, stored, stop)

    async def newest(self, image: str) -> tuple[HeaderDocument, StoredObject] | None:
        """Read the newest header of an image from the annex; ``None`` if there is none."""
        stem = header_key(self._component, image, 1).removesuffix(".yaml")
        keys = [
            key
            for key in await self._store.list(_folder(self._component, image) + "/")
            if key == f"{stem}.yaml" or (key.startswith(f"{stem}_v") and _VERSION.search(key))
        ]
        if not keys:
            return None
        stored = await self._store.stat(max(keys, key=_version_of))
        if stored is None:
            return None
        data = await self._store.get(stored.url)
        return await asyncio.to_thread(parse_header, data), stored

    async def _put(
        self, key: str, data: bytes, stop: StopToken, *, held: bool = False
    ) -> StoredObject:
        is_held = held or (not self._annex.is_open and await self._held_back(key, data))

        async def put() -> StoredObject:
            nonlocal is_held
            try:
                return await self._store.put_if_absent(key, data)
            except TransientError as error:
                is_held = is_held or await self._held_back(key, data)
                await self._count_failure(str(error), is_held=is_held)
                raise

        stored = await self._annex.call(put, stop=stop)
        self._failures = 0
        _check(stored, data)
        if is_held:
            await self._journal.release(key)
        return stored

    async def _held_back(self, key: str, data: bytes) -> bool:
        return await self._journal.hold(key, data)

    async def _count_failure(self, problem: str, *, is_held: bool) -> None:
        self._observer.store_failed(held_back=is_held)
        self._failures += 1
        if not is_held and self._failures == _FAULT_AFTER:
            await self._no_output(problem)


def _check(stored: StoredObject, data: bytes) -> None:
    digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if stored.md5 != digest or stored.size_bytes != len(data):
        _log.error("The annex describes another object", key=stored.key, value=stored.md5)


def _version_of(key: str) -> int:
    match = _VERSION.search(key)
    return int(match[1]) if match else 1
