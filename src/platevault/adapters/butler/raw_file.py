"""Reading raw files: metadata of HDU 0 or the sidecar, and pixels no more than asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from platevault.adapters.butler.facts import BadMetadataError
from platevault.adapters.butler.raw_image import (
    AmplifierPlace,
    Box,
    RawAmplifier,
    RawImage,
    checked_box,
)
from platevault.domain.headers import HeaderValue
from platevault.ports.ingest import BadFileError

#: A FITS file is a number of blocks of this size [byte] (FITS 4.0 sec. 3.1).
BLOCK_BYTES = 2880
_FIRST_CARD = b"SIMPLE  =                    T"
_SECTION = re.compile(r"^\[(\d+):(\d+),(\d+):(\d+)\]$")
#: Longer keywords are hierarchical (FITS 4.0 sec. 4.1.2.1).
_KEYWORD_CHARACTERS = 8
_TEXT_CARDS = frozenset({"", "COMMENT", "HISTORY", "CONTINUE"})
#: Key of the sidecar that is no keyword (raw-file contract, sec. 9).
_SIDECAR_MARK = "__CONTENT__"
#: Types of JSON that are a header value.
_PLAIN = frozenset({type(None), bool, int, float, str})
#: Structure of the table in which a compressed segment is stored; no part of its header.
_STORAGE_CARDS = re.compile(
    r"^(XTENSION|BITPIX|NAXIS\d?|PCOUNT|GCOUNT|TFIELDS|T(TYPE|FORM|DIM|UNIT|NULL|SCAL|ZERO)\d+"
    r"|Z(IMAGE|TENSION|BITPIX|NAXIS\d?|PCOUNT|GCOUNT|TILE\d|CMPTYPE|NAME\d|VAL\d|SIMPLE|EXTEND"
    r"|HECKSUM|DATASUM|QUANTIZ|DITHER0|BLANK|MASKCMP)|CHECKSUM|DATASUM)$"
)


class NoAssemblyCardsError(BadFileError):
    """A segment does not say where it belongs: the file was not written for assembly."""


def check_file(path: Path) -> None:
    """Look whether a file can be a raw image: it is there, begins and ends as FITS does.

    Raises
    ------
    BadFileError
        It is missing, unreadable, empty, no FITS file or cut off. Set it aside.
    """
    try:
        with path.open("rb") as file:
            head = file.read(len(_FIRST_CARD))
            size = file.seek(0, 2)
    except FileNotFoundError as error:
        raise BadFileError("File is missing", file=str(path)) from error
    except (PermissionError, IsADirectoryError) as error:
        raise BadFileError("File cannot be read", file=str(path), error=str(error)) from error
    if head != _FIRST_CARD:
        raise BadFileError("File is not FITS", file=str(path), value=head.decode("latin-1"))
    if size % BLOCK_BYTES != 0:
        raise BadFileError(
            "File is cut off", file=str(path), value=size, expected=f"a multiple of {BLOCK_BYTES}"
        )


def read_metadata(path: Path, sidecar: Path | None = None) -> dict[str, HeaderValue]:
    """Read the values of HDU 0, from the sidecar if there is one.

    Returns
    -------
    dict
        Values by keyword in the sidecar's form.

    Raises
    ------
    BadMetadataError
        The sidecar is there but is no flat JSON object, or HDU 0 cannot be read.
    """
    if sidecar is not None:
        try:
            text = sidecar.read_bytes()
        except FileNotFoundError:
            pass
        except OSError as error:
            raise BadMetadataError(
                "Sidecar cannot be read", file=str(sidecar), error=str(error)
            ) from error
        else:
            return _parse_sidecar(text, sidecar)
    from astropy.io import fits

    try:
        with path.open("rb") as file, fits.open(file, memmap=False) as hdus:
            return header_values(hdus[0].header.cards)
    except (OSError, ValueError, fits.VerifyError) as error:
        raise BadMetadataError("Header cannot be read", file=str(path), error=str(error)) from error


def header_values(cards: Iterable[Any]) -> dict[str, HeaderValue]:
    """Give the values of a header by keyword in the sidecar's form; text cards are left out."""
    from astropy.io.fits.card import Undefined

    values: dict[str, HeaderValue] = {}
    for card in cards:
        keyword = str(card.keyword)
        if keyword in _TEXT_CARDS:
            continue
        if len(keyword) > _KEYWORD_CHARACTERS or " " in keyword:
            keyword = "HIERARCH." + keyword.replace(" ", ".")
        value = card.value
        values[keyword] = None if isinstance(value, Undefined) else value
    return values


