"""A raw file is read as it was written, and no more of it than was asked for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from platevault.adapters.butler.raw_file import (
    NoAssemblyCardsError,
    read_dimensions,
    read_metadata,
    read_raw_image,
)
from platevault.adapters.butler.raw_image import Box, OutsideDetectorError
from platevault.domain.assembly import assemble
from platevault.ports.ingest import BadFileError
from platevault.testing.cameras import tiny_camera
from platevault.testing.raw_files import some_counts, write_raw_file

CAMERA = tiny_camera()
KIND = CAMERA.detectors[0].type
IMAGE = "TC_O_20250415_000060"
WHOLE = Box(0, 0, 64, 32)


@pytest.fixture(scope="module")
def raw_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_raw_file(tmp_path_factory.mktemp("raw"), CAMERA, IMAGE, "R22_S00").path


def test_amplifiers_are_those_written_in_order(raw_path: Path) -> None:
    raw = read_raw_image(raw_path)
    counts = some_counts(KIND)
    assert [amplifier.name for amplifier in raw.amplifiers] == [
        "Segment10", "Segment11", "Segment01", "Segment00",
    ]  # fmt: skip
    for amplifier, plane in zip(raw.amplifiers, counts, strict=True):
        np.testing.assert_array_equal(amplifier.pixels, plane)
        assert amplifier.pixels.dtype == np.int32


def test_the_assembled_detector_is_that_of_the_camera(raw_path: Path) -> None:
    raw = read_raw_image(raw_path)
    assert (raw.dimensions, raw.bbox) == (WHOLE, WHOLE)
    np.testing.assert_array_equal(raw.assemble(), assemble(tuple(some_counts(KIND)), KIND))


def test_metadata_equal_the_sidecar(raw_path: Path) -> None:
    sidecar = json.loads(raw_path.with_suffix(".json").read_bytes())
    del sidecar["__CONTENT__"]
    assert read_raw_image(raw_path).metadata == sidecar
    assert read_metadata(raw_path) == sidecar
    assert read_metadata(raw_path, raw_path.with_suffix(".json")) == sidecar


def test_a_sidecar_that_is_not_there_is_no_obstacle(raw_path: Path, tmp_path: Path) -> None:
    assert read_metadata(raw_path, tmp_path / "none.json") == read_metadata(raw_path)


def test_segment_headers_have_no_cards_of_the_compression(raw_path: Path) -> None:
    header = read_raw_image(raw_path).amplifiers[0].metadata
    assert header["DATASEC"] == "[4:35,1:16]"
    assert not {"XTENSION", "ZIMAGE", "ZCMPTYPE", "TTYPE1", "CHECKSUM", "ZTILE1"} & set(header)


def test_dimensions_are_known_without_pixels(raw_path: Path) -> None:
    assert read_dimensions(raw_path) == WHOLE


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_box_gives_that_part_of_the_detector(raw_path: Path, data: st.DataObject) -> None:
    x0 = data.draw(st.integers(0, WHOLE.x1 - 1))
    y0 = data.draw(st.integers(0, WHOLE.y1 - 1))
    x1 = data.draw(st.integers(x0 + 1, WHOLE.x1))
    y1 = data.draw(st.integers(y0 + 1, WHOLE.y1))
    part = read_raw_image(raw_path, (x0, y0, x1, y1))
    assert part.bbox == Box(x0, y0, x1, y1)
    whole = assemble(tuple(some_counts(KIND)), KIND)
    np.testing.assert_array_equal(part.assemble(), whole[y0:y1, x0:x1])


@pytest.mark.parametrize(
    ("box", "names", "rows"),
    [
        ((0, 0, 10, 3), ["Segment00"], [(0, 3)]),
        ((40, 4, 41, 6), ["Segment01"], [(4, 2)]),
        ((0, 30, 64, 32), ["Segment10", "Segment11"], [(0, 2), (0, 2)]),
        ((31, 15, 33, 17), ["Segment10", "Segment11", "Segment01", "Segment00"],
         [(15, 1), (15, 1), (15, 1), (15, 1)]),
    ],
)  # fmt: skip
def test_a_box_reads_only_the_amplifiers_and_rows_it_needs(
    raw_path: Path,
    box: tuple[int, int, int, int],
    names: list[str],
    rows: list[tuple[int, int]],
) -> None:
    part = read_raw_image(raw_path, box)
    assert [amplifier.name for amplifier in part.amplifiers] == names
    assert [(a.first_row, a.pixels.shape[0]) for a in part.amplifiers] == rows


@pytest.mark.parametrize(
    "box", [(0, 0, 65, 1), (-1, 0, 5, 5), (5, 5, 5, 9), (9, 5, 5, 9), (1, 2, 3), ("a", 0, 1, 1)]
)
def test_a_box_outside_the_detector_is_refused(raw_path: Path, box: tuple[int, ...]) -> None:
    with pytest.raises(OutsideDetectorError) as caught:
        read_raw_image(raw_path, box)
    assert {"value", "expected"} <= set(caught.value.context)


def test_a_file_without_assembly_cards_says_so(raw_path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.fits"
    with fits.open(raw_path, disable_image_compression=True) as hdus:
        del hdus[2].header["ASMX0"]
        hdus.writeto(other)
    with pytest.raises(NoAssemblyCardsError) as caught:
        read_raw_image(other)
    assert caught.value.context["hdu"] == 2


@pytest.mark.parametrize("contents", [b"", b"SIMPLE  =                    T", b"text" * 720])
def test_a_file_that_is_no_raw_image_says_so(tmp_path: Path, contents: bytes) -> None:
    path = tmp_path / "bad.fits"
    path.write_bytes(contents)
    with pytest.raises(BadFileError):
        read_raw_image(path)


def test_an_uncompressed_file_reads_the_same(raw_path: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.fits"
    with fits.open(raw_path) as hdus:
        images = [fits.ImageHDU(hdu.data, header=hdu.header) for hdu in hdus[1:]]
        fits.HDUList([hdus[0].copy(), *images]).writeto(plain)
    np.testing.assert_array_equal(
        read_raw_image(plain, (5, 9, 60, 30)).assemble(),
        read_raw_image(raw_path, (5, 9, 60, 30)).assemble(),
    )
