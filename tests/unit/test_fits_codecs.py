"""Every codec gives the bytes of cfitsio, stays in its buffer and refuses what does not fit."""

from __future__ import annotations

import platform
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from platevault.adapters.fits.buffers import BufferPool
from platevault.adapters.fits.checksum import add_sums, encode_checksum, sum_words
from platevault.adapters.fits.codec import Codec, DetectorData, Encoding
from platevault.adapters.fits.codec_choice import (
    CodecName,
    CodecUnavailableError,
    active_codec,
    choose_codec,
)
from platevault.adapters.fits.library_codec import LibraryCodec
from platevault.adapters.fits.native_codec import Level
from platevault.adapters.fits.stripes import DetectorWords, locate_words, separate
from platevault.domain.errors import UsageError
from platevault.domain.wire import MalformedPixelsError, StripeLayout, WordPacking
from platevault.testing.image_writer_contract import a_detector_type, an_image, deliver

ROW_LENGTHS = (1, 2, 31, 32, 33, 64, 100, 575, 576, 577, 2048)
ENCODINGS = (
    Encoding(),
    Encoding(tile_rows=3),
    Encoding(tile_rows=64),
    Encoding(compressed=False),
)
GUARD = 0xA5


def _has_level(level: Level) -> bool:
    try:
        kernel = import_module("platevault.adapters.fits._kernel")
    except ImportError:
        return False
    return bool(kernel.has_level(level))


#: Codecs that this machine can run, besides the reference.
CODECS = [
    *([CodecName.AVX2] if _has_level(Level.AVX2) else []),
    *([CodecName.PORTABLE] if _has_level(Level.PORTABLE) else []),
    *([CodecName.NUMBA] if find_spec("numba") else []),
]


@pytest.fixture(scope="module", params=CODECS)
def codec(request: pytest.FixtureRequest) -> Codec:
    return choose_codec(request.param)


def words_of(
    planes: NDArray[np.int32],
    *,
    layout: StripeLayout = StripeLayout.SAMPLE_MAJOR,
    packing: WordPacking = WordPacking.INT32,
    group: int = 0,
    mask: int = 0x1FFFF,
) -> DetectorWords:
    """Deliver planes of shape ``(n_detector, n_chan, n_row, n_col)`` and find one detector's."""
    _, channels, rows, columns = planes.shape
    order = tuple(np.random.default_rng(channels).permutation(channels).tolist())
    kind = a_detector_type(order, columns=(0, columns, 0), rows=(rows, 0), xor_mask=mask)
    pixels = deliver(list(planes), kind, layout=layout, packing=packing)
    return locate_words(an_image(pixels, kind, group=group))


def encode(codec: Codec, words: DetectorWords, encoding: Encoding) -> DetectorData:
    """Encode into a buffer of exactly the size asked for, with guards behind."""
    size = codec.buffer_bytes(words, encoding)
    room = np.full(size + 64, GUARD, dtype=np.uint8)
    found = codec.encode(words, encoding, room[:size].data)
    assert (room[size:] == GUARD).all()
    return found


def assert_same(codec: Codec, words: DetectorWords, encoding: Encoding) -> None:
    expected = LibraryCodec().encode(words, encoding, memoryview(b""))
    found = encode(codec, words, encoding)
    assert found.used_bits == expected.used_bits
    for one, other in zip(found.segments, expected.segments, strict=True):
        assert bytes(one.data) == bytes(other.data)
        assert (one.heap_bytes, one.longest_tile_bytes, one.data_sum, one.plane_sum) == (
            other.heap_bytes,
            other.longest_tile_bytes,
            other.data_sum,
            other.plane_sum,
        )


