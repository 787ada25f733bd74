"""The FITS writer keeps the contract of image writers, and more that is its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import fitsio
import numpy as np
import pytest
from astropy.io import fits

from platevault.adapters.filesystem.durable import DigestAlgorithm, SyncPolicy
from platevault.adapters.fits.codec import Encoding
from platevault.adapters.fits.writer import FitsImageWriter
from platevault.domain.headers import Card
from platevault.domain.wire import MalformedPixelsError
from platevault.testing.image_writer_contract import (
    ImageWriterContract,
    a_detector_type,
    an_image,
    deliver,
    digest_by_hand,
    names_in,
    some_planes,
)

ENCODINGS = [Encoding(), Encoding(tile_rows=8), Encoding(compressed=False)]


class TestFitsImageWriter(ImageWriterContract):
    @pytest.fixture(
        params=[
            (Encoding(), SyncPolicy.DURABLE),
            (Encoding(tile_rows=8), SyncPolicy.RAMDISK),
            (Encoding(compressed=False), SyncPolicy.RAMDISK),
        ],
        ids=["rows", "tiles", "plain"],
    )
    async def writer(self, request: pytest.FixtureRequest) -> AsyncIterator[FitsImageWriter]:
        encoding, sync = request.param
        async with FitsImageWriter(encoding=encoding, sync=sync, workers=2) as writer:
            yield writer


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_fitsio_reads_every_pixel_and_keyword(tmp_path: Path, encoding: Encoding) -> None:
    kind = a_detector_type()
    planes = some_planes(kind)
    final = tmp_path / "a.fits"
    async with FitsImageWriter(encoding=encoding) as writer:
        image = an_image(
            deliver([planes], kind), kind, primary=[Card("EXPTIME", 30.0), Card("NAME", "x" * 200)]
        )
        await writer.commit([await writer.stage_image(image, final)])
    with fitsio.FITS(str(final)) as file:
        header = file[0].read_header()
        assert (header["EXPTIME"], header["NAME"]) == (30.0, "x" * 200)
        for hdu, amplifier in enumerate(kind.amplifiers, start=1):
            assert file[hdu].get_extname() == f"Segment{amplifier.name}"
            found = file[hdu].read()
            assert found.dtype == np.int32
            np.testing.assert_array_equal(found, planes[amplifier.channel])


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_both_checksums_of_the_image_hold_once_it_is_unpacked(
    tmp_path: Path, encoding: Encoding
) -> None:
    kind = a_detector_type()
    final = tmp_path / "a.fits"
    async with FitsImageWriter(encoding=encoding) as writer:
        image = an_image(deliver([some_planes(kind)], kind), kind)
        await writer.commit([await writer.stage_image(image, final)])
    with fits.open(final, disable_image_compression=True) as hdus:
        for hdu in hdus:
            assert hdu.verify_checksum() == 1
            assert hdu.verify_datasum() == 1
        if encoding.compressed:
            plain = fits.ImageHDU(fits.getdata(final, 1))
            assert hdus[1].header["ZDATASUM"] == str(plain.add_datasum())
            assert hdus[1].header["ZTILE2"] == encoding.tile_rows


async def test_words_wider_than_the_converter_are_refused_only_with_a_limit(
    tmp_path: Path,
) -> None:
    kind = a_detector_type()
    planes = some_planes(kind)
    planes[2, 3, 4] = 1 << 18
    image = an_image(deliver([planes], kind), kind)
    async with FitsImageWriter(word_bits=18) as strict, FitsImageWriter() as lax:
        with pytest.raises(MalformedPixelsError, match="wider"):
            await strict.stage_image(image, tmp_path / "a.fits")
        await lax.discard([await lax.stage_image(image, tmp_path / "a.fits")])
    assert names_in(tmp_path) == []


async def test_registers_of_another_active_area_are_refused(tmp_path: Path) -> None:
    kind = a_detector_type()
    other = a_detector_type(columns=(4, 49, 8))
    image = an_image(deliver([some_planes(other)], other), kind)
    async with FitsImageWriter() as writer:
        with pytest.raises(MalformedPixelsError, match="prescan"):
            await writer.stage_image(image, tmp_path / "a.fits")


async def test_sha256_is_taken_when_asked_for(tmp_path: Path) -> None:
    async with FitsImageWriter(algorithm=DigestAlgorithm.SHA256) as writer:
        staged = await writer.stage_bytes(b"x" * 3_000_000, tmp_path / "a")
        assert staged.digest.startswith("sha256:")
        assert staged.digest == digest_by_hand(staged.temporary, staged.digest)
        await writer.discard([staged])


async def test_a_card_that_fits_cannot_hold_is_left_out_and_the_image_is_written(
    tmp_path: Path,
) -> None:
    kind = a_detector_type()
    primary = [
        Card("lower", 1),
        Card("NAN", float("nan")),
        Card("NAME", "Café\n"),
        Card("NAXIS", 7),
    ]
    image = an_image(deliver([some_planes(kind)], kind), kind, primary=primary)
    async with FitsImageWriter() as writer:
        staged = await writer.stage_image(image, tmp_path / "a.fits")
        header = fits.getheader(staged.temporary)
        assert "lower" not in header
        assert header["NAN"] is None
        assert header["NAME"] == "Caf??"
        assert header["NAXIS"] == 0
        await writer.discard([staged])
