"""The same job done by other software: what benchmarks compare with."""

from __future__ import annotations

import shutil
import subprocess
import warnings
from collections.abc import Sequence
from pathlib import Path

import fitsio
import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from platevault.adapters.fits.stripes import locate_words, separate
from platevault.domain.errors import IntegrityError, UsageError
from platevault.domain.headers import Card
from platevault.ports.image_writer import SensorImage


class ReadBackError(IntegrityError):
    """A reader found other pixels, or a checksum that does not hold."""


def write_with_fitsio(image: SensorImage, path: Path, *, compressed: bool = True) -> None:
    """Write a raw file with NumPy and fitsio: same HDUs, cards and checksums."""
    planes = separate(locate_words(image))
    with fitsio.FITS(str(path), "rw", clobber=True) as file:
        file.write(None, header=_records(image.primary))
        for plane, cards in zip(planes, image.segments, strict=True):
            if compressed:
                file.write(
                    plane, header=_records(cards), compress="RICE", tile_dims=(1, plane.shape[1])
                )
            else:
                file.write(plane, header=_records(cards))
        for hdu in file:
            hdu.write_checksum()


def write_with_astropy(image: SensorImage, path: Path, *, compressed: bool = True) -> None:
    """Write a raw file with NumPy and astropy: same HDUs, cards and checksums."""
    planes = separate(locate_words(image))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hdus: list[fits.PrimaryHDU | fits.ImageHDU | fits.CompImageHDU] = [
            fits.PrimaryHDU(header=_astropy_header(image.primary))
        ]
        for plane, cards in zip(planes, image.segments, strict=True):
            header = _astropy_header(cards)
            if compressed:
                hdus.append(
                    fits.CompImageHDU(
                        plane, header, compression_type="RICE_1", tile_shape=(1, plane.shape[1])
                    )
                )
            else:
                hdus.append(fits.ImageHDU(plane, header))
        fits.HDUList(hdus).writeto(path, checksum=True, overwrite=True)


def has_fpack() -> bool:
    """Tell whether cfitsio's programs are installed."""
    return shutil.which("fpack") is not None and shutil.which("funpack") is not None


def compress_with_fpack(plain: Path, path: Path) -> None:
    """Compress a plain file of ready planes with cfitsio's ``fpack`` (checksums included)."""
    program = shutil.which("fpack")
    if program is None:
        raise UsageError("fpack is not installed")
    with path.open("wb") as stream:
        subprocess.run(  # noqa: S603 - found on the path, arguments are ours
            [program, "-r", "-S", str(plain)], stdout=stream, check=True
        )


def verify_file(path: Path, planes: NDArray[np.int32]) -> list[str]:
    """Read a raw file with every reader there is; give their names.

    Parameters
    ----------
    path
        The file.
    planes
        Counts in HDU order, shape ``(n_amp, n_row, n_col)`` [adu].

    Raises
    ------
    ReadBackError
        A reader disagrees.
    """
    readers = ["astropy", "fitsio"]
    _verify_with_astropy(path, planes)
    verify_pixels(path, planes)
    if has_fpack():
        unpacked = path.with_suffix(".unpacked")
        try:
            for options in ([], ["-C"]):  # -C keeps the checksums that came with the file
                subprocess.run(  # noqa: S603 - arguments are ours
                    ["funpack", *options, "-O", str(unpacked), str(path)],  # noqa: S607
                    check=True,
                    capture_output=True,
                )
                _verify_with_astropy(unpacked, planes)
                unpacked.unlink()
        finally:
            unpacked.unlink(missing_ok=True)
        readers.append("funpack")
    return readers


def verify_pixels(path: Path, planes: NDArray[np.int32]) -> None:
    """Read a raw file with fitsio alone; arguments and errors as for `verify_file`."""
    with fitsio.FITS(str(path)) as file:
        _require(len(file) == 1 + len(planes), path, "fitsio")
        for hdu, plane in enumerate(planes, start=1):
            _require(np.array_equal(file[hdu].read(), plane), path, "fitsio")


def _verify_with_astropy(path: Path, planes: NDArray[np.int32]) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with fits.open(path, checksum=True, memmap=False) as hdus:
            _require(len(hdus) == 1 + len(planes), path, "astropy")
            for hdu, plane in zip(hdus[1:], planes, strict=True):
                _require(np.array_equal(hdu.data, plane), path, "astropy")
    if told:
        raise ReadBackError(
            "A reader complained", path=str(path), reader="astropy", value=str(told[0].message)
        )


def _require(holds: bool, path: Path, reader: str) -> None:  # noqa: FBT001
    if not holds:
        raise ReadBackError("A reader found other contents", path=str(path), reader=reader)


def _records(cards: Sequence[Card]) -> list[dict[str, object]]:
    return [
        {"name": card.keyword.removeprefix("HIERARCH "), "value": card.value, "comment": ""}
        for card in cards
        if card.keyword and card.value is not None
    ]


def _astropy_header(cards: Sequence[Card]) -> fits.Header:
    return fits.Header(
        [fits.Card(card.keyword, card.value, card.comment) for card in cards if card.keyword]
    )
