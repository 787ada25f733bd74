"""The FITS writer keeps the contract of image writers, and more that is its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import fitsio
import numpy as np
import pytest
from astropy.io import fits
from typing_extensions import override

from platevault.adapters.filesystem.durable import DigestAlgorithm, FileLayer, SyncPolicy
from platevault.adapters.fits.codec import Encoding
from platevault.adapters.fits.codec_choice import CodecName, choose_codec
from platevault.adapters.fits.peers import ReadBackError, verify_file
from platevault.adapters.fits.stripes import locate_words, separate
from platevault.adapters.fits.writer import FitsImageWriter
from platevault.domain.errors import UsageError
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


class SlowSync(FileLayer):
    """Holds a sync until a test lets it go."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.go_on = threading.Event()

    @override
    def sync(self, descriptor: int) -> None:
        self.reached.set()
        assert self.go_on.wait(10)
        super().sync(descriptor)


async def test_a_cancelled_staging_leaves_nothing(tmp_path: Path) -> None:
    layer = SlowSync()
    async with FitsImageWriter(files=layer, workers=1) as writer:
        async with asyncio.TaskGroup() as group:
            staging = group.create_task(writer.stage_bytes(b"one", tmp_path / "a"), name="one")
            waiting = group.create_task(writer.stage_bytes(b"two", tmp_path / "b"), name="two")
            await asyncio.to_thread(layer.reached.wait, 10)
            staging.cancel()
            waiting.cancel()
        assert len(names_in(tmp_path)) == 1
        layer.go_on.set()
    assert staging.cancelled()
    assert names_in(tmp_path) == []


async def test_a_writer_that_is_not_open_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not open"):
        await FitsImageWriter().stage_bytes(b"one", tmp_path / "a")


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_every_codec_writes_the_same_file(tmp_path: Path, encoding: Encoding) -> None:
    kind = a_detector_type()
    image = an_image(deliver([some_planes(kind)], kind), kind)
    digests = set()
    for name in (CodecName.AUTO, CodecName.PORTABLE, CodecName.LIBRARY):
        async with FitsImageWriter(encoding=encoding, codec=choose_codec(name)) as writer:
            staged = await writer.stage_image(image, tmp_path / "a.fits")
            digests.add(staged.digest)
            await writer.discard([staged])
    assert len(digests) == 1


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_every_reader_there_is_agrees_on_a_real_size(
    tmp_path: Path, encoding: Encoding
) -> None:
    kind = a_detector_type(tuple(range(8)), columns=(3, 509, 64), rows=(100, 48))
    image = an_image(
        deliver([some_planes(kind)], kind), kind, primary=[Card("NAME", "it's " * 40, "long")]
    )
    async with FitsImageWriter(encoding=encoding) as writer:
        staged = await writer.stage_image(image, tmp_path / "a.fits")
        await writer.commit([staged])
    readers = verify_file(tmp_path / "a.fits", separate(locate_words(image)))
    assert {"astropy", "fitsio"} <= set(readers)


@pytest.mark.parametrize("at", [3000, 9000, 20_000, -100])
async def test_a_reader_finds_a_damaged_file(tmp_path: Path, at: int) -> None:
    kind = a_detector_type()
    image = an_image(deliver([some_planes(kind)], kind), kind)
    async with FitsImageWriter() as writer:
        await writer.commit([await writer.stage_image(image, tmp_path / "a.fits")])
    data = bytearray((tmp_path / "a.fits").read_bytes())
    data[at] ^= 1
    (tmp_path / "a.fits").write_bytes(data)
    with pytest.raises(ReadBackError):
        verify_file(tmp_path / "a.fits", separate(locate_words(image)))


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
