"""Real frames as the pixels of a detector: read FITS, find the amplifiers, give DAQ counts.

Reading blocks; call it in a thread. Nothing of a frame is trusted: sizes are compared with the
camera before pixels are read, checksums are verified where there are any.

References
----------
FITS 4.0 sec. 4.4.2 (BSCALE, BZERO, BLANK), 4.4.2.7 (checksums), 10 (tile compression).
"""

from __future__ import annotations

import gzip
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from platevault.domain.assembly import take_apart
from platevault.domain.camera import Camera, DetectorType, InvalidCameraError
from platevault.domain.errors import PermanentError
from platevault.domain.headers import HeaderValue
from platevault.domain.wire import ReadoutRegisters, registers_of
from platevault.sim.frame_headers import FrameSubject, facts_of, subject_of

#: What reading a damaged file has been seen to raise in astropy and below.
_READ_FAILURES = (
    OSError, EOFError, ValueError, TypeError, IndexError, KeyError, AttributeError, RuntimeError,
    AssertionError, MemoryError, zlib.error, fits.VerifyError,
)  # fmt: skip
_PLANE_AXES = 2
_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK_BYTES = 1 << 20

_Result = TypeVar("_Result")


class UnreadableFrameError(PermanentError):
    """A frame is damaged or no FITS file: set it aside, get it again from where it came."""


class UnsuitableFrameError(PermanentError):
    """A frame does not fit the camera: choose the camera or detector that it was taken with."""


@dataclass(frozen=True, slots=True)
class ReplayedFrame:
    """One detector's pixels of a real frame, ready for the DAQ.

    Attributes
    ----------
    file
        Where it came from.
    sensor
        Detector that replays it, ``R22_S01``.
    planes
        Counts, shape ``(n_amp, rows, columns)`` in HDU order and order of reading [adu]. Zero
        where the frame has no pixels.
    registers
        Geometry with which the planes would have been read.
    amplifiers
        Names of the amplifiers that the frame has pixels of.
    has_overscan
        The frame has pre- and overscan.
    rounding_adu
        Largest change when values became counts [adu]; 0 if all were counts.
    subject
        What was observed, how and when, as far as the header tells.
    facts
        The frame's header by keyword, for the files made of it.
    problems
        What in the header could not be understood.
    """

    file: str
    sensor: str
    planes: NDArray[np.int32]
    registers: ReadoutRegisters
    amplifiers: tuple[str, ...]
    has_overscan: bool
    rounding_adu: float
    subject: FrameSubject
    facts: Mapping[str, HeaderValue]
    problems: tuple[str, ...] = ()


def load_frame(
    path: str | Path, camera: Camera, detector_name: str, *, amplifier: str | None = None
) -> ReplayedFrame:
    """Read a frame as the pixels of one detector.

    A frame is one of: an image HDU for each amplifier (by EXTNAME if all are known names, else in
    HDU order); one cube with a plane for each amplifier; one assembled image of the detector
    without overscan; one plane of a single amplifier. Compressed or not, any BITPIX.

    Parameters
    ----------
    path
        FITS file; gzip is undone.
    camera, detector_name
        Whose detector replays it.
    amplifier
        Amplifier to which a single plane belongs; the first if not given. The others stay zero.

    Raises
    ------
    UnreadableFrameError
        No such file, no FITS, truncated, or pixels that contradict their checksum. Do not retry.
    UnsuitableFrameError
        Sizes are not those of the detector, or values do not fit its DAQ words. Do not retry.
    InvalidCameraError
        The camera has no such detector or amplifier.
    """
    detector = camera.detector_by_name.get(detector_name)
    if detector is None:
        raise InvalidCameraError(
            "Sensor is not in the camera", sensor=detector_name, camera=camera.name
        )
    kind = detector.type
    names = [amp.name for amp in kind.amplifiers]
    if amplifier is not None and amplifier not in names:
        raise InvalidCameraError(
            "Amplifier is not in the detector", value=amplifier, expected=names
        )
    file = str(path)
    stale = _verify(file)
    reader = _FrameReader(file, camera, kind)
    _guarded(file, lambda: reader.read(amplifier))
    facts, problems = facts_of(reader.headers)
    subject, more = subject_of(reader.headers, camera)
    return ReplayedFrame(
        file=file,
        sensor=detector_name,
        planes=reader.planes,
        registers=registers_of(kind),
        amplifiers=tuple(name for name in names if name in reader.found),
        has_overscan=reader.has_overscan,
        rounding_adu=reader.rounding_adu,
        subject=subject,
        facts=facts,
        problems=(*stale, *problems, *more),
    )


