"""Small raw files with sidecars, written by astropy alone so that our readers are tested by others.

Layout: raw-file contract, sections 2, 5, 9 and 11.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from platevault.domain.camera import Camera, DetectorType
from platevault.domain.headers import HeaderValue
from platevault.domain.ids import ImageName
from platevault.domain.segments import segment_cards
from platevault.ports.ingest import IngestFile


def a_header(
    camera: Camera, image: str, sensor: str, **changes: HeaderValue
) -> dict[str, HeaderValue]:
    """Give the values of HDU 0 of a science exposure that looked at the sky.

    Parameters
    ----------
    camera, image, sensor
        Whose header.
    **changes
        Values to set, by keyword with ``_`` for ``-``.
    """
    name = ImageName.parse(image)
    detector = camera.detector_by_name[sensor]
    header: dict[str, HeaderValue] = {
        "DATE": "2025-04-16T01:30:00.000",
        "TIMESYS": "TAI",
        "DATE-OBS": "2025-04-16T01:23:45.678",
        "MJD-OBS": 60781.05816756944,
        "DATE-BEG": "2025-04-16T01:23:45.678",
        "MJD-BEG": 60781.05816756944,
        "DATE-END": "2025-04-16T01:24:15.678",
        "OBSID": image,
        "CONTRLLR": name.controller,
        "DAYOBS": f"{name.day_obs:08d}",
        "SEQNUM": name.sequence,
        "GROUPID": "2025-04-16T01:23:40.123",
        "IMGTYPE": "OBJECT",
        "REASON": "science",
        "PROGRAM": "BLOCK-T1",
        "OBJECT": "field 7",
        "CURINDEX": 1,
        "MAXINDEX": 1,
        "INSTRUME": camera.header_name,
        "TELESCOP": camera.telescope_name,
        "RAFTBAY": detector.raft,
        "CCDSLOT": detector.slot,
        "LSST_NUM": detector.serial,
        "FILTER": camera.filters[0].name,
        "EXPTIME": 30.0,
        "SHUTTIME": 30.0,
        "DARKTIME": 30.5,
        "TRACKSYS": "RADEC",
        "RADESYS": "ICRS",
        "RA": 53.1,
        "DEC": -28.1,
        "RASTART": 53.125,
        "DECSTART": -28.0,
        "ROTPA": 33.0,
        "ROTCOORD": "sky",
        "ELSTART": 69.75,
        "AZSTART": -89.5,
        "AMSTART": 1.066,
        "VIGN_MIN": "NO",
        "SEEING": None,
        "HIERARCH.STUTTER.ROWS": 0,
    }
    for keyword, value in changes.items():
        header[keyword.replace("_", "-") if keyword.startswith(("DATE", "MJD")) else keyword] = (
            value
        )
    return header


def some_counts(kind: DetectorType, *, seed: int = 1) -> NDArray[np.int32]:
    """Make counts that differ from pixel to pixel, shape ``(n_amp, n_row, n_col)`` [adu]."""
    shape = (len(kind.amplifiers), kind.rows, kind.columns)
    noise = np.random.default_rng(seed).integers(0, 50, shape)
    amplifier, row, column = np.indices(shape)
    counts = 20_000 + 10_000 * amplifier + 100 * row + column + noise
    return np.asarray(counts, dtype=np.int32)


def write_raw_file(
    directory: Path,
    camera: Camera,
    image: str,
    sensor: str,
    *,
    seed: int = 1,
    sidecar: bool = True,
    compressed: bool = True,
    left_out: Collection[str] = (),
    **changes: HeaderValue,
) -> IngestFile:
    """Write a raw file and its sidecar.

    Parameters
    ----------
    directory
        Where; made if it is absent.
    camera, image, sensor
        What.
    seed
        Of the pixels, `some_counts`.
    sidecar
        Write a sidecar.
    compressed
        Compress the segments, row by row; large ones take seconds.
    left_out
        Keywords not to write.
    **changes
        Header values to set, as for `a_header`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    header = a_header(camera, image, sensor, **changes)
    for keyword in left_out:
        del header[keyword]
    detector = camera.detector_by_name[sensor]
    hdus = fits.HDUList([fits.PrimaryHDU()])
    for keyword, value in header.items():
        card = keyword.replace("HIERARCH.", "HIERARCH ").replace(".", " ")
        hdus[0].header[card] = fits.card.Undefined() if value is None else value
    counts = some_counts(detector.type, seed=seed)
    for plane, cards in zip(counts, segment_cards(camera, detector), strict=True):
        hdu: Any = fits.ImageHDU(plane)
        if compressed:
            tile = (1, detector.type.columns)
            hdu = fits.CompImageHDU(plane, compression_type="RICE_1", tile_shape=tile)
        for segment_card in cards:
            if segment_card.keyword not in {"BSCALE", "BZERO"}:
                hdu.header[segment_card.keyword] = segment_card.value
        hdus.append(hdu)
    path = directory / f"{image}_{sensor}.fits"
    hdus.writeto(path, checksum=True, overwrite=True)
    beside = path.with_suffix(".json")
    if sidecar:
        beside.write_text(json.dumps(_sidecar_of(path, header)), encoding="utf-8")
    return IngestFile(path=path, sensor=sensor, sidecar=beside if sidecar else None)


def _sidecar_of(path: Path, header: Mapping[str, HeaderValue]) -> dict[str, HeaderValue]:
    primary = fits.getheader(path, 0)
    structure = ("SIMPLE", "BITPIX", "NAXIS", "EXTEND")
    return {
        **{keyword: primary[keyword] for keyword in structure},
        **header,
        **{keyword: primary[keyword] for keyword in ("CHECKSUM", "DATASUM")},
        "__CONTENT__": "metadata",
    }