def contents() -> dict[str, Any]:
    """Give makers of counts by name, each of a generator and a shape."""

    def steps(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.int64]:
        return np.where(rng.random(shape) < 0.5, -(2**31), 2**31 - 1)

    def outliers(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.int64]:
        found = rng.integers(0, 2, shape)
        found.reshape(-1)[rng.integers(0, found.size, found.size // 40 + 1)] = 262143
        return found

    return {
        "zeros": lambda _, shape: np.zeros(shape, dtype=np.int64),
        "constant": lambda _, shape: np.full(shape, 131071),
        "negative": lambda _, shape: np.full(shape, -1),
        "extremes": steps,
        "outliers": outliers,
        "2 bits": lambda rng, shape: rng.integers(0, 4, shape),
        "18 bits": lambda rng, shape: rng.integers(0, 1 << 18, shape),
        "25 bits": lambda rng, shape: rng.integers(0, 1 << 25, shape),
        "32 bits": lambda rng, shape: rng.integers(-(2**31), 2**31, shape),
        "noise": lambda rng, shape: rng.normal(25000, 6, shape),
        "flat": lambda rng, shape: rng.normal(90000, 250, shape),
        "cauchy": lambda rng, shape: np.clip(25000 + 5 * rng.standard_cauchy(shape), 0, 262143),
    }


@pytest.mark.parametrize("name", list(contents()))
def test_every_content_and_row_length_gives_the_bytes_of_cfitsio(codec: Codec, name: str) -> None:
    rng = np.random.default_rng(7)
    for columns in ROW_LENGTHS:
        planes = np.asarray(contents()[name](rng, (1, 4, 5, columns))).astype(np.int32)
        for encoding in ENCODINGS:
            assert_same(codec, words_of(planes), encoding)


@pytest.mark.parametrize("layout", list(StripeLayout))
@pytest.mark.parametrize("packing", list(WordPacking))
@pytest.mark.parametrize("channels", [4, 8, 16])
def test_every_form_of_delivery_gives_the_bytes_of_cfitsio(
    codec: Codec, layout: StripeLayout, packing: WordPacking, channels: int
) -> None:
    planes = np.random.default_rng(5).normal(25000, 9, (3, channels, 4, 77)).astype(np.int32)
    for group in range(3):
        words = words_of(planes, layout=layout, packing=packing, group=group)
        for encoding in ENCODINGS:
            assert_same(codec, words, encoding)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_words_give_the_bytes_of_cfitsio(codec: Codec, data: st.DataObject) -> None:
    packing = data.draw(st.sampled_from(WordPacking))
    detectors, channels, rows, columns = data.draw(
        st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 6), st.integers(1, 70))
    )
    bits = data.draw(st.integers(0, 18 if packing is WordPacking.PACKED18 else 32))
    seed = data.draw(st.integers(0, 2**32 - 1))
    counts = np.random.default_rng(seed).integers(
        0, 1 << bits, (detectors, channels, rows, columns)
    )
    steady = data.draw(st.floats(0, 1))
    counts[np.random.default_rng(seed + 1).random(counts.shape) < steady] = 0
    words = words_of(
        counts.astype(np.uint32).view(np.int32),
        packing=packing,
        group=data.draw(st.integers(0, detectors - 1)),
        mask=data.draw(st.integers(0, (1 << 18) - 1)),
    )
    tile_rows = data.draw(st.integers(1, 8))
    assert_same(codec, words, Encoding(compressed=data.draw(st.booleans()), tile_rows=tile_rows))


def test_the_worst_frame_stays_in_its_buffer(codec: Codec) -> None:
    rng = np.random.default_rng(1)
    planes = rng.integers(-(2**31), 2**31, (1, 16, 64, 576)).astype(np.int32)
    words = words_of(planes)
    found = encode(codec, words, Encoding())
    assert sum(segment.data.nbytes for segment in found.segments) > words.pixel_bytes
    assert_same(codec, words, Encoding())


def test_the_source_is_not_changed_and_may_be_read_only(codec: Codec) -> None:
    words = words_of(np.random.default_rng(1).normal(9, 3, (1, 4, 5, 40)).astype(np.int32))
    before = words.data.copy()
    words.data.flags.writeable = False
    assert_same(codec, words, Encoding())
    np.testing.assert_array_equal(words.data, before)


