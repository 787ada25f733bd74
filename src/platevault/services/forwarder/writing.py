"""Files of one sensor: staged, recorded, named, recorded again."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from platevault.domain.camera import Camera, Detector
from platevault.domain.errors import PlatevaultError
from platevault.domain.header_cards import sensor_cards
from platevault.domain.headers import Card
from platevault.domain.ids import FileKey, FileKind
from platevault.domain.inventory import AttemptRecord
from platevault.domain.lifecycles import Destination, FileState
from platevault.domain.segments import segment_cards
from platevault.ports.clock import Clock
from platevault.ports.file_ledger import Change, FileLedger, Staged
from platevault.ports.image_writer import (
    FileConflictError,
    ImageWriter,
    LinkStore,
    SensorImage,
    StagedFile,
)
from platevault.runtime.limits import ungrouped
from platevault.runtime.steps import Steps
from platevault.services.forwarder.header_source import FileHeader
from platevault.services.forwarder.reading import BoardReading
from platevault.services.forwarder.sidecar import encode_sidecar

#: Files of a sensor in the order in which they get their names: readers that hear of an image
#: look for its sidecar.
SENSOR_KINDS = (FileKind.SIDECAR, FileKind.RAW)


@dataclass(frozen=True, slots=True)
class SensorJob:
    """Files of one sensor that are to be written.

    Attributes
    ----------
    camera, detector
        Whose files.
    image
        Image name.
    group
        Place of the detector in the board's stripes.
    folder
        Directory of the exposure.
    fence
        Fencing number of the board's lease.
    attempts
        The open attempt of each file.
    earlier
        Attempts of former workers.
    """

    camera: Camera
    detector: Detector
    image: str
    group: int
    folder: Path
    fence: int
    attempts: Mapping[FileKey, AttemptRecord]
    earlier: Sequence[AttemptRecord]

    @property
    def keys(self) -> tuple[FileKey, ...]:
        """The files, in the order in which they get their names."""
        return tuple(FileKey(self.image, self.detector.name, kind) for kind in SENSOR_KINDS)

    @property
    def subject(self) -> str:
        """Name of the job in steps and logs."""
        return f"{self.image}/{self.detector.name}"


class SensorWriter:
    """Writes the files of one sensor durably, whatever a former worker left of them.

    Parameters
    ----------
    writer, links, ledger, clock, steps
        Ports.
    """

    def __init__(
        self,
        *,
        writer: ImageWriter,
        links: LinkStore,
        ledger: FileLedger,
        clock: Clock,
        steps: Steps,
    ) -> None:
        self._writer = writer
        self._links = links
        self._ledger = ledger
        self._clock = clock
        self._steps = steps
        # They follow from the camera alone and cost as much as all other cards of a file.
        self._segments: dict[tuple[str, str], tuple[tuple[Card, ...], ...]] = {}

    async def resume(self, job: SensorJob) -> bool:
        """Finish what a former worker had staged; ``False`` if there is nothing to finish.

        Files are judged by the digest that was recorded before they got their name.
        """
        staged = await self._staged_before(job)
        if staged is None:
            return False
        await self._finish(job, staged, degraded=None)
        return True

    async def write(self, job: SensorJob, reading: BoardReading, header: FileHeader) -> None:
        """Write the files of a sensor; when it returns they are durable and recorded.

        Raises
        ------
        FileConflictError
            Another file has the name. Nothing was overwritten.
        StaleFenceError
            Somebody else has the board now. Leave it to him.
        PlatevaultError
            Nothing has a final name, or the same call again will find it finished.
        """
        staged = await self._stage(job, reading, header)
        try:
            await self._steps.reached("staged", job.subject)
            await self._record_staged(job, staged, degraded=bool(header.problem))
            await self._steps.reached("digest_recorded", job.subject)
            await self._finish(job, staged, degraded=bool(header.problem))
        except FileConflictError:
            raise  # both files are kept for a person to look at
        except PlatevaultError:
            await self._writer.discard(staged)
            raise

    async def _stage(
        self, job: SensorJob, reading: BoardReading, header: FileHeader
    ) -> list[StagedFile]:
        sidecar, raw = (job.folder / key.file_name for key in job.keys)
        image = SensorImage(
            pixels=reading.pixels,
            group=job.group,
            detector_type=job.detector.type,
            primary=sensor_cards(header.document, job.camera, job.detector, reading.facts),
            segments=self._segments_of(job),
        )
        staged_raw = await self._writer.stage_image(image, raw)
        try:
            staged_sidecar = await self._writer.stage_bytes(
                encode_sidecar(staged_raw.primary), sidecar
            )
        except PlatevaultError:
            await self._writer.discard([staged_raw])
            raise
        return [staged_sidecar, staged_raw]

    def _segments_of(self, job: SensorJob) -> tuple[tuple[Card, ...], ...]:
        key = job.camera.name, job.detector.name
        if key not in self._segments:
            self._segments[key] = segment_cards(job.camera, job.detector)
        return self._segments[key]

    async def _record_staged(
        self, job: SensorJob, staged: Sequence[StagedFile], *, degraded: bool
    ) -> None:
        with ungrouped():
            async with asyncio.TaskGroup() as tasks:  # calls that come together share a sync
                tasks.create_task(
                    self._ledger.stage(
                        [
                            Staged(
                                key,
                                Destination.ARCHIVE,
                                number=job.attempts[key].number,
                                path=str(file.temporary),
                                size_bytes=file.size_bytes,
                                digest=file.digest,
                            )
                            for key, file in zip(job.keys, staged, strict=True)
                            if key in job.attempts
                        ]
                    ),
                    name=f"stage-{job.subject}",
                )
                if degraded:  # known before the file has its name, for who may have to finish it
                    marks = [
                        Change(
                            key,
                            Destination.ARCHIVE,
                            FileState.SENDING,
                            fence=job.fence,
                            degraded=True,
                        )
                        for key in job.attempts
                    ]
                    tasks.create_task(
                        self._ledger.apply(marks, now_tai=self._clock.now_tai()),
                        name=f"mark-{job.subject}",
                    )

    async def _finish(
        self, job: SensorJob, staged: Sequence[StagedFile], *, degraded: bool | None
    ) -> None:
        await self._writer.commit(staged)
        await self._steps.reached("named", job.subject)
        written = [
            Change(
                key,
                Destination.ARCHIVE,
                FileState.WRITTEN,
                fence=job.fence,
                path=str(file.final),
                size_bytes=file.size_bytes,
                digest=file.digest,
                degraded=degraded,
            )
            for key, file in zip(job.keys, staged, strict=True)
        ]
        await self._ledger.apply(written, now_tai=self._clock.now_tai())
        await self._steps.reached("recorded", job.subject)

    async def _staged_before(self, job: SensorJob) -> list[StagedFile] | None:
        """Find the newest former attempt both of whose files are there, named or not."""
        numbers = {attempt.number for attempt in job.earlier if attempt.staged_digest}
        for number in sorted(numbers, reverse=True):
            found = [
                file
                for key in job.keys
                for attempt in job.earlier
                if attempt.key == key and attempt.number == number and attempt.staged_digest
                if (file := await self._if_present(job.folder / key.file_name, attempt))
            ]
            if len(found) == len(job.keys):
                return found
        return None

    async def _if_present(self, final: Path, attempt: AttemptRecord) -> StagedFile | None:
        algorithm = attempt.staged_digest.partition(":")[0]
        temporary = Path(attempt.staged_path)
        for place in (final, temporary):
            digest = await self._links.digest_of(place, algorithm=algorithm)
            if digest == attempt.staged_digest:
                return StagedFile(
                    temporary, final, attempt.staged_size_bytes, attempt.staged_digest
                )
        return None