def _guarded(file: str, work: Callable[[], _Result]) -> tuple[_Result, list[str]]:
    """Do something with a file; give the result and astropy's warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = work()
        except _READ_FAILURES as error:
            raise UnreadableFrameError(
                "Frame cannot be read",
                file=file,
                problem=f"{type(error).__name__}: {' '.join(str(error).split())}",
            ) from error
    said = [" ".join(str(one.message).split()) for one in caught]
    for text in said:
        if "truncated" in text:
            raise UnreadableFrameError("Frame is truncated", file=file, problem=text)
    return result, said


def _verify(file: str) -> list[str]:
    """Compare stored bytes with their checksums; gives complaints about headers alone."""

    def compare() -> None:
        with Path(file).open("rb") as plain:
            packed = plain.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
        if packed:
            # astropy stops reading before the checksum at the end of a gzip file
            with gzip.open(file, "rb") as unpacked:
                while unpacked.read(_CHUNK_BYTES):
                    pass
        with fits.open(
            file, memmap=False, lazy_load_hdus=False, checksum=True, disable_image_compression=True
        ) as hdus:
            for hdu in hdus:
                hdu.verify("silentfix")

    _, said = _guarded(file, compare)
    for text in said:
        if text.startswith("Datasum verification failed"):
            raise UnreadableFrameError(
                "Pixels of the frame contradict their checksum", file=file, problem=text
            )
    return [text for text in said if text.startswith("Checksum verification failed")]


@dataclass(frozen=True, slots=True)
class _Image:
    hdu: Any
    number: int
    name: str
    shape: tuple[int, ...]


class _FrameReader:
    """Finds the amplifiers of one detector in one file."""

    def __init__(self, file: str, camera: Camera, kind: DetectorType) -> None:
        self._file = file
        self._kind = kind
        self._limit = 1 << camera.word_bits
        self._extnames = {f"{camera.extname_prefix}{amp.name}": amp.name for amp in kind.amplifiers}
        self.planes = np.zeros((len(kind.amplifiers), kind.rows, kind.columns), dtype=np.int32)
        self.headers: list[fits.Header] = []
        self.found: set[str] = set()
        self.has_overscan = True
        self.rounding_adu = 0.0

    def read(self, amplifier: str | None) -> None:
        with fits.open(
            self._file, memmap=False, lazy_load_hdus=False, do_not_scale_image_data=True
        ) as hdus:
            images = [
                _Image(hdu, number, str(hdu.name), _squeezed(hdu.shape))
                for number, hdu in enumerate(hdus)
                if isinstance(hdu, fits.PrimaryHDU | fits.ImageHDU | fits.CompImageHDU)
                and len(hdu.shape) >= _PLANE_AXES
                and prod(hdu.shape) > 0
            ]
            self.headers = [hdus[0].header.copy()]
            if images and images[0].number != 0:
                self.headers.append(images[0].hdu.header.copy())
            self._place(images, amplifier)

    def _place(self, images: Sequence[_Image], amplifier: str | None) -> None:
        kind, shapes = self._kind, {image.shape for image in images}
        plane = (kind.rows, kind.columns)
        count = len(kind.amplifiers)
        names = [self._extnames.get(image.name) for image in images]
        if shapes == {plane} and None not in names and len(set(names)) == len(names):
            for image, name in zip(images, names, strict=True):
                self._put(str(name), self._counts(image))
        elif shapes == {plane} and len(images) == count:
            for image, amp in zip(images, kind.amplifiers, strict=True):
                self._put(amp.name, self._counts(image))
        elif shapes == {plane} and len(images) == 1:
            self._put(amplifier or kind.amplifiers[0].name, self._counts(images[0]))
        elif shapes == {(count, *plane)} and len(images) == 1:
            cube = self._counts(images[0])
            for amp, counts in zip(kind.amplifiers, cube, strict=True):
                self._put(amp.name, counts)
        elif shapes == {(kind.trimmed_rows, kind.trimmed_columns)} and len(images) == 1:
            self._place_assembled(self._counts(images[0]))
        else:
            raise UnsuitableFrameError(
                "Frame has not the size of the detector",
                file=self._file,
                value=[(image.number, *image.shape) for image in images],
                binning=self._binning(),
                expected=(
                    f"{count} images or a cube of {count} planes of {kind.rows} x {kind.columns}, "
                    f"one such plane, or one image of {kind.trimmed_rows} x "
                    f"{kind.trimmed_columns} (rows x columns)"
                ),
            )

    def _place_assembled(self, whole: NDArray[np.int32]) -> None:
        kind = self._kind
        for index, data in enumerate(take_apart(whole, kind)):
            self.planes[
                index, : kind.data_rows, kind.prescan : kind.prescan + kind.data_columns
            ] = data
        self.found = {amp.name for amp in kind.amplifiers}
        self.has_overscan = (kind.rows, kind.columns) == (kind.data_rows, kind.data_columns)

    def _put(self, name: str, counts: NDArray[np.int32]) -> None:
        index = [amp.name for amp in self._kind.amplifiers].index(name)
        self.planes[index] = counts
        self.found.add(name)

    def _binning(self) -> str | None:
        for header in self.headers:
            if "CCDSUM" in header:
                return str(header["CCDSUM"])
        return None

    def _counts(self, image: _Image) -> NDArray[np.int32]:
        stored = np.asarray(image.hdu.data).reshape(image.shape)
        header = image.hdu.header
        scale, zero = float(header.get("BSCALE", 1.0)), header.get("BZERO", 0)
        if stored.dtype.kind in "iu" and "BLANK" in header:
            self._refuse_undefined(image, int(np.count_nonzero(stored == header["BLANK"])))
        if stored.dtype.kind in "iu" and scale == 1.0 and float(zero).is_integer():
            # the least is taken off first: unsigned 64-bit values do not fit the sum
            least = int(stored.min())
            self._refuse_beyond(image, least + int(zero), int(stored.max()) + int(zero))
            return _int32(stored.astype(np.int64) - least + (least + int(zero)))
        values = stored.astype(np.float64) * scale + float(zero)
        self._refuse_undefined(image, int(np.count_nonzero(~np.isfinite(values))))
        counts = np.rint(values)
        self._refuse_beyond(image, float(counts.min()), float(counts.max()))
        self.rounding_adu = max(self.rounding_adu, float(np.abs(values - counts).max()))
        return _int32(counts)

    def _refuse_undefined(self, image: _Image, count: int) -> None:
        if count:
            raise UnsuitableFrameError(
                "Frame has undefined pixels",
                file=self._file,
                hdu=image.number,
                value=count,
                expected="a count in every pixel",
            )

    def _refuse_beyond(self, image: _Image, least: float, largest: float) -> None:
        if least < 0 or largest >= self._limit:
            raise UnsuitableFrameError(
                "Frame has values that do not fit the DAQ word",
                file=self._file,
                hdu=image.number,
                value=(least, largest),
                expected=f"counts of 0 to {self._limit - 1} adu",
            )


def _int32(counts: NDArray[Any]) -> NDArray[np.int32]:
    return counts.astype(np.int32)


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Leave out leading axes of length one, down to a plane."""
    while len(shape) > _PLANE_AXES and shape[0] == 1:
        shape = shape[1:]
    return tuple(int(length) for length in shape)