def test_two_threads_give_the_bytes_of_one(codec: Codec) -> None:
    planes = np.random.default_rng(2).normal(25000, 9, (2, 16, 100, 576)).astype(np.int32)
    both = [words_of(planes, group=group) for group in (0, 1)]
    alone = [encode(codec, words, Encoding()) for words in both]
    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(lambda words: encode(codec, words, Encoding()), both * 4))
    for number, found in enumerate(together):
        for one, other in zip(found.segments, alone[number % 2].segments, strict=True):
            assert bytes(one.data) == bytes(other.data)


def test_separate_undoes_delivery() -> None:
    planes = np.random.default_rng(3).integers(0, 1 << 18, (3, 5, 7, 400)).astype(np.int32)
    for packing in WordPacking:
        words = words_of(planes, packing=packing, group=1)
        expected = planes[1][list(words.channels)]
        np.testing.assert_array_equal(separate(words), expected)


@given(channels=st.integers(1, 12).flatmap(lambda count: st.permutations(range(count))))
def test_separate_follows_any_map(channels: list[int]) -> None:
    kind = a_detector_type(tuple(channels), columns=(0, 3, 0), rows=(2, 0))
    planes = np.arange(len(channels) * 6, dtype=np.int32).reshape(-1, 2, 3)
    words = locate_words(an_image(deliver([planes], kind), kind))
    np.testing.assert_array_equal(separate(words), planes[channels])


class TestKernel:
    """Entry points refuse every wrong argument with an exception."""

    @pytest.fixture
    def kernel(self) -> Any:
        return import_module("platevault.adapters.fits._kernel")

    def arguments(self, **changed: object) -> tuple[object, ...]:
        usual: dict[str, object] = {
            "source": bytes(4 * 4 * 10 * 5),
            "offset_bytes": 0,
            "stripe_bytes": 16,
            "first_channel": 0,
            "map": bytes([3, 1, 0, 2]),
            "columns": 10,
            "rows": 5,
            "packing": 0,
            "xor_mask": 0,
            "tile_rows": 1,
            "level": 0,
            "buffer": bytearray(100_000),
        }
        return tuple((usual | changed).values())

    def test_the_usual_arguments_are_taken(self, kernel: Any) -> None:
        segments, used = kernel.encode(*self.arguments())
        assert (len(segments), used) == (4, 0)

    @pytest.mark.parametrize(
        ("changed", "reason"),
        [
            ({"source": bytes(799)}, "too short"),
            ({"offset_bytes": 1}, "too short"),
            ({"offset_bytes": 2**64 - 1}, "too short"),
            ({"stripe_bytes": 15}, "too short"),
            ({"stripe_bytes": 0}, "too short"),
            ({"stripe_bytes": 2**64 - 1}, "too short"),
            ({"first_channel": 1}, "too short"),
            ({"first_channel": 2**32 - 1}, "geometry"),
            ({"map": b""}, "geometry"),
            ({"map": bytes(257)}, "geometry"),
            ({"map": bytes([0, 1, 2, 2])}, "permutation"),
            ({"map": bytes([0, 1, 2, 4])}, "permutation"),
            ({"columns": 0}, "geometry"),
            ({"rows": 0}, "geometry"),
            ({"columns": 2**32 - 1}, "geometry"),
            ({"columns": 2**20, "rows": 2**20}, "geometry"),
            ({"packing": 2}, "geometry"),
            ({"buffer": bytearray(10)}, "buffer"),
            ({"level": 9}, "level"),
        ],
    )
    def test_a_wrong_argument_is_refused(
        self, kernel: Any, changed: dict[str, object], reason: str
    ) -> None:
        with pytest.raises(ValueError, match=reason):
            kernel.encode(*self.arguments(**changed))

    @pytest.mark.parametrize(
        "changed", [{"buffer": bytes(100_000)}, {"source": "text"}, {"columns": "1"}]
    )
    def test_a_wrong_type_is_refused(self, kernel: Any, changed: dict[str, object]) -> None:
        with pytest.raises((TypeError, BufferError)):
            kernel.encode(*self.arguments(**changed))

    def test_a_buffer_that_the_geometry_forbids_has_no_size(self, kernel: Any) -> None:
        with pytest.raises(ValueError, match="geometry"):
            kernel.buffer_bytes(2**20, 2**20, 16, 1)

    @given(data=st.binary(max_size=200))
    def test_the_sum_is_that_of_the_standard(self, data: bytes) -> None:
        kernel = import_module("platevault.adapters.fits._kernel")
        total = 0
        for at in range(0, len(data), 4):
            total += int.from_bytes(data[at : at + 4].ljust(4, b"\0"), "big")
            total = (total & 0xFFFFFFFF) + (total >> 32)
        assert sum_words(data) == total
        assert kernel.sum_words(data) == total


