"""How far each exposure of a night is, for whoever watches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from platevault.domain.ids import FileKind
from platevault.domain.lifecycles import SETTLED_STATES, Destination, FileState
from platevault.domain.whereabouts import is_done
from platevault.ports.file_ledger import FileLedger


@dataclass(frozen=True, slots=True)
class ExposureProgress:
    """Progress of one exposure.

    Attributes
    ----------
    image, camera
        Which.
    sensors
        Sensor images expected.
    written, catalogued, replicated
        Sensor images in the archive, in the Butler, in the Data Backbone.
    header
        The header was published.
    read_out
        The readout has ended.
    troubled
        Sensor images that failed and wait, or are given up.
    pending
        Files, of any kind, that are not done at a destination and may still get there.
    """

    image: str
    camera: str
    sensors: int
    written: int
    catalogued: int
    replicated: int
    header: bool
    read_out: bool
    troubled: int
    pending: int

    @property
    def finished(self) -> bool:
        """Every sensor image is where it must be."""
        return self.written == self.catalogued == self.replicated == self.sensors


_TROUBLE = frozenset({FileState.RETRY, FileState.DEAD, FileState.LATE, FileState.CORRUPT})


class NightProgress:
    """Follows the exposures of a night; asks the ledger only of those that may still change.

    Parameters
    ----------
    ledger
        Of the site.
    """

    def __init__(self, ledger: FileLedger) -> None:
        self._ledger = ledger
        self._finished: dict[str, ExposureProgress] = {}

    async def look(self, images: Sequence[str]) -> list[ExposureProgress]:
        """Give the progress of images, those not registered yet left out."""
        found = []
        for image in images:
            progress = self._finished.get(image) or await _exposure_progress(self._ledger, image)
            if progress is None:
                continue
            if progress.finished and not progress.pending:
                self._finished[image] = progress
            found.append(progress)
        return found


async def _exposure_progress(ledger: FileLedger, image: str) -> ExposureProgress | None:
    record = await ledger.exposure(image)
    if record is None:
        return None
    done: Counter[Destination] = Counter()
    troubled = pending = 0
    for file in await ledger.files(image=image):
        pending += not is_done(file) and file.state not in SETTLED_STATES
        if file.key.kind is FileKind.RAW:
            done[file.destination] += is_done(file)
            troubled += file.state in _TROUBLE
    return ExposureProgress(
        image=image,
        camera=record.exposure.camera,
        sensors=len(record.exposure.sensors),
        written=done[Destination.ARCHIVE],
        catalogued=done[Destination.OODS],
        replicated=done[Destination.BACKBONE],
        header=record.header is not None,
        read_out=record.end_readout_tai is not None,
        troubled=troubled,
        pending=pending,
    )
