"""What every image writer must do; subclass `ImageWriterContract` in a test."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import xxhash
from astropy.io import fits
from numpy.typing import NDArray

from platevault.domain.camera import Amplifier, DetectorType
from platevault.domain.headers import Card
from platevault.domain.wire import (
    BoardPixels,
    MalformedPixelsError,
    StripeLayout,
    WordPacking,
    registers_of,
)
from platevault.ports.image_writer import (
    DirectoryUnwritableError,
    FileConflictError,
    ImageWriter,
    SensorImage,
)


def a_detector_type(
    channels: Sequence[int] = (2, 3, 1, 0),
    *,
    columns: tuple[int, int, int] = (3, 50, 8),
    rows: tuple[int, int] = (17, 4),
    xor_mask: int = 0x1FFFF,
) -> DetectorType:
    """Make a small detector: channel of each HDU; prescan, data, overscan columns; data rows."""
    return DetectorType(
        name="small",
        vendor="ITL",
        model="3800C",
        data_columns=columns[1],
        data_rows=rows[0],
        prescan=columns[0],
        serial_overscan=columns[2],
        parallel_overscan=rows[1],
        amplifiers=tuple(
            Amplifier(f"1{hdu}", channel, hdu * columns[1], 0)
            for hdu, channel in enumerate(channels)
        ),
        xor_mask=xor_mask,
        pixel_um=10.0,
        frames="assembly",
        saturation_adu=262143,
        gain_e_per_adu=1.6,
        bias_adu=25000.0,
        read_noise_adu=5.0,
    )


def deliver(
    planes: Sequence[NDArray[np.int32]],
    kind: DetectorType,
    *,
    layout: StripeLayout = StripeLayout.SAMPLE_MAJOR,
    packing: WordPacking = WordPacking.INT32,
) -> BoardPixels:
    """Interleave and mask counts as a DAQ would.

    Parameters
    ----------
    planes
        Counts of each detector of the board by DAQ channel, shape ``(n_chan, n_row, n_col)``.
    kind
        Gives mask and registers.
    layout, packing
        Form of delivery.
    """
    stripes = [plane.reshape(plane.shape[0], -1).T for plane in planes]
    joined = [np.hstack(stripes)] if layout is StripeLayout.SAMPLE_MAJOR else stripes
    pieces = [
        _pack(stripe.astype(np.uint32) ^ np.uint32(kind.xor_mask), packing) for stripe in joined
    ]
    return BoardPixels(
        data=np.concatenate(pieces),
        layout=layout,
        packing=packing,
        registers=registers_of(kind),
        channels=tuple(plane.shape[0] for plane in planes),
    )


def _pack(words: NDArray[np.uint32], packing: WordPacking) -> NDArray[np.uint8]:
    if packing is WordPacking.INT32:
        return words.astype("<u4").reshape(-1).view(np.uint8)
    bits = words[:, :, None] >> np.arange(18, dtype=np.uint32) & 1
    bytes_ = np.packbits(bits.reshape(len(words), -1).astype(np.uint8), axis=1, bitorder="little")
    return bytes_.reshape(-1)


def some_planes(kind: DetectorType, *, seed: int = 1) -> NDArray[np.int32]:
    """Make counts that differ between channels, rows and columns, shape ``(n_chan, row, col)``."""
    shape = (len(kind.amplifiers), kind.rows, kind.columns)
    noise = np.random.default_rng(seed).normal(0, 6, shape).astype(np.int32)
    channel, row, column = np.indices(shape)
    counts = 20000 + 1000 * channel + 3 * row + column + noise
    return np.asarray(counts, dtype=np.int32)


def an_image(
    pixels: BoardPixels,
    kind: DetectorType,
    *,
    group: int = 0,
    primary: Sequence[Card] = (Card("OBSID", "CC_O_20250415_000060", "image name"),),
) -> SensorImage:
    """Make an image with short headers."""
    return SensorImage(
        pixels=pixels,
        group=group,
        detector_type=kind,
        primary=primary,
        segments=[
            [Card("EXTNAME", f"Segment{amplifier.name}"), Card("CHANNEL", hdu)]
            for hdu, amplifier in enumerate(kind.amplifiers, start=1)
        ],
    )


def names_in(directory: Path) -> list[str]:
    """List a directory, sorted."""
    return sorted(path.name for path in directory.iterdir())


def digest_by_hand(path: Path, digest: str) -> str:
    """Compute a file's digest with the algorithm of another, without the writer."""
    algorithm = digest.partition(":")[0]
    data = path.read_bytes()
    if algorithm == "xxh3":
        return f"xxh3:{xxhash.xxh3_128_hexdigest(data)}"
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


