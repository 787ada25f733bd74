"""Geometry cards of each amplifier's HDU.

Two rules. ``lsst`` writes the sections and linear frames that raw files of the Rubin cameras have,
quirks included. ``assembly`` derives the sections from where the amplifier's data go; it suits any
camera. Both add four cards from which a reader can assemble the detector without a camera model.

References
----------
``raw-fits`` contract, sections 2 and 3; frames also compared with Segment10 of one file each of
LSSTCam (2025), ComCam (2024) and LATISS (2024).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from platevault.domain.camera import Amplifier, Camera, Detector, DetectorType, InvalidCameraError
from platevault.domain.headers import Card

#: Names for which the ``lsst`` rule is defined.
LSST_AMPLIFIER_NAMES = tuple(f"{a}{k}" for a in "10" for k in range(8))
#: Distance of slots and of rafts in the linear frames [pixel] (raw-fits contract, sec. 3.3).
SLOT_PITCH = 4225
RAFT_PITCH = 12700
#: From the CCD frame to the raft frame [pixel], by vendor (raw-fits contract, sec. 3.3).
_RAFT_MARGINS = {"ITL": (125.0, 89.0), "E2V": (122.5, 77.0)}
_AMPLIFIERS_PER_ROW = 8
_SLOT = re.compile(r"^S(\d)(\d)$")
_BAY = re.compile(r"^R(\d)(\d)$")


def detector_size(detector: Detector) -> str:
    """Give DETSIZE of a detector: ``[1:4072,1:4000]``.

    By the ``lsst`` rule a wavefront half has the size of the full CCD, as its real files have.
    """
    kind = detector.type
    if kind.frames == "lsst":
        return f"[1:{_AMPLIFIERS_PER_ROW * kind.data_columns},1:{2 * kind.data_rows}]"
    return f"[1:{kind.trimmed_columns},1:{kind.trimmed_rows}]"


def segment_cards(camera: Camera, detector: Detector) -> tuple[tuple[Card, ...], ...]:
    """Give the cards of each amplifier's HDU, in HDU order.

    Structural keywords (XTENSION ... GCOUNT) and checksums are not among them.

    Raises
    ------
    InvalidCameraError
        The frame rule is unknown or does not fit the amplifiers. Mend the camera.
    """
    return tuple(
        _segment(camera, detector, amp, number)
        for number, amp in enumerate(detector.type.amplifiers, start=1)
    )


def _segment(camera: Camera, detector: Detector, amp: Amplifier, number: int) -> tuple[Card, ...]:
    kind = detector.type
    first = kind.prescan + 1
    cards = [
        Card("CHANNEL", number, "Number of the HDU of the amplifier"),
        Card("EXTNAME", f"{camera.extname_prefix}{amp.name}", "Name of the amplifier"),
        Card("CCDSUM", f"{kind.binning} {kind.binning}", "Binning"),
        Card(
            "DATASEC",
            f"[{first}:{kind.prescan + kind.data_columns},1:{kind.data_rows}]",
            "Pixels that saw light",
        ),
    ]
    if kind.frames == "lsst":
        cards += _lsst_sections(detector, amp)
        cards += _lsst_frames(detector, amp)
    elif kind.frames == "assembly":
        cards += _assembly_sections(detector, amp)
    else:
        raise InvalidCameraError(
            "Frame rule is unknown", value=kind.frames, expected="lsst or assembly"
        )
    cards += [
        Card("BSCALE", 1.0, "Scale of the pixel values"),
        Card("BZERO", 0.0, "Zero of the pixel values"),
        Card("INHERIT", True, "Keywords of the primary HDU apply"),
        Card("ASMX0", amp.x0, "[pixel] Left edge in the trimmed detector, from 0"),
        Card("ASMY0", amp.y0, "[pixel] Lower edge in the trimmed detector, from 0"),
        Card("ASMFLIPX", amp.flip_x, "Turn the data along x before placing"),
        Card("ASMFLIPY", amp.flip_y, "Turn the data along y before placing"),
    ]
    return tuple(cards)


def _section_cards(
    section: str, size: str, vector: tuple[int, int], signs: tuple[float, float]
) -> list[Card]:
    return [
        Card("DETSEC", section, "Place of the data in the detector"),
        Card("DETSIZE", size, "Size of the detector"),
        Card("DTV1", vector[0], "Detector transformation vector"),
        Card("DTV2", vector[1], "Detector transformation vector"),
        Card("DTM1_1", signs[0], "Detector transformation matrix"),
        Card("DTM2_2", signs[1], "Detector transformation matrix"),
        Card("DTM1_2", 0.0, "Detector transformation matrix"),
        Card("DTM2_1", 0.0, "Detector transformation matrix"),
    ]


def _assembly_sections(detector: Detector, amp: Amplifier) -> list[Card]:
    kind = detector.type
    left, right = amp.x0 + 1, amp.x0 + kind.data_columns
    low, high = amp.y0 + 1, amp.y0 + kind.data_rows
    x = f"{right}:{left}" if amp.flip_x else f"{left}:{right}"
    y = f"{high}:{low}" if amp.flip_y else f"{low}:{high}"
    return _section_cards(
        f"[{x},{y}]",
        detector_size(detector),
        (
            right + kind.prescan + 1 if amp.flip_x else amp.x0 - kind.prescan,
            high + 1 if amp.flip_y else amp.y0,
        ),
        (-1.0 if amp.flip_x else 1.0, -1.0 if amp.flip_y else 1.0),
    )


def _lsst_row_and_place(kind: DetectorType, amp: Amplifier) -> tuple[bool, int]:
    if amp.name not in LSST_AMPLIFIER_NAMES:
        raise InvalidCameraError(
            "Amplifier name does not suit the frame rule",
            detector_type=kind.name,
            value=amp.name,
            expected="10..17 or 00..07",
        )
    return amp.name[0] == "1", int(amp.name[1])


def _lsst_sections(detector: Detector, amp: Amplifier) -> list[Card]:
    kind = detector.type
    first_row, place = _lsst_row_and_place(kind, amp)
    width, height = kind.data_columns, kind.data_rows
    left, right = width * place, width * (place + 1)
    x = f"{right}:{left + 1}" if amp.flip_x else f"{left + 1}:{right}"
    y = f"1:{height}" if first_row else f"{2 * height}:{height + 1}"
    return _section_cards(
        f"[{x},{y}]",
        detector_size(detector),
        (
            right + kind.prescan + 1 if amp.flip_x else left - kind.prescan,
            0 if first_row else 2 * height + 1,
        ),
        (-1.0 if amp.flip_x else 1.0, 1.0 if first_row else -1.0),
    )


def _lsst_frames(detector: Detector, amp: Amplifier) -> Iterator[Card]:
    """Give the alternate linear frames in the order of the real files.

    The frames of raft and focal plane are left out where the place in the raft is not a grid slot
    (corner rafts) or the vendor's margin is not known: no source has their numbers.
    """
    kind = detector.type
    first_row, place = _lsst_row_and_place(kind, amp)
    width, height = kind.data_columns, kind.data_rows
    serial = float(width + kind.prescan + 1 if amp.flip_x else -kind.prescan)
    parallel_sign = -1.0 if first_row else 1.0
    serial_sign = -1.0 if amp.flip_x else 1.0
    amplifier = (float(height + 1 if first_row else 0), serial)
    ccd = (float(2 * height + 1 if first_row else 0), float(width * place) + serial)
    straight = ((0.0, parallel_sign), (serial_sign, 0.0))
    exchanged = (straight[1], straight[0])
    yield from _frame("A", "AMPLIFIER", ("Seg_X", "Seg_Y"), straight, amplifier)
    yield from _frame("C", "CCD", ("CCD_X", "CCD_Y"), straight, ccd)
    margin = _RAFT_MARGINS.get(kind.vendor)
    slot = _SLOT.match(detector.slot)
    bay = _BAY.match(detector.frame_bay or detector.raft)
    if margin is None or slot is None or bay is None:
        yield from _frame("B", "CCD_SERPAR", ("CCD_S", "CCD_P"), exchanged, (ccd[1], ccd[0]))
        return
    raft = (
        ccd[0] + margin[0] + SLOT_PITCH * int(slot[1]),
        ccd[1] + margin[1] + SLOT_PITCH * int(slot[2]),
    )
    plane = (raft[0] + RAFT_PITCH * int(bay[1]), raft[1] + RAFT_PITCH * int(bay[2]))
    yield from _frame("R", "RAFT", ("RAFT_X", "RAFT_Y"), straight, raft)
    yield from _frame("F", "FOCAL_PLANE", ("FP_X", "FP_Y"), straight, plane)
    yield from _frame("E", "FP_SERPAR", ("FP_S", "FP_P"), exchanged, (plane[1], plane[0]))
    yield from _frame("B", "CCD_SERPAR", ("CCD_S", "CCD_P"), exchanged, (ccd[1], ccd[0]))
    yield from _frame("Q", "RAFT_SERPAR", ("RAFT_S", "RAFT_P"), exchanged, (raft[1], raft[0]))


def _frame(
    letter: str,
    name: str,
    axes: tuple[str, str],
    matrix: tuple[tuple[float, float], tuple[float, float]],
    origin: tuple[float, float],
) -> Iterator[Card]:
    yield Card(f"WCSNAME{letter}", name, "Name of the frame")
    yield Card(f"CTYPE1{letter}", axes[0], "Axis of the frame")
    yield Card(f"CTYPE2{letter}", axes[1], "Axis of the frame")
    for row in (0, 1):
        for column in (0, 1):
            yield Card(
                f"PC{row + 1}_{column + 1}{letter}", matrix[row][column], "Turn of the frame"
            )
    for keyword, value, comment in (
        ("CDELT1", 1.0, "Step of the frame"),
        ("CDELT2", 1.0, "Step of the frame"),
        ("CRPIX1", 0.0, "Reference pixel of the frame"),
        ("CRPIX2", 0.0, "Reference pixel of the frame"),
        ("CRVAL1", origin[0], "[pixel] Frame at the reference pixel"),
        ("CRVAL2", origin[1], "[pixel] Frame at the reference pixel"),
    ):
        yield Card(f"{keyword}{letter}", value, comment)
