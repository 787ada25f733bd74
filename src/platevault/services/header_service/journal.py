"""What survives a restart: open exposures, and headers that no store has taken yet.

Entries are objects of a local store that never overwrites, so a newer entry of an exposure gets a
higher number and the older one goes afterwards. An entry that cannot be read is set aside; the
others are used.

References
----------
Header contract, sections B2.5 and B4.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from platevault.domain.errors import PermanentError, TransientError
from platevault.domain.headers import Collected
from platevault.domain.samples import TopicSchema
from platevault.ports.object_store import ObjectMissingError, ObjectStore
from platevault.services.header_service.building import Place
from platevault.services.header_service.conversions import Found
from platevault.services.header_service.exposures import ExposureEvents
from platevault.services.header_service.sampling import Reading

_OPEN, _HELD, _BAD = "open/", "held/", "bad/"

_log = structlog.get_logger(__name__)


class UnreadableEntryError(PermanentError):
    """A journal entry has not the form it must have: set it aside, go on."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An exposure as it was when it was last saved.

    Attributes
    ----------
    image
        Image name.
    events
        Readings by topic name.
    kept
        Values of telemetry that were known.
    """

    image: str
    events: Mapping[str, Reading]
    kept: Mapping[Place, Found]


class HeaderJournal:
    """Entries in a local object store.

    Parameters
    ----------
    component
        Whose journal; services may share a store.
    store
        Where; ``None`` keeps nothing, and a restart loses what is open.
    topics
        Schemas of the camera's events by name.
    """

    def __init__(
        self, *, component: str, store: ObjectStore | None, topics: Mapping[str, TopicSchema]
    ) -> None:
        self._folder = f"{component}/"
        self._store = store
        self._topics = topics
        self._numbers: dict[str, int] = {}
        self._lock = asyncio.Lock()

    @property
    def is_durable(self) -> bool:
        """There is a store."""
        return self._store is not None

    async def save(self, events: ExposureEvents, kept: Mapping[Place, Found]) -> None:
        """Save an open exposure; the store's errors pass through."""
        if self._store is None:
            return
        async with self._lock:
            number = self._numbers.get(events.image, 0) + 1
            await self._store.put_if_absent(
                self._open_key(events.image, number), _encoded(events, kept)
            )
            self._numbers[events.image] = number
            await self._store.delete(self._open_key(events.image, number - 1))

    async def forget(self, image: str) -> None:
        """Remove the entry of an exposure whose header is out."""
        if self._store is None:
            return
        async with self._lock:
            number = self._numbers.pop(image, 0)
            if number:
                await self._store.delete(self._open_key(image, number))

    async def open_exposures(self) -> list[Entry]:
        """Give every exposure that was open, the newest entry of each."""
        if self._store is None:
            return []
        newest: dict[str, int] = {}
        for key in await self._store.list(self._folder + _OPEN):
            image, number = _parsed(key)
            if number < newest.get(image, 0):
                await self._store.delete(key)
                continue
            if image in newest:
                await self._store.delete(self._open_key(image, newest[image]))
            newest[image] = number
        entries = []
        for image, number in newest.items():
            self._numbers[image] = number
            entry = await self._entry(image, number)
            if entry is not None:
                entries.append(entry)
        return entries

    async def _entry(self, image: str, number: int) -> Entry | None:
        assert self._store is not None
        key = self._open_key(image, number)
        try:
            return _decoded(await self._read(key), self._topics)
        except (UnreadableEntryError, ObjectMissingError) as error:
            _log.error("Journal entry set aside", image=image, key=key, problem=str(error))
            await self._set_aside(key)
            self._numbers.pop(image, None)
            return None

    async def _set_aside(self, key: str) -> None:
        assert self._store is not None
        try:
            bad = self._folder + _BAD + key.removeprefix(self._folder)
            await self._store.put_if_absent(bad, await self._read(key))
        except PermanentError:
            return
        await self._store.delete(key)

    async def _read(self, key: str) -> bytes:
        assert self._store is not None
        stored = await self._store.stat(key)
        if stored is None:
            raise ObjectMissingError("There is no such object", key=key)
        return await self._store.get(stored.url)

    async def hold(self, key: str, data: bytes) -> bool:
        """Keep an object that the annex did not take; ``False`` if nobody takes it."""
        if self._store is None:
            return False
        try:
            await self._store.put_if_absent(self._folder + _HELD + key, data)
        except TransientError as error:
            _log.error("Header not held back on disk", key=key, problem=str(error))
            return False
        return True

    async def release(self, key: str) -> None:
        """Remove an object that the annex has by now."""
        if self._store is not None:
            await self._store.delete(self._folder + _HELD + key)

    async def held(self) -> Sequence[tuple[str, bytes]]:
        """Give what is held back: key in the annex and contents."""
        if self._store is None:
            return []
        folder = self._folder + _HELD
        keys = await self._store.list(folder)
        return [(key.removeprefix(folder), await self._read(key)) for key in keys]

    async def reject(self, key: str) -> None:
        """Set aside what was held back and can never go out."""
        if self._store is not None:
            await self._set_aside(self._folder + _HELD + key)

    def _open_key(self, image: str, number: int) -> str:
        return f"{self._folder}{_OPEN}{image}.{number:06d}.json"


def _parsed(key: str) -> tuple[str, int]:
    name = key.rpartition("/")[2].removesuffix(".json")
    image, _, rest = name.rpartition(".")
    return image, int(rest) if rest.isdecimal() else 0


def _encoded(events: ExposureEvents, kept: Mapping[Place, Found]) -> bytes:
    plain = {
        "image": events.image,
        "events": {
            topic: {
                "tai": reading.tai,
                "sent_tai": reading.sent_tai,
                "sequence": reading.sequence,
                "fields": {name: _plain(value) for name, value in reading.fields.items()},
            }
            for topic, reading in events.events.items()
        },
        "kept": [
            [section, keyword, found.value, found.sample_tai, found.age_s]
            for (section, keyword), found in kept.items()
        ],
    }
    return json.dumps(plain, allow_nan=False).encode("ascii")


def _plain(value: Any) -> Any:
    """Give a form that JSON holds; what is not finite was no value."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _decoded(data: bytes, topics: Mapping[str, TopicSchema]) -> Entry:
    try:
        plain = json.loads(data)
        events = {
            topic: Reading(
                tai=float(item["tai"]),
                sent_tai=float(item["sent_tai"]),
                sequence=int(item["sequence"]),
                topic=topics[topic],
                fields=dict(item["fields"]),
            )
            for topic, item in plain["events"].items()
        }
        kept = {
            (str(section), str(keyword)): Found(value, Collected.OK, "", sample_tai, age_s)
            for section, keyword, value, sample_tai, age_s in plain["kept"]
        }
        return Entry(str(plain["image"]), events, kept)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnreadableEntryError("Not a journal entry", problem=str(error)) from error
