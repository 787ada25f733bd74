"""Real frames in the simulated DAQ: their pixels and the registers that would have read them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from platevault.domain.camera import Camera, DetectorType, InvalidCameraError
from platevault.domain.errors import UsageError
from platevault.domain.wire import ReadoutRegisters

_CUBE_AXES = 3


class UnsuitablePlanesError(UsageError):
    """Planes do not fit the camera that shall replay them: mend the named sensor."""


@dataclass(frozen=True, slots=True)
class ReplayedPlanes:
    """Counts of an image's sensors, in memory or mapped from files.

    Attributes
    ----------
    planes
        By sensor, each ``(n_amp, rows, columns)`` in HDU order [adu], read-only.
    files
        Where they are held on disk.
    """

    planes: Mapping[str, NDArray[np.int32]]
    files: tuple[Path, ...]

    @classmethod
    def keep(cls, planes: Mapping[str, NDArray[np.int32]], spool: Path | None, image: str) -> Self:
        """Copy counts to memory, or to files of a directory if one is given."""
        held: dict[str, NDArray[np.int32]] = {}
        files: list[Path] = []
        for sensor, counts in planes.items():
            if spool is None:
                copy = np.array(counts, dtype=np.int32, order="C")
                copy.flags.writeable = False
                held[sensor] = copy
                continue
            spool.mkdir(parents=True, exist_ok=True)
            path = spool / f"{re.sub(r'[^A-Za-z0-9_-]', '_', image)}-{sensor}.npy"
            np.save(path, np.ascontiguousarray(counts, dtype=np.int32))
            held[sensor] = np.load(path, mmap_mode="r")
            files.append(path)
        return cls(held, tuple(files))

    def of(self, sensors: Iterable[str]) -> dict[str, NDArray[np.int32]]:
        """Give the counts of the sensors that are there."""
        return {name: self.planes[name] for name in sensors if name in self.planes}

    def discard(self) -> None:
        """Remove the files; whoever maps them still reads them."""
        for path in self.files:
            path.unlink(missing_ok=True)


def registers_of_planes(
    camera: Camera,
    planes: Mapping[str, NDArray[np.int32]],
    registers: ReadoutRegisters | None,
    boards: Collection[str] | None,
) -> Mapping[str, ReadoutRegisters]:
    """Find the registers with which given counts would have been read, by board location.

    Raises
    ------
    UnsuitablePlanesError
        Planes of a sensor have another number of amplifiers, or sensors of a board differ.
    InvalidCameraError
        A sensor is not in the camera, or is on none of ``boards``.
    """
    found: dict[str, ReadoutRegisters] = {}
    for sensor, counts in planes.items():
        detector = camera.detector_by_name.get(sensor)
        if detector is None:
            raise InvalidCameraError(
                "Sensor is not in the camera", sensor=sensor, camera=camera.name
            )
        location = camera.board_of(sensor).location
        if boards is not None and location not in boards:
            raise InvalidCameraError("Sensor is on no board that takes part", sensor=sensor)
        amplifiers = len(detector.type.amplifiers)
        if counts.ndim != _CUBE_AXES or counts.shape[0] != amplifiers:
            raise UnsuitablePlanesError(
                "Planes do not have the sensor's amplifiers",
                sensor=sensor,
                shape=counts.shape,
                expected=(amplifiers, "rows", "columns"),
            )
        rows, columns = counts.shape[1:]
        shape = registers or registers_of_shape(detector.type, rows, columns)
        if (shape.rows, shape.columns) != (rows, columns):
            raise UnsuitablePlanesError(
                "Planes do not have the size that the registers say",
                sensor=sensor,
                shape=counts.shape,
                expected=(shape.rows, shape.columns),
            )
        if found.setdefault(location, shape) != shape:
            raise UnsuitablePlanesError(
                "Sensors of a board were read differently", sensor=sensor, board=location
            )
    return {
        board.location: found[board.location] for board in camera.boards if board.location in found
    }


def registers_of_shape(kind: DetectorType, rows: int, columns: int) -> ReadoutRegisters:
    """Find registers that give a segment of ``rows`` x ``columns``.

    A frame of other size than a full one keeps prescan and overscans if it has room for them.
    """
    serial = kind.prescan + kind.serial_overscan
    under, over = (kind.prescan, kind.serial_overscan) if columns > serial else (0, 0)
    over_rows = kind.parallel_overscan if rows > kind.parallel_overscan else 0
    return ReadoutRegisters(
        under_cols=under,
        read_cols=columns - under - over,
        over_cols=over,
        read_rows=rows - over_rows,
        over_rows=over_rows,
    )