def read_raw_image(path: Path, bbox: Sequence[int] | None = None) -> RawImage:
    """Read a raw file, or only the rows of those amplifiers that a bounding box needs.

    Parameters
    ----------
    path
        The file.
    bbox
        ``(x0, y0, x1, y1)`` in the assembled detector, half-open [pixel]; ``None`` for all.

    Raises
    ------
    OutsideDetectorError
        ``bbox`` is no box within the detector. Nothing was read.
    NoAssemblyCardsError
        The segments do not say where they belong.
    BadFileError
        The file is no FITS file of amplifiers.
    """
    import fitsio

    metadata, places, headers = _read_places(path)
    dimensions = _dimensions(places)
    box = dimensions if bbox is None else checked_box(bbox, dimensions)
    amplifiers = []
    try:
        with fitsio.FITS(str(path)) as file:
            for place, header in zip(places, headers, strict=True):
                first, beyond = (0, place.rows) if bbox is None else place.rows_for(box)
                if first == beyond:
                    continue
                pixels = _read_rows(file[place.hdu], place, first, beyond)
                amplifiers.append(RawAmplifier(place, pixels, first, header))
    except OSError as error:
        raise BadFileError("Pixels cannot be read", file=str(path), error=str(error)) from error
    return RawImage(metadata, tuple(amplifiers), dimensions, box)


def read_dimensions(path: Path) -> Box:
    """Give the size of the assembled detector of a raw file, without reading pixels."""
    return _dimensions(_read_places(path)[1])


def _parse_sidecar(text: bytes, sidecar: Path) -> dict[str, HeaderValue]:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise BadMetadataError(
            "Sidecar is not JSON", file=str(sidecar), error=str(error)
        ) from error
    if not isinstance(values, dict):
        raise BadMetadataError("Sidecar is not an object", file=str(sidecar))
    values.pop(_SIDECAR_MARK, None)
    if not {type(value) for value in values.values()} <= _PLAIN:
        keyword = next(name for name, value in values.items() if type(value) not in _PLAIN)
        raise BadMetadataError(
            "Sidecar value is not plain", file=str(sidecar), field=keyword, value=values[keyword]
        )
    return values


def _read_places(
    path: Path,
) -> tuple[dict[str, HeaderValue], list[AmplifierPlace], list[dict[str, HeaderValue]]]:
    from astropy.io import fits

    check_file(path)
    places, headers = [], []
    try:
        with (
            path.open("rb") as file,
            fits.open(file, memmap=False, disable_image_compression=True) as hdus,
        ):
            metadata = header_values(hdus[0].header.cards)
            for number, hdu in enumerate(hdus[1:], start=1):
                values = header_values(hdu.header.cards)
                if "DATASEC" not in values:
                    break
                places.append(_place(values, number, path))
                headers.append(
                    {
                        name: value
                        for name, value in values.items()
                        if not _STORAGE_CARDS.match(name)
                    }
                )
    except (OSError, ValueError, fits.VerifyError) as error:
        raise BadFileError("Headers cannot be read", file=str(path), error=str(error)) from error
    if not places:
        raise BadFileError("File has no amplifiers", file=str(path))
    return metadata, places, headers


def _place(values: Mapping[str, HeaderValue], number: int, path: Path) -> AmplifierPlace:
    match = _SECTION.match(str(values["DATASEC"]))
    if match is None:
        raise BadFileError(
            "Segment section cannot be read",
            file=str(path),
            hdu=number,
            field="DATASEC",
            value=values["DATASEC"],
        )
    x0, x1, y0, y1 = (int(edge) for edge in match.groups())
    data = Box(x0 - 1, y0 - 1, x1, y1)
    left, bottom = values.get("ASMX0"), values.get("ASMY0")
    flip_x, flip_y = values.get("ASMFLIPX"), values.get("ASMFLIPY")
    if not (
        isinstance(left, int)
        and isinstance(bottom, int)
        and isinstance(flip_x, bool)
        and isinstance(flip_y, bool)
    ):
        raise NoAssemblyCardsError(
            "Segment does not say where it belongs",
            file=str(path),
            hdu=number,
            expected="ASMX0, ASMY0, ASMFLIPX, ASMFLIPY",
        )
    prefix = "ZNAXIS" if "ZNAXIS1" in values else "NAXIS"
    columns, rows = values.get(f"{prefix}1"), values.get(f"{prefix}2")
    if not (isinstance(columns, int) and isinstance(rows, int)):
        raise BadFileError("Segment has no image", file=str(path), hdu=number)
    return AmplifierPlace(
        name=str(values.get("EXTNAME", "")),
        hdu=number,
        columns=columns,
        rows=rows,
        data=data,
        box=Box(left, bottom, left + data.columns, bottom + data.rows),
        flip_x=flip_x,
        flip_y=flip_y,
    )


def _dimensions(places: Sequence[AmplifierPlace]) -> Box:
    return Box(0, 0, max(place.box.x1 for place in places), max(place.box.y1 for place in places))


def _read_rows(hdu: Any, place: AmplifierPlace, first: int, beyond: int) -> NDArray[np.int32]:
    # Compressed row by row, so a range of rows is all that is decompressed.
    if (first, beyond) == (0, place.rows):
        pixels = hdu.read()
    else:
        pixels = hdu[first:beyond, 0 : place.columns]
    return np.asarray(pixels, dtype=np.int32)
