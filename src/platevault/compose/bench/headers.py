"""Headers of a whole exposure: this path against astropy."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from statistics import median

from astropy.io import fits

from platevault.adapters.fits.codec import Encoding, SegmentData
from platevault.adapters.fits.headers import CardFormatter, primary_header, segment_header
from platevault.compose.bench.frames import exposure_cards
from platevault.compose.bench.report import Ratio, Report
from platevault.compose.cameras import load_camera
from platevault.domain.camera import Camera
from platevault.domain.headers import Card

#: Files that astropy formats; it would take too long over all of them.
_ASTROPY_FILES = 5
_INTRO = (
    "Text, structure, both checksums of every HDU and those of the unpacked image, for the 205 "
    "files of an LSSTCam exposure. *First* begins with empty templates; *next* has those of "
    "another exposure. Cards are new objects each time, as they come from a header service."
)


def bench_headers(*, repeats: int, progress: Callable[[str], None]) -> Report:
    """Measure processor time of headers [core-s per exposure]."""
    camera = load_camera("lsstcam")
    first: list[float] = []
    following: list[float] = []
    astropy: list[float] = []
    hdus = cards = 0
    for number in range(repeats):
        progress(f"round {number + 1} of {repeats}")
        formatter = CardFormatter()
        for seconds in (first, following):
            lists = exposure_cards(camera)
            start = time.process_time()
            hdus, cards = _format_all(camera, formatter, lists)
            seconds.append(time.process_time() - start)
        lists = exposure_cards(camera)[:_ASTROPY_FILES]
        start = time.process_time()
        _format_with_astropy(lists)
        seconds_of_all = (time.process_time() - start) * len(camera.detectors) / _ASTROPY_FILES
        astropy.append(seconds_of_all)
    rows = [
        ("what", "core-s per exposure, median", "min", "max", "us per HDU"),
        *(
            (
                name,
                f"{median(found):.3f}",
                f"{min(found):.3f}",
                f"{max(found):.3f}",
                f"{median(found) / hdus * 1e6:.1f}",
            )
            for name, found in (
                ("this path, first exposure", first),
                ("this path, next exposure", following),
                ("astropy Header and checksums of text, by Card objects", astropy),
            )
        ),
    ]
    return Report(
        "Headers of an exposure",
        _INTRO,
        ratios=[
            Ratio("0.3 core-s / first exposure", 0.3 / median(first), 1),
            Ratio("0.3 core-s / next exposure", 0.3 / median(following), 1),
            Ratio("astropy / next exposure", median(astropy) / median(following)),
        ],
        notes=[
            f"{hdus} HDUs with {cards} cards, of which the writer adds structure and checksums.",
            f"astropy formatted {_ASTROPY_FILES} files; its figure is scaled to all of them.",
        ],
        facts={"tables": {"Processor time": rows}},
    )


def _format_all(
    camera: Camera, formatter: CardFormatter, lists: list[tuple[list[Card], list[list[Card]]]]
) -> tuple[int, int]:
    unit = SegmentData(memoryview(b""), 1_077_123, 561, 3_720_814_502, 123_456_789)
    encoding = Encoding()
    hdus = cards = 0
    for detector, (primary, segments) in zip(camera.detectors, lists, strict=True):
        kind = detector.type
        header, _ = primary_header(formatter.format(primary, detector_type=kind.name, hdu=0))
        hdus += 1
        cards += len(header.data) // 80
        for hdu, segment in enumerate(segments, start=1):
            header = segment_header(
                formatter.format(segment, detector_type=kind.name, hdu=hdu),
                unit,
                columns=kind.columns,
                rows=kind.rows,
                encoding=encoding,
            )
            hdus += 1
            cards += len(header.data) // 80
    return hdus, cards


def _format_with_astropy(lists: list[tuple[list[Card], list[list[Card]]]]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _format_each(lists)


def _format_each(lists: list[tuple[list[Card], list[list[Card]]]]) -> None:
    for primary, segments in lists:
        for hdu in (primary, *segments):
            header = fits.Header(
                [fits.Card(card.keyword, card.value, card.comment) for card in hdu if card.keyword]
            )
            header.tostring().encode("ascii")
