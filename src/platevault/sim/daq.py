"""A simulated DAQ: its store of recent images and how they come about.

State and physics only; `platevault.sim.daq_readout` and `platevault.sim.daq_server` speak for it.
`SimDaq.step` alone moves it, so equal calls give equal states.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from platevault.domain.camera import Board, Camera, InvalidCameraError
from platevault.domain.errors import PermanentError, UsageError
from platevault.domain.headers import HeaderValue
from platevault.domain.wire import ReadoutRegisters, StripeLayout, WordPacking, board_bytes
from platevault.ports.readout import (
    BoardDescription,
    ImageAnnouncement,
    ImageIncompleteError,
    ImageMissingError,
)
from platevault.sim.daq_boards import BoardCache, BoardSource
from platevault.sim.daq_faults import DaqFault, FaultBook, FaultKind
from platevault.sim.pixels import PixelRecipe, amplifier_planes, board_registers
from platevault.sim.replay import ReplayedPlanes, registers_of_planes

#: The camera's store holds about two days.
_RETENTION_S = 2 * 86400.0
_CACHE_BYTES = 256 << 20


class DuplicateImageError(PermanentError):
    """The store has an image of that name: take another name; the stored image is untouched."""


class InvalidTriggerError(UsageError):
    """An image is asked for that the camera cannot take: mend the named field."""


@dataclass(slots=True)
class _Image:
    name: str
    folder: str
    tag: str
    annotation: str
    triggered_tai: float
    due_tai: float
    registers: Mapping[str, ReadoutRegisters]
    recipe: PixelRecipe | None
    planes: ReplayedPlanes | None
    facts: Mapping[str, HeaderValue]
    size_bytes: int
    ended: bool = field(default=False)


class SimDaq:
    """One DAQ partition: a camera's boards and the store of its images.

    Readouts do not wait for each other: each image ends ``readout_s`` after its trigger.

    Parameters
    ----------
    camera
        Whose boards.
    seed
        With it all pixels repeat.
    start_tai
        Device time at first [s, TAI].
    capacity_images, capacity_bytes
        Bounds of the store; ``None`` is no bound of its words [byte]. The newest image stays.
    retention_s
        Images older than this are dropped [s].
    cache_bytes
        Bound of recently made boards kept for further readers [byte].
    layout, packing
        How boards are delivered.
    firmware, daq_version
        FIRMWARE and DAQVERS of every board.
    spool
        Directory for replayed pixels; ``None`` keeps them in memory.
    """

    def __init__(
        self,
        *,
        camera: Camera,
        seed: int = 0,
        start_tai: float = 0.0,
        capacity_images: int = 4096,
        capacity_bytes: int | None = None,
        retention_s: float = _RETENTION_S,
        cache_bytes: int = _CACHE_BYTES,
        layout: StripeLayout = StripeLayout.SAMPLE_MAJOR,
        packing: WordPacking = WordPacking.INT32,
        firmware: str = "3139500b",
        daq_version: str = "R5-V8.0",
        spool: Path | None = None,
    ) -> None:
        self.camera = camera
        self.seed = seed
        self.now_tai = start_tai
        self._capacity_images = capacity_images
        self._capacity_bytes = capacity_bytes
        self._retention_s = retention_s
        self._layout = layout
        self._packing = packing
        self._firmware = firmware
        self._daq_version = daq_version
        self._spool = spool
        self._images: dict[str, _Image] = {}
        self._stored_bytes = 0
        self._last_tag = 0
        self._faults = FaultBook()
        self._listeners: list[Callable[[ImageAnnouncement], None]] = []
        self._watchers: list[Callable[[], None]] = []
        self.cache = BoardCache(cache_bytes)

    # -- the camera's side ---------------------------------------------------------------------

    def trigger(
        self,
        image: str,
        *,
        recipe: PixelRecipe | None = None,
        planes: Mapping[str, NDArray[np.int32]] | None = None,
        registers: ReadoutRegisters | None = None,
        boards: Collection[str] | None = None,
        folder: str = "raw",
        annotation: str = "",
        facts: Mapping[str, HeaderValue] | None = None,
    ) -> ImageAnnouncement:
        """Begin the readout of an image at the present device time.

        Parameters
        ----------
        image
            Its name, new in the store.
        recipe
            What falls on the detectors; this or ``planes``.
        planes
            Counts of a real frame by sensor ``R22_S01``, each ``(n_amp, rows, columns)`` in HDU
            order [adu]. They are copied.
        registers
            Geometry of every board; a full frame, or that of ``planes``, if not given.
        boards
            Locations that take part; all of the camera, or those of ``planes``, if not given.
        folder, annotation
            Stored with the image.
        facts
            Further header values of every board.

        Raises
        ------
        DuplicateImageError
            The name is taken. Nothing was changed.
        InvalidTriggerError
            Both or neither of ``recipe`` and ``planes``. Nothing was changed.
        UnsuitablePlanesError
            Planes do not fit the camera. Nothing was changed.
        InvalidCameraError
            A board or sensor is not in the camera. Nothing was changed.
        """
        if image in self._images:
            raise DuplicateImageError("The store has an image of that name", image=image)
        if (recipe is None) == (planes is None):
            raise InvalidTriggerError("Give a recipe or planes", field="recipe", image=image)
        geometry = self._geometry(planes, registers, boards)
        tag = max(self._last_tag + 1, int(self.now_tai * 1e9))
        replayed = None if planes is None else ReplayedPlanes.keep(planes, self._spool, image)
        stored = _Image(
            name=image,
            folder=folder,
            tag=f"{tag:016x}",
            annotation=annotation,
            triggered_tai=self.now_tai,
            due_tai=self.now_tai + self.camera.readout_s,
            registers=geometry,
            recipe=recipe,
            planes=replayed,
            facts=MappingProxyType(dict(facts or {})),
            size_bytes=sum(
                board_bytes(
                    shape, self._channels(self.camera.board_by_location[place]), self._packing
                )
                for place, shape in geometry.items()
            ),
        )
        self._last_tag = tag
        self._images[image] = stored
        self._stored_bytes += stored.size_bytes
        self._evict()
        announcement = self._announce(stored)
        self._changed()
        return announcement

    def step(self, duration_s: float) -> None:
        """Move device time on by ``duration_s`` [s]; nothing else ends a readout.

        Raises
        ------
        UsageError
            ``duration_s`` is negative. A bug; nothing moved.
        """
        if duration_s < 0:
            raise UsageError("Device time does not go back", duration_s=duration_s)
        if self._faults.find(FaultKind.PAUSED) is None:
            self.now_tai += duration_s
            reading = [item for item in self._images.values() if not item.ended]
            for item in sorted(reading, key=lambda one: one.due_tai):
                if item.due_tai <= self.now_tai:
                    item.ended = True
                    self._announce(item)
            self._evict()
        self._changed()

    # -- the readers' side ---------------------------------------------------------------------

    def images(self, *, folder: str = "raw") -> list[ImageAnnouncement]:
        """List what the store holds in a folder, oldest first."""
        return [self._told(item) for item in self._images.values() if item.folder == folder]

    def folders(self) -> list[str]:
        """List the folders that hold images."""
        return sorted({item.folder for item in self._images.values()})

    def source(self, image: str, location: str) -> BoardSource:
        """Find one board of an image.

        Raises
        ------
        ImageMissingError
            No such image or board. Do not retry.
        ImageIncompleteError
            Not read out yet. Retry when device time has moved.
        """
        stored = self._stored(image)
        if location not in stored.registers:
            raise ImageMissingError("Image has no such board", image=image, location=location)
        if not stored.ended:
            raise ImageIncompleteError(
                "Image is being read out", image=image, due_tai=stored.due_tai
            )
        if location not in self._present(stored):
            raise ImageMissingError("Board is not in the store", image=image, location=location)
        board = self.camera.board_by_location[location]
        return BoardSource(
            image,
            board,
            self._describe(stored, board),
            self.camera,
            self.seed,
            stored.recipe,
            stored.planes,
        )

    def planes(self, image: str, sensor: str) -> NDArray[np.int32]:
        """Give the counts that a faultless readout of one sensor delivers.

        Returns
        -------
        numpy.ndarray
            Counts, shape ``(n_amp, rows, columns)`` in HDU order [adu]; do not change them.

        Raises
        ------
        ImageMissingError
            The store does not hold the image or the sensor. Do not retry.
        """
        stored = self._stored(image)
        board = self.camera.board_of(sensor)
        if board.location not in stored.registers:
            raise ImageMissingError("Image has no such board", image=image, sensor=sensor)
        registers = stored.registers[board.location]
        detector = self.camera.detector_by_name[sensor]
        if stored.recipe is not None:
            return amplifier_planes(
                self.camera,
                detector,
                stored.recipe,
                seed=self.seed,
                image=image,
                registers=registers,
            )
        assert stored.planes is not None
        held = stored.planes.of((sensor,)).get(sensor)
        shape = (len(detector.type.amplifiers), registers.rows, registers.columns)
        return np.zeros(shape, np.int32) if held is None else held

    def recipe(self, image: str) -> PixelRecipe | None:
        """Give what fell on the detectors; ``None`` for a replayed image.

        Raises
        ------
        ImageMissingError
            The store does not hold the image. Do not retry.
        """
        return self._stored(image).recipe

    # -- faults and observers ------------------------------------------------------------------

    @property
    def faults(self) -> FaultBook:
        """The faults at present; change them by `inject` and `clear`."""
        return self._faults

    def inject(self, fault: DaqFault) -> None:
        """Begin a fault; `InvalidFaultError` if it means nothing."""
        self._faults.add(fault)
        self._changed()

    def clear(self, kind: FaultKind | None = None) -> None:
        """End the faults of a kind, or all."""
        self._faults.clear(kind)
        self._changed()

    @contextmanager
    def listening(self, listener: Callable[[ImageAnnouncement], None]) -> Iterator[None]:
        """Call ``listener`` with each announcement for the time of the context."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)

    @contextmanager
    def watching(self, watcher: Callable[[], None]) -> Iterator[None]:
        """Call ``watcher`` after each change of state for the time of the context."""
        self._watchers.append(watcher)
        try:
            yield
        finally:
            self._watchers.remove(watcher)

    @property
    def watchers(self) -> int:
        """How many watch it at present: listeners, and readers whom a fault lets wait."""
        return len(self._watchers)

    def _changed(self) -> None:
        for watcher in tuple(self._watchers):
            watcher()

    def _announce(self, stored: _Image) -> ImageAnnouncement:
        told = self._told(stored)
        for listener in tuple(self._listeners):
            listener(told)
        return told

    # -- state ---------------------------------------------------------------------------------

    def _geometry(
        self,
        planes: Mapping[str, NDArray[np.int32]] | None,
        registers: ReadoutRegisters | None,
        boards: Collection[str] | None,
    ) -> Mapping[str, ReadoutRegisters]:
        unknown = sorted(set(boards or ()) - set(self.camera.board_by_location))
        if unknown:
            raise InvalidCameraError(
                "Board is not in the camera", board=unknown[0], camera=self.camera.name
            )
        if planes is not None:
            return registers_of_planes(self.camera, planes, registers, boards)
        return {
            board.location: registers or board_registers(self.camera, board)
            for board in self.camera.boards
            if boards is None or board.location in boards
        }

    def _channels(self, board: Board) -> tuple[int, ...]:
        return tuple(
            len(self.camera.detector_by_name[name].type.amplifiers) for name in board.detectors
        )

    def _stored(self, image: str) -> _Image:
        try:
            return self._images[image]
        except KeyError:
            raise ImageMissingError("Image is not in the store", image=image) from None

    def _present(self, stored: _Image) -> tuple[str, ...]:
        places = tuple(stored.registers)
        fault = self._faults.find(FaultKind.BOARD_COUNT, stored.name)
        if fault is not None:
            places = places[: int(fault.amount)]
        return tuple(
            place
            for place in places
            if self._faults.find(FaultKind.BOARD_MISSING, stored.name, place) is None
        )

    def _told(self, stored: _Image) -> ImageAnnouncement:
        present = self._present(stored)
        fault = self._faults.find(FaultKind.BOARD_COUNT, stored.name)
        surplus = 0 if fault is None else int(fault.amount) - len(stored.registers)
        return ImageAnnouncement(
            image=stored.name,
            folder=stored.folder,
            tag=stored.tag,
            annotation=stored.annotation,
            triggered_tai=stored.triggered_tai,
            complete=stored.ended and len(present) == len(stored.registers),
            boards=present + tuple(f"99/{number}" for number in range(surplus)),
        )

    def _describe(self, stored: _Image, board: Board) -> BoardDescription:
        registers, channels = stored.registers[board.location], self._channels(board)
        return BoardDescription(
            location=board.location,
            registers=registers,
            layout=self._layout,
            packing=self._packing,
            channels=channels,
            size_bytes=board_bytes(registers, channels, self._packing),
            serial=board.serial,
            firmware=self._firmware,
            platform=self.camera.platform,
            partition=self.camera.partition,
            daq_version=self._daq_version,
            facts=stored.facts,
        )

    def _evict(self) -> None:
        for stored in list(self._images.values())[:-1]:
            old = self.now_tai - stored.triggered_tai > self._retention_s
            many = len(self._images) > self._capacity_images
            large = self._capacity_bytes is not None and self._stored_bytes > self._capacity_bytes
            if not (old or many or large):
                return
            del self._images[stored.name]
            self._stored_bytes -= stored.size_bytes
            self.cache.forget(stored.name)
            if stored.planes is not None:
                stored.planes.discard()
