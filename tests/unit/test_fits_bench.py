"""Benchmarks leave out noisy samples, judge floors, and make repeatable pixels."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from platevault.adapters.fits.codec import Encoding
from platevault.adapters.fits.peers import verify_file, write_with_astropy, write_with_fitsio
from platevault.adapters.fits.stripes import locate_words, separate
from platevault.compose.bench.frames import CONTENTS, exposure_cards, image_of, make_frames
from platevault.compose.bench.headers import bench_headers
from platevault.compose.bench.measuring import Case, Sample, measure
from platevault.compose.bench.report import Ratio, Report, write
from platevault.compose.bench.writing import WriterBench, emptied
from platevault.compose.cameras import load_camera
from platevault.testing.image_writer_contract import a_detector_type, names_in


def a_case(*samples: tuple[float, float]) -> Case:
    case = Case("case", lambda: None, 100.0)
    case.samples = [Sample(seconds, seconds, others) for seconds, others in samples]
    return case


def test_noisy_samples_do_not_count_when_three_are_quiet() -> None:
    case = a_case((1.0, 0.0), (1.0, 0.1), (1.0, 0.0), (9.0, 0.9))
    assert (case.rate, case.quiet) == (100.0, 3)


def test_all_samples_count_when_fewer_than_three_are_quiet() -> None:
    case = a_case((1.0, 0.0), (1.0, 0.0), (4.0, 0.9), (4.0, 0.9), (4.0, 0.9))
    assert (case.rate, case.quiet) == (25.0, 2)


def test_cases_alternate_and_the_first_round_is_not_measured() -> None:
    order: list[str] = []
    cases = [
        Case(name, lambda name=name: order.append(name), 1.0, lambda: order.append("tidy"))  # type: ignore[misc]
        for name in ("a", "b")
    ]
    measure(cases, repeats=2, progress=lambda _: None)
    assert order == ["a", "tidy", "b", "tidy"] * 3
    assert [len(case.samples) for case in cases] == [2, 2]


def test_a_sample_knows_its_own_processor_time() -> None:
    def spin() -> None:
        end = time.process_time() + 0.2
        while time.process_time() < end:
            pass

    case = Case("spin", spin, 1.0)
    measure([case], repeats=1, progress=lambda _: None)
    assert case.samples[0].core_seconds == pytest.approx(0.2, abs=0.06)


@pytest.mark.parametrize(("value", "verdict"), [(10.0, "reached"), (9.99, "MISSED")])
def test_a_ratio_is_judged_by_its_floor(value: float, verdict: str) -> None:
    assert Ratio("x", value, 10).verdict == verdict
    assert Ratio("x", value).verdict == ""


@pytest.mark.parametrize(("value", "verdict"), [(10.0, "reached"), (10.01, "MISSED")])
def test_a_ratio_is_judged_by_its_ceiling(value: float, verdict: str) -> None:
    ratio = Ratio("x", value, ceiling=10)
    assert (ratio.limit, ratio.verdict) == ("at most 10", verdict)


def test_a_report_is_written_as_page_and_json(tmp_path: Path) -> None:
    case = a_case((1.0, 0.0))
    ratios = [Ratio("a / b", 12.0, 10), Ratio("c, ms", 1.5, ceiling=2), Ratio("d", 3.0)]
    report = Report("Title", "Intro.", ratios, [case], case, ["Note."])
    write(report, "pixels", tmp_path, {"processor": "x|y"})
    page = (tmp_path / "pixels.md").read_text()
    assert "| a / b | 12 | 10 | reached |" in page
    assert "| c, ms | 1.5 | at most 2 | reached |" in page
    assert "| d | 3 |  |  |" in page
    assert "| processor | x/y |" in page
    found = json.loads((tmp_path / "pixels.json").read_text())
    assert found["ratios"] == [
        {"name": "a / b", "value": 12.0, "floor": 10, "ceiling": None},
        {"name": "c, ms", "value": 1.5, "floor": None, "ceiling": 2},
        {"name": "d", "value": 3.0, "floor": None, "ceiling": None},
    ]


@pytest.mark.parametrize("content", list(CONTENTS))
def test_pixels_repeat_and_are_delivered_as_made(content: str) -> None:
    kind = a_detector_type(columns=(3, 60, 8), rows=(50, 6))
    frames = make_frames(content, kind, boards=1)
    again = make_frames(content, kind, boards=1)
    np.testing.assert_array_equal(frames.boards[0].data, again.boards[0].data)
    image = image_of(frames, 1, kind, ([], [[] for _ in kind.amplifiers]))
    order = [amplifier.channel for amplifier in kind.amplifiers]
    np.testing.assert_array_equal(separate(locate_words(image)), frames.planes[0][1][order])


def test_peers_and_this_path_write_the_same_pixels(tmp_path: Path) -> None:
    camera = load_camera("lsstcam")
    kind = a_detector_type(tuple(range(16)), columns=(3, 60, 8), rows=(50, 6))
    frames = make_frames("sky", kind, boards=1)
    image = image_of(frames, 0, kind, exposure_cards(camera)[0])
    planes = separate(locate_words(image))
    for number, peer in enumerate((write_with_fitsio, write_with_astropy)):
        for compressed in (True, False):
            peer(image, tmp_path / f"{number}.fits", compressed=compressed)
            verify_file(tmp_path / f"{number}.fits", planes)
    writers = WriterBench()
    try:
        writer = writers.writer(workers=1, encoding=Encoding(tile_rows=64))
        writers.write(writer, [(image, tmp_path / "own.fits")], workers=1)
    finally:
        writers.close()
    verify_file(tmp_path / "own.fits", planes)


def test_a_scratch_directory_is_emptied_and_removed(tmp_path: Path) -> None:
    with emptied(tmp_path / "scratch") as empty:
        (tmp_path / "scratch" / "a").write_bytes(b"one")
        empty()
        assert names_in(tmp_path / "scratch") == []
    assert names_in(tmp_path) == []


@pytest.mark.slow
def test_headers_can_be_measured() -> None:
    report = bench_headers(repeats=1, progress=lambda _: None)
    assert [ratio.floor for ratio in report.ratios] == [1, 1, None]
    assert report.notes[0].startswith("3421 HDUs")