@given(total=st.integers(0, 2**32 - 1))
def test_a_checksum_brings_the_sum_to_all_ones_and_is_alphanumeric(total: int) -> None:
    text = encode_checksum(total)
    assert text.isalnum()
    assert len(text) == 16
    aligned = text[1:] + text[:1]  # the value begins three bytes into a word
    zeros = sum_words(b"0" * 16)
    result = add_sums(total, sum_words(aligned.encode()), 0xFFFFFFFF - zeros)
    assert result in {0, 0xFFFFFFFF}


def test_a_readout_beyond_the_format_is_refused() -> None:
    words = words_of(np.zeros((1, 1, 1, 4), dtype=np.int32))
    huge = DetectorWords(
        data=words.data,
        offset_bytes=0,
        stripe_bytes=4,
        first_channel=0,
        channels=(0,),
        columns=2**20,
        rows=2**20,
        packing=WordPacking.INT32,
        xor_mask=0,
    )
    with pytest.raises(MalformedPixelsError, match="cannot be encoded"):
        choose_codec(CodecName.PORTABLE).buffer_bytes(huge, Encoding())


def test_a_tile_without_rows_is_refused() -> None:
    with pytest.raises(UsageError, match="row"):
        Encoding(tile_rows=0)


def test_the_fastest_codec_of_the_machine_is_chosen() -> None:
    info = active_codec()
    assert info.name == "native"
    expected = "avx2" if _has_level(Level.AVX2) else "portable"
    assert info.level == expected
    if platform.machine() != "x86_64":
        assert expected == "portable"


def test_without_the_kernel_a_slower_codec_is_chosen_and_said_to_be_slow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "platevault.adapters.fits._kernel", None)
    with structlog.testing.capture_logs() as logs:
        assert choose_codec().info.name == "numba"
        monkeypatch.setitem(sys.modules, "platevault.adapters.fits.numba_codec", None)
        assert choose_codec().info.name == "library"
    assert [entry["codec"] for entry in logs] == ["numba", "library"]
    assert all(entry["log_level"] == "warning" for entry in logs)
    assert "not built" in logs[1]["detail"]


@pytest.mark.parametrize("name", ["avx512", "", "NATIVE"])
def test_an_unknown_codec_is_refused(name: str) -> None:
    with pytest.raises(CodecUnavailableError, match="Unknown"):
        choose_codec(name)


def test_a_codec_that_was_asked_for_and_is_missing_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "platevault.adapters.fits._kernel", None)
    with pytest.raises(CodecUnavailableError, match="avx2"):
        choose_codec(CodecName.AVX2)


def test_a_pool_lends_pages_and_keeps_them() -> None:
    pool = BufferPool(count=1)
    with pool.lease(5000) as first:
        assert np.frombuffer(first, np.uint8).ctypes.data % 4096 == 0
        first[0] = 7
    with pool.lease(4000) as again:
        assert again[0] == 7
    with pool.lease(9000) as larger:
        assert len(larger) >= 9000