class ImageWriterContract:
    """Subclass it in a test and give an open ``writer`` fixture."""

    @pytest.mark.parametrize("layout", list(StripeLayout))
    @pytest.mark.parametrize("packing", list(WordPacking))
    @pytest.mark.parametrize("group", [0, 1, 2])
    async def test_each_hdu_has_the_pixels_of_its_channel(
        self,
        writer: ImageWriter,
        tmp_path: Path,
        layout: StripeLayout,
        packing: WordPacking,
        group: int,
    ) -> None:
        kind = a_detector_type()
        planes = [some_planes(kind, seed=seed) + 40_000 * seed for seed in range(3)]
        pixels = deliver(planes, kind, layout=layout, packing=packing)
        final = tmp_path / "image.fits"
        staged = await writer.stage_image(an_image(pixels, kind, group=group), final)
        await writer.commit([staged])
        with fits.open(final, checksum=True) as hdus:
            assert len(hdus) == 1 + len(kind.amplifiers)
            for hdu, amplifier in zip(hdus[1:], kind.amplifiers, strict=True):
                np.testing.assert_array_equal(hdu.data, planes[group][amplifier.channel])

    async def test_a_staged_file_has_a_temporary_name_and_its_digest(
        self, writer: ImageWriter, tmp_path: Path
    ) -> None:
        staged = await writer.stage_bytes(b"manifest", tmp_path / "m.json")
        assert not staged.final.exists()
        assert staged.temporary.parent == tmp_path
        assert staged.temporary.name.startswith(".m.json.")
        assert staged.temporary.name.endswith(".tmp")
        assert staged.size_bytes == staged.temporary.stat().st_size
        assert staged.digest == digest_by_hand(staged.temporary, staged.digest)

    async def test_the_same_input_gives_the_same_bytes(
        self, writer: ImageWriter, tmp_path: Path
    ) -> None:
        kind = a_detector_type()
        image = an_image(deliver([some_planes(kind)], kind), kind)
        first = await writer.stage_image(image, tmp_path / "a.fits")
        second = await writer.stage_image(image, tmp_path / "b.fits")
        assert first.digest == second.digest
        assert first.temporary.read_bytes() == second.temporary.read_bytes()
        await writer.discard([first, second])

    async def test_a_staged_image_carries_hdu_0_as_written(
        self, writer: ImageWriter, tmp_path: Path
    ) -> None:
        kind = a_detector_type()
        primary = [Card("OBSID", "x"), Card("RA", None), Card("", None, "---- Title ----")]
        image = an_image(deliver([some_planes(kind)], kind), kind, primary=primary)
        staged = await writer.stage_image(image, tmp_path / "a.fits")
        with fits.open(staged.temporary) as hdus:
            found = [
                (card.keyword, None if isinstance(card.value, fits.Undefined) else card.value)
                for card in hdus[0].header.cards
                if card.keyword
            ]
        assert found == [(card.keyword, card.value) for card in staged.primary if card.keyword]
        await writer.discard([staged])

    async def test_commit_is_success_twice(self, writer: ImageWriter, tmp_path: Path) -> None:
        staged = await writer.stage_bytes(b"one", tmp_path / "a.json")
        await writer.commit([staged])
        await writer.commit([staged])
        assert names_in(tmp_path) == ["a.json"]

    async def test_equal_contents_under_the_name_are_success(
        self, writer: ImageWriter, tmp_path: Path
    ) -> None:
        (tmp_path / "a.json").write_bytes(b"one")
        await writer.commit([await writer.stage_bytes(b"one", tmp_path / "a.json")])
        assert names_in(tmp_path) == ["a.json"]

    async def test_other_contents_under_the_name_are_kept_and_refused(
        self, writer: ImageWriter, tmp_path: Path
    ) -> None:
        (tmp_path / "a.json").write_bytes(b"one")
        staged = await writer.stage_bytes(b"two", tmp_path / "a.json")
        with pytest.raises(FileConflictError, match=r"a\.json"):
            await writer.commit([staged])
        assert (tmp_path / "a.json").read_bytes() == b"one"
        assert staged.temporary.read_bytes() == b"two"
        await writer.discard([staged])

    async def test_discard_leaves_nothing_and_may_be_done_again(
        self, writer: ImageWriter, tmp_path: Path
    ) -> None:
        staged = await writer.stage_bytes(b"one", tmp_path / "a.json")
        await writer.discard([staged])
        await writer.discard([staged])
        assert names_in(tmp_path) == []

    async def test_sweep_removes_what_former_runs_left_but_not_what_is_kept_or_in_work(
        self, writer: ImageWriter, tmp_path: Path
    ) -> None:
        left = tmp_path / ".a.fits.1f-0.tmp"
        kept = tmp_path / ".b.fits.1f-1.tmp"
        for path in (left, kept, tmp_path / "c.fits"):
            path.write_bytes(b"half")
        staged = await writer.stage_bytes(b"one", tmp_path / "d.json")
        assert await writer.sweep(tmp_path, keep={kept: "xxh3:0"}) == [left]
        assert names_in(tmp_path) == sorted([kept.name, "c.fits", staged.temporary.name])
        await writer.discard([staged])

    @pytest.mark.parametrize("missing", [1, 4, 1000])
    async def test_too_few_bytes_are_refused_and_leave_nothing(
        self, writer: ImageWriter, tmp_path: Path, missing: int
    ) -> None:
        kind = a_detector_type()
        whole = deliver([some_planes(kind)], kind)
        cut = BoardPixels(
            whole.data[:-missing], whole.layout, whole.packing, whole.registers, whole.channels
        )
        with pytest.raises(MalformedPixelsError, match=r"image\.fits"):
            await writer.stage_image(an_image(cut, kind), tmp_path / "image.fits")
        assert names_in(tmp_path) == []

    async def test_a_directory_that_cannot_be_is_an_operators_matter(
        self, writer: ImageWriter, tmp_path: Path
    ) -> None:
        (tmp_path / "day").write_bytes(b"a file, not a directory")
        with pytest.raises(DirectoryUnwritableError, match="day"):
            await writer.stage_bytes(b"one", tmp_path / "day" / "a.json")
        assert names_in(tmp_path) == ["day"]
