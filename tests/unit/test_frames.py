"""Real frames as detector pixels.

The real frames lie beside the checkout, if at all; tests that need them skip without.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gzip
import io
import warnings
from pathlib import Path
from typing import Any

import fitsio
import numpy as np
import pytest
from astropy.io import fits
from astropy.time import Time
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from platevault.compose.cameras import load_camera as read_camera
from platevault.domain.assembly import assemble
from platevault.domain.camera import Amplifier, Camera, DetectorType, Filter, InvalidCameraError
from platevault.domain.header_cards import free_card
from platevault.domain.timescales import isot
from platevault.sim.daq import SimDaq
from platevault.sim.frame_headers import facts_of, subject_of
from platevault.sim.frames import (
    ReplayedFrame,
    UnreadableFrameError,
    UnsuitableFrameError,
    load_frame,
)

FRAMES = Path(__file__).parents[3] / "shared" / "data" / "frames"
SENSOR = "R00_S00"
load_camera = functools.cache(read_camera)


def small_type(amplifiers: int = 4) -> DetectorType:
    places = [(0, 0, False, False), (6, 0, True, False), (6, 5, True, True), (0, 5, False, True)]
    return DetectorType(
        name="small",
        vendor="Maker",
        model="M",
        data_columns=6,
        data_rows=5,
        prescan=1,
        serial_overscan=2,
        parallel_overscan=3,
        amplifiers=tuple(
            Amplifier(str(index + 1), index, *place)
            for index, place in enumerate(places[:amplifiers])
        ),
        xor_mask=0,
        pixel_um=15.0,
        frames="assembly",
        saturation_adu=65535,
        gain_e_per_adu=1.0,
        bias_adu=0.0,
        read_noise_adu=0.0,
    )


def small_camera(*, word_bits: int = 18, amplifiers: int = 4) -> Camera:
    latiss = load_camera("latiss")
    detector = dataclasses.replace(latiss.detectors[0], type=small_type(amplifiers))
    return dataclasses.replace(
        latiss,
        detectors=(detector,),
        word_bits=word_bits,
        extname_prefix="Q",
        filters=(Filter("rp", "r"), Filter("SDSSr~empty", "r"), Filter("unknown")),
    )


CAMERA = small_camera()
ROWS, COLUMNS = 8, 9


def counts(shape: tuple[int, ...], seed: int = 1, limit: int = 1 << 15) -> NDArray[np.int32]:
    return np.random.default_rng(seed).integers(0, limit, shape, dtype=np.int32)


def load(path: Path, camera: Camera = CAMERA, amplifier: str | None = None) -> ReplayedFrame:
    return load_frame(path, camera, SENSOR, amplifier=amplifier)


# --- where the amplifiers are ---------------------------------------------------------------------


def test_a_cube_has_a_plane_for_each_amplifier(tmp_path: Path) -> None:
    cube = counts((4, ROWS, COLUMNS))
    fits.writeto(tmp_path / "f.fits", cube)
    frame = load(tmp_path / "f.fits")
    np.testing.assert_array_equal(frame.planes, cube)
    assert frame.planes.dtype == np.int32
    assert frame.amplifiers == ("1", "2", "3", "4")
    assert frame.has_overscan
    assert frame.rounding_adu == 0.0
    assert (frame.registers.columns, frame.registers.rows) == (COLUMNS, ROWS)


def test_images_are_amplifiers_in_hdu_order(tmp_path: Path) -> None:
    cube = counts((4, ROWS, COLUMNS))
    hdus = [fits.PrimaryHDU(), *(fits.ImageHDU(plane) for plane in cube)]
    fits.HDUList(hdus).writeto(tmp_path / "f.fits")
    np.testing.assert_array_equal(load(tmp_path / "f.fits").planes, cube)


def test_a_primary_image_counts_as_the_first_amplifier(tmp_path: Path) -> None:
    cube = counts((4, ROWS, COLUMNS))
    hdus = [fits.PrimaryHDU(cube[0]), *(fits.ImageHDU(plane) for plane in cube[1:])]
    fits.HDUList(hdus).writeto(tmp_path / "f.fits")
    np.testing.assert_array_equal(load(tmp_path / "f.fits").planes, cube)


def test_images_with_the_names_of_amplifiers_are_found_in_any_order(tmp_path: Path) -> None:
    cube = counts((4, ROWS, COLUMNS))
    hdus: list[Any] = [fits.PrimaryHDU()]
    hdus += [fits.ImageHDU(cube[index], name=f"Q{index + 1}") for index in (2, 0, 3)]
    hdus.append(fits.BinTableHDU.from_columns([fits.Column("A", "J", array=np.arange(3))]))
    fits.HDUList(hdus).writeto(tmp_path / "f.fits")
    frame = load(tmp_path / "f.fits")
    np.testing.assert_array_equal(frame.planes[[0, 2, 3]], cube[[0, 2, 3]])
    assert not frame.planes[1].any()
    assert frame.amplifiers == ("1", "3", "4")


@pytest.mark.parametrize(("amplifier", "index"), [(None, 0), ("3", 2)])
@pytest.mark.parametrize("axes", [2, 3, 4])
def test_a_single_plane_belongs_to_one_amplifier(
    tmp_path: Path, axes: int, amplifier: str | None, index: int
) -> None:
    plane = counts((ROWS, COLUMNS)) + 1
    fits.writeto(tmp_path / "f.fits", plane.reshape((1,) * (axes - 2) + plane.shape))
    frame = load(tmp_path / "f.fits", amplifier=amplifier)
    np.testing.assert_array_equal(frame.planes[index], plane)
    assert np.count_nonzero(frame.planes) == plane.size
    assert frame.amplifiers == (str(index + 1),)


def test_an_assembled_image_is_taken_apart(tmp_path: Path) -> None:
    whole = counts((10, 12))
    fits.writeto(tmp_path / "f.fits", whole)
    frame = load(tmp_path / "f.fits")
    np.testing.assert_array_equal(assemble(list(frame.planes), small_type()), whole)
    assert not frame.has_overscan
    assert not frame.planes[:, :, 0].any()
    assert not frame.planes[:, 5:, :].any()


@pytest.mark.parametrize("shape", [(ROWS, COLUMNS + 1), (3, ROWS, COLUMNS), (2, 2, ROWS, COLUMNS)])
def test_a_frame_of_another_size_is_refused_with_both_sizes(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    header = fits.Header({"CCDSUM": "2 2"})
    fits.writeto(tmp_path / "f.fits", counts(shape), header)
    with pytest.raises(UnsuitableFrameError) as caught:
        load(tmp_path / "f.fits")
    assert caught.value.context["value"] == [(0, *shape)]
    assert caught.value.context["binning"] == "2 2"
    assert "8 x 9" in str(caught.value.context["expected"])


def test_a_frame_without_an_image_is_refused(tmp_path: Path) -> None:
    fits.HDUList([fits.PrimaryHDU()]).writeto(tmp_path / "f.fits")
    with pytest.raises(UnsuitableFrameError, match="not the size"):
        load(tmp_path / "f.fits")


def test_unknown_detectors_and_amplifiers_are_refused(tmp_path: Path) -> None:
    fits.writeto(tmp_path / "f.fits", counts((ROWS, COLUMNS)))
    with pytest.raises(InvalidCameraError, match="Sensor"):
        load_frame(tmp_path / "f.fits", CAMERA, "R00_S01")
    with pytest.raises(InvalidCameraError, match="Amplifier"):
        load(tmp_path / "f.fits", amplifier="9")


# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
def test_every_kind_of_pixel_is_read(tmp_path: Path, dtype: str) -> None:
    limit = {"u1": 256, "i2": 1 << 15, "u2": 1 << 16}.get(dtype, 1 << 18)
    cube = counts((4, ROWS, COLUMNS), limit=limit)
    cube[0, 0, :2] = 0, limit - 1
    fits.writeto(tmp_path / "f.fits", cube.astype(dtype))
    frame = load(tmp_path / "f.fits")
    np.testing.assert_array_equal(frame.planes, cube)
    assert frame.rounding_adu == 0.0


@pytest.mark.parametrize(
    ("dtype", "method"),
    [(dtype, method) for dtype in ("i2", "u2", "i4") for method in ("RICE_1", "GZIP_1", "GZIP_2")]
    + [("f4", "GZIP_1"), ("f4", "GZIP_2")],
)
def test_compressed_frames_of_astropy_are_read(tmp_path: Path, dtype: str, method: str) -> None:
    cube = counts((4, ROWS, COLUMNS))
    hdus = [fits.PrimaryHDU()]
    hdus += [
        fits.CompImageHDU(plane.astype(dtype), compression_type=method, quantize_level=0)
        for plane in cube
    ]  # fmt: skip
    fits.HDUList(hdus).writeto(tmp_path / "f.fits.fz", checksum=True)
    np.testing.assert_array_equal(load(tmp_path / "f.fits.fz").planes, cube)


@pytest.mark.parametrize("method", ["rice", "gzip"])
def test_compressed_frames_of_cfitsio_are_read(tmp_path: Path, method: str) -> None:
    cube = counts((4, ROWS, COLUMNS), limit=1 << 18)
    with fitsio.FITS(str(tmp_path / "f.fits"), "rw") as file:
        for plane in cube:
            file.write(plane, compress=method)
            file[-1].write_checksum()
    np.testing.assert_array_equal(load(tmp_path / "f.fits").planes, cube)


def test_quantised_float_frames_are_rounded_and_the_change_is_told(tmp_path: Path) -> None:
    values = (1000 + 20 * np.random.default_rng(3).normal(size=(ROWS, COLUMNS))).astype("f4")
    hdu = fits.CompImageHDU(values, compression_type="RICE_1", quantize_level=4)
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(tmp_path / "f.fits.fz")
    frame = load(tmp_path / "f.fits.fz")
    with fits.open(tmp_path / "f.fits.fz") as hdus:
        stored = np.asarray(hdus[1].data, dtype=np.float64)
    np.testing.assert_array_equal(frame.planes[0], np.rint(stored))
    assert frame.rounding_adu == np.abs(stored - np.rint(stored)).max() > 0.1


def test_a_gzipped_file_is_undone(tmp_path: Path) -> None:
    fits.writeto(tmp_path / "f.fits", counts((ROWS, COLUMNS)))
    (tmp_path / "g.fits.gz").write_bytes(gzip.compress((tmp_path / "f.fits").read_bytes()))
    np.testing.assert_array_equal(
        load(tmp_path / "g.fits.gz").planes, load(tmp_path / "f.fits").planes
    )


def test_scaled_integers_are_scaled(tmp_path: Path) -> None:
    stored = counts((ROWS, COLUMNS), limit=100).astype("i2")
    with fitsio.FITS(str(tmp_path / "f.fits"), "rw") as file:
        file.write(stored)
        file[0].write_key("BSCALE", 2.5)
        file[0].write_key("BZERO", 7.0)
    frame = load(tmp_path / "f.fits")
    np.testing.assert_array_equal(frame.planes[0], np.rint(stored * 2.5 + 7))
    assert frame.rounding_adu == 0.5


@pytest.mark.parametrize(
    ("dtype", "values"),
    [("i4", (-1, 5)), ("i4", (0, 1 << 16)), ("f4", (-0.6, 5)), ("f8", (0, 65535.6)),
     ("i8", (0, 1 << 62)), ("i8", (-(1 << 63), 0)), ("u8", (0, (1 << 64) - 1))],
)  # fmt: skip
def test_values_beyond_the_daq_word_are_refused(
    tmp_path: Path, dtype: str, values: tuple[float, float]
) -> None:
    plane = np.full((ROWS, COLUMNS), values[0], dtype=dtype)
    plane[0, 0] = values[1]
    fits.writeto(tmp_path / "f.fits", plane)
    with pytest.raises(UnsuitableFrameError, match="do not fit the DAQ word"):
        load(tmp_path / "f.fits", small_camera(word_bits=16))


def test_values_at_both_ends_of_the_daq_word_are_taken(tmp_path: Path) -> None:
    plane = np.full((ROWS, COLUMNS), -0.4, dtype="f4")
    plane[0, 0] = 65535.4
    fits.writeto(tmp_path / "f.fits", plane)
    frame = load(tmp_path / "f.fits", small_camera(word_bits=16))
    assert (frame.planes.min(), frame.planes.max()) == (0, 65535)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_undefined_pixels_are_refused(tmp_path: Path, value: float) -> None:
    plane = np.ones((ROWS, COLUMNS), dtype="f4")
    plane[2, 3] = value
    fits.writeto(tmp_path / "f.fits", plane)
    with pytest.raises(UnsuitableFrameError, match="undefined pixels"):
        load(tmp_path / "f.fits")


def test_blank_pixels_are_refused(tmp_path: Path) -> None:
    plane = counts((ROWS, COLUMNS)).astype("i4")
    plane[1, 1] = 77777
    fits.writeto(tmp_path / "f.fits", plane, fits.Header({"BLANK": 77777}))
    with pytest.raises(UnsuitableFrameError, match="undefined pixels"):
        load(tmp_path / "f.fits")


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_counts_come_through(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    dtype = data.draw(st.sampled_from(["i2", "u2", "i4", "i8", "f4", "f8"]))
    amplifiers = data.draw(st.integers(1, 4)) if data.draw(st.booleans()) else 4
    camera = small_camera(amplifiers=amplifiers if amplifiers in {1, 2, 4} else 4)
    number = len(camera.detectors[0].type.amplifiers)
    cube = counts((number, ROWS, COLUMNS), data.draw(st.integers(0, 99)))
    path = tmp_path_factory.mktemp("any") / "f.fits"
    fits.writeto(path, cube.astype(dtype))
    np.testing.assert_array_equal(load(path, camera).planes, cube)


# --- damage ---------------------------------------------------------------------------------------


@pytest.fixture(params=["plain", "compressed", "gzipped"])
def sound(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    camera_cube = counts((4, ROWS, COLUMNS), limit=1 << 18)
    path = tmp_path / "sound.fits"
    if request.param == "compressed":
        hdus = [fits.PrimaryHDU(), *(fits.CompImageHDU(plane) for plane in camera_cube)]
        fits.HDUList(hdus).writeto(path, checksum=True)
    else:
        fits.writeto(path, camera_cube, checksum=True)
    if request.param == "gzipped":
        packed = tmp_path / "sound.fits.gz"
        packed.write_bytes(gzip.compress(path.read_bytes()))
        return packed
    return path


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9])
def test_a_truncated_frame_is_refused_by_name(sound: Path, part: float) -> None:
    load(sound)
    data = sound.read_bytes()
    sound.write_bytes(data[: int(len(data) * part)])
    with pytest.raises((UnreadableFrameError, UnsuitableFrameError)) as caught:
        load(sound)
    assert caught.value.context["file"] == str(sound)


def test_a_frame_cut_inside_its_pixels_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "f.fits"
    fits.writeto(path, counts((4, ROWS, COLUMNS)))
    path.write_bytes(path.read_bytes()[: 2880 + 500])
    with pytest.raises(UnreadableFrameError):
        load(path)


def test_a_changed_pixel_byte_is_refused(sound: Path) -> None:
    packed = sound.suffix == ".gz"
    data = bytearray(gzip.decompress(sound.read_bytes()) if packed else sound.read_bytes())
    with fits.open(bytes_file(bytes(data)), disable_image_compression=True) as hdus:
        place = hdus[-1].fileinfo()["datLoc"] + 3
    data[place] ^= 0x40
    sound.write_bytes(gzip.compress(bytes(data)) if packed else bytes(data))
    with pytest.raises(UnreadableFrameError, match="contradict their checksum"):
        load(sound)


def test_damaged_gzip_is_refused(tmp_path: Path) -> None:
    fits.writeto(tmp_path / "f.fits", counts((ROWS, COLUMNS)))
    packed = gzip.compress((tmp_path / "f.fits").read_bytes(), mtime=0)
    path = tmp_path / "g.fits.gz"
    damages = [bytes(packed[: len(packed) // 2] + b"\xff" + packed[len(packed) // 2 + 1 :])]
    damages.append(bytes(packed[:-8]) + bytes(8))
    damages.append(bytes(packed[:12]) + b"\xff" * 8 + bytes(packed[20:]))
    problems = []
    for damage in damages:
        path.write_bytes(damage)
        with pytest.raises(UnreadableFrameError) as caught:
            load(path)
        problems.append(str(caught.value.context["problem"]).partition(":")[0])
    assert "BadGzipFile" in problems
    assert "error" in problems


def bytes_file(data: bytes) -> Any:
    return io.BytesIO(data)


def test_a_header_changed_after_its_checksum_is_told_but_read(tmp_path: Path) -> None:
    path = tmp_path / "f.fits"
    fits.writeto(path, counts((4, ROWS, COLUMNS)), fits.Header({"OBJECT": "M1"}), checksum=True)
    path.write_bytes(path.read_bytes().replace(b"'M1 ", b"'M2 "))
    frame = load(path)
    assert frame.subject.target == "M2"
    assert any("Checksum" in text for text in frame.problems)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_damage_escapes_as_another_error(
    tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    path = tmp_path_factory.mktemp("damage") / "f.fits"
    if data.draw(st.booleans()):
        fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(counts((ROWS, COLUMNS)))]).writeto(path)
    else:
        fits.writeto(path, counts((4, ROWS, COLUMNS)))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content[: data.draw(st.integers(1, len(content)))]))
    with contextlib.suppress(UnreadableFrameError, UnsuitableFrameError):
        assert load(path).planes.shape == (4, ROWS, COLUMNS)


@pytest.mark.parametrize("content", [b"", b"no FITS file at all" * 400, b"SIMPLE  =  "])
def test_what_is_no_fits_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "f.fits").write_bytes(content)
    with pytest.raises(UnreadableFrameError) as caught:
        load(tmp_path / "f.fits")
    assert caught.value.context["problem"]


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFrameError, match="FileNotFoundError"):
        load(tmp_path / "none.fits")


# --- headers --------------------------------------------------------------------------------------


def lco_header() -> fits.Header:
    return fits.Header(
        {
            "OBSTYPE": "EXPOSE",
            "OBJECT": "S82_01",
            "PROPID": "standard",
            "PROGRAM": "N/A",
            "FILTER": "rp",
            "EXPTIME": 60.0,
            "DATE-OBS": "2015-12-16T18:26:14.591",
            "TIMESYS": "UTC",
            "RA": "00:42:14.400",
            "DEC": "-00:21:24.42",
            "OBSID": "I300",
            "GROUPID": "LCOGT",
            "AIRMASS": 1.2153215,
            "GAIN": "[3.3,3.4,3.3,3.4]",
        }
    )


def test_the_subject_is_read_from_the_header() -> None:
    subject, problems = subject_of([lco_header()], CAMERA)
    assert problems == []
    assert (subject.image_type, subject.target, subject.program, subject.filter) == (
        "OBJECT", "S82_01", "standard", "rp",
    )  # fmt: skip
    assert subject.exposure_s == 60.0
    assert subject.ra_deg == pytest.approx(15 * (42 / 60 + 14.4 / 3600))
    assert subject.dec_deg == pytest.approx(-(21 / 60 + 24.42 / 3600))
    assert subject.begin_tai is not None
    expected = Time("2015-12-16T18:26:14.591", scale="utc").tai.isot
    assert isot(subject.begin_tai) == expected == "2015-12-16T18:26:50.591"


@pytest.mark.parametrize(
    ("change", "begin"),
    [
        ({"TIMESYS": "TAI"}, "2015-12-16T18:26:14.591"),
        ({"TIMESYS": "TAI", "DATE-BEG": "2020-01-01T00:00:00"}, "2020-01-01T00:00:00.000"),
        ({"DATE-OBS": "2015-12-16", "UTSTART": "18:26:14.591"}, "2015-12-16T18:26:50.591"),
        ({"DATE-OBS": "2015-12-16"}, "2015-12-16T00:00:36.000"),
        ({"DATE-OBS": "UNKNOWN", "MJD-OBS": 57372.5}, "2015-12-16T12:00:36.000"),
        ({"DATE-OBS": "2016-12-31T23:59:59.5Z"}, "2017-01-01T00:00:35.500"),
        ({"DATE-OBS": "yesterday"}, None),
    ],
)
def test_begin_times_are_tai(change: dict[str, Any], begin: str | None) -> None:
    header = lco_header()
    header.update(change)
    subject, problems = subject_of([header], CAMERA)
    found = subject.begin_tai
    assert (None if found is None else isot(found)) == begin
    assert bool(problems) == (begin is None)


@pytest.mark.parametrize(
    ("ra", "dec", "position"),
    [
        ("03:58:33.134", "-22:02:29.93", (59.63805833, -22.04164722)),
        ("3 58 33.134", "+22 02 29.93", (59.63805833, 22.04164722)),
        (127.5, -44.2, (127.5, -44.2)),
        ("127.5", "-44.2", (127.5, -44.2)),
        ("00:00:00", "-00:30:00", (0.0, -0.5)),
        ("24:00:00", "00:00:00", None),
        ("03:60:00", "00:00:00", None),
        ("north", "up", None),
        (10.0, 91.0, None),
    ],
)
def test_positions_are_degrees(
    ra: object, dec: object, position: tuple[float, float] | None
) -> None:
    header = lco_header()
    header["RA"], header["DEC"] = ra, dec
    subject, problems = subject_of([header], CAMERA)
    if position is None:
        assert (subject.ra_deg, subject.dec_deg) == (None, None)
        assert problems
    else:
        assert (subject.ra_deg, subject.dec_deg) == pytest.approx(position)


@pytest.mark.parametrize(
    ("word", "image_type"),
    [("EXPOSE", "OBJECT"), ("bias", "BIAS"), ("SKYFLAT", "FLAT"), ("EXPERIMENTAL", "ENGTEST"),
     ("SPECTRUM OF A COMET", "SPECTRUM OF A CO"), ("N/A", "OBJECT")],
)  # fmt: skip
def test_observation_types_become_image_types(word: str, image_type: str) -> None:
    header = lco_header()
    header["OBSTYPE"] = word
    assert subject_of([header], CAMERA)[0].image_type == image_type


def test_filters_are_those_of_the_camera() -> None:
    header = lco_header()
    header["FILTER"], header["GRATING"] = "SDSSr", "empty"
    assert subject_of([header], CAMERA)[0].filter == "SDSSr~empty"
    header["FILTER"] = "V"
    subject, problems = subject_of([header], CAMERA)
    assert (subject.filter, problems) == ("unknown", ["filter V is not in the camera"])


def test_a_header_that_says_nothing_gives_a_subject_of_nothing() -> None:
    subject, problems = subject_of([fits.Header()], CAMERA)
    assert (subject.image_type, subject.target, subject.exposure_s) == ("OBJECT", "", 0.0)
    assert (subject.begin_tai, subject.ra_deg, subject.dec_deg) == (None, None, None)
    assert problems == []


def test_facts_keep_every_value_and_never_speak_for_our_exposure() -> None:
    header = lco_header()
    header["HIERARCH CAMERA TEMP NOW"] = -100.5
    header["EMPTY"] = None
    header.add_comment("left out")
    facts, problems = facts_of([header])
    assert problems == []
    assert facts["AIRMASS"] == 1.2153215
    assert facts["HIERARCH CAMERA TEMP NOW"] == -100.5
    assert facts["EMPTY"] is None
    assert facts["HIERARCH FRAME OBSID"] == "I300"
    assert facts["HIERARCH FRAME RA"] == "00:42:14.400"
    assert facts["HIERARCH FRAME DATE-OBS"] == "2015-12-16T18:26:14.591"
    assert not {"OBSID", "GROUPID", "RA", "DEC", "DATE-OBS", "TIMESYS", "COMMENT"} & set(facts)


def test_later_headers_win() -> None:
    first, second = lco_header(), fits.Header({"AIRMASS": 2.0})
    assert facts_of([first, second])[0]["AIRMASS"] == 2.0


def test_a_card_that_is_not_legal_is_told_and_left_out(tmp_path: Path) -> None:
    path = tmp_path / "f.fits"
    fits.writeto(path, counts((ROWS, COLUMNS)), fits.Header({"OBJECT": "M1", "BAD": 1.5}))
    path.write_bytes(
        path.read_bytes().replace(
            b"BAD     =                  1.5", b"BAD     =                 1,5?"
        )
    )
    frame = load(path)
    assert "BAD" not in frame.facts
    assert any("not legal" in text for text in frame.problems)
    assert frame.subject.target == "M1"


def test_facts_have_a_place_in_our_files() -> None:
    for keyword, value in facts_of([lco_header()])[0].items():
        card = free_card(keyword, value)
        assert card is not None
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            again = fits.Card.fromstring(fits.Card(card.keyword, card.value, card.comment).image)
            assert again.value == card.value


# --- real frames, and the DAQ ---------------------------------------------------------------------


def real(name: str) -> Path:
    path = FRAMES / name
    if not path.exists():
        pytest.skip("the real frames are not here")
    return path


def sinistro(name: str = "sinistro") -> Camera:
    return load_camera(str(Path(__file__).parents[2] / "config" / "cameras" / f"{name}.yaml"))


@pytest.mark.parametrize(
    ("name", "camera", "image_type", "begin", "median"),
    [
        ("coj1m011-fl08-20151216-0048-x00.fits.fz", "sinistro", "ENGTEST",
         "2015-12-16T11:48:39.307", 832),
        ("cpt1m012-fl10-20151216-0075-s00.fits.fz", "sinistro", "OBJECT",
         "2015-12-16T18:26:14.591", 3182),
        ("cpt1m012-fl10-20151216-0073-e00.fits.fz", "sinistro-2x2", "OBJECT",
         "2015-12-16T18:20:48.907", 5286),
    ],
)  # fmt: skip
def test_real_frames_are_one_amplifier_of_a_sinistro_camera(
    name: str, camera: str, image_type: str, begin: str, median: int
) -> None:
    path = real(name)
    frame = load_frame(path, sinistro(camera), SENSOR)
    stored = np.asarray(fitsio.read(str(path), ext=1), dtype=np.float64).squeeze()
    np.testing.assert_array_equal(frame.planes[0], np.rint(stored))
    assert not frame.planes[1:].any()
    assert frame.amplifiers == ("1",)
    assert 0.4 < frame.rounding_adu <= 0.5
    kind = frame.registers
    data = frame.planes[0, :, : kind.read_cols]
    overscan = frame.planes[0, :, kind.read_cols :]
    assert np.median(data) == pytest.approx(median, abs=2)
    assert np.std(np.median(overscan, axis=0)) < 0.5 < np.median(data) - np.median(overscan)
    assert frame.subject.image_type == image_type
    assert frame.subject.begin_tai is not None
    assert isot(frame.subject.begin_tai) == Time(begin, scale="utc").tai.isot
    assert frame.subject.filter in {"rp", "I", "ip"}
    assert frame.facts["HIERARCH FRAME RA"] == fitsio.read_header(str(path), ext=1)["RA"]
    assert frame.problems == ()


def test_a_binned_frame_is_refused_by_the_unbinned_camera() -> None:
    path = real("cpt1m012-fl10-20151216-0073-e00.fits.fz")
    with pytest.raises(UnsuitableFrameError) as caught:
        load_frame(path, sinistro(), SENSOR)
    assert caught.value.context["binning"] == "2 2"


@pytest.mark.parametrize("part", [0.3, 0.9, 0.999])
def test_a_real_frame_that_is_cut_is_refused(tmp_path: Path, part: float) -> None:
    data = real("cpt1m012-fl10-20151216-0073-e00.fits.fz").read_bytes()
    (tmp_path / "cut.fits.fz").write_bytes(data[: int(len(data) * part)])
    with pytest.raises(UnreadableFrameError):
        load_frame(tmp_path / "cut.fits.fz", sinistro("sinistro-2x2"), SENSOR)


def test_a_frame_goes_into_the_daq_and_comes_out_the_same(tmp_path: Path) -> None:
    cube = counts((4, ROWS, COLUMNS))
    fits.writeto(tmp_path / "f.fits", cube, lco_header())
    frame = load(tmp_path / "f.fits")
    daq = SimDaq(camera=CAMERA, start_tai=1.8e9)
    daq.trigger(
        "AT_O_20270115_000001",
        planes={frame.sensor: frame.planes},
        registers=frame.registers,
        facts=frame.facts,
    )
    daq.step(CAMERA.readout_s)
    np.testing.assert_array_equal(daq.planes("AT_O_20270115_000001", SENSOR), cube)
    source = daq.source("AT_O_20270115_000001", CAMERA.board_of(SENSOR).location)
    assert source.description.facts["AIRMASS"] == 1.2153215
