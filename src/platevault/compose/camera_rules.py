"""What a camera document means, and what it must not contradict.

References
----------
Names, sizes and limits: ``raw-fits`` contract, sections 3, 4, 6, 7 and 14. Boards and channels:
capture contract, section 5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from math import cos, radians, sin
from typing import TypeVar

from platevault.compose.camera_documents import (
    CameraDocument,
    DetectorTypeDocument,
    FilterCombinationsDocument,
    RaftDocument,
    RaftLayoutDocument,
)
from platevault.domain.camera import (
    Amplifier,
    Board,
    Camera,
    Components,
    Detector,
    DetectorType,
    Filter,
    InvalidCameraError,
    SensorPurpose,
)
from platevault.domain.segments import LSST_AMPLIFIER_NAMES

#: The Butler's limit on a physical filter [character] (raw-fits contract, sec. 6).
FILTER_NAME_LIMIT = 32

_Key = TypeVar("_Key")


class ContradictionError(InvalidCameraError):
    """A field of a document contradicts another one; the reader of the file adds its name."""

    def __init__(self, message: str, field: str, value: object, expected: str) -> None:
        super().__init__(message, field=field, value=value, expected=expected)


def _refuse_repeats(
    items: Iterable[_Key], field: Callable[[int], str], what: str = "a value that stands once"
) -> None:
    seen: set[_Key] = set()
    for index, item in enumerate(items):
        if item in seen:
            raise ContradictionError("Camera names something twice", field(index), item, what)
        seen.add(item)


def camera_of(document: CameraDocument) -> Camera:
    """Make the camera that a document describes.

    Raises
    ------
    ContradictionError
        Fields do not fit each other; the context has field, value and what was expected. Mend
        the document.
    """
    types = {
        name: _detector_type(name, given, document.word_bits)
        for name, given in document.detector_types.items()
    }
    _refuse_repeats(
        (raft.name for raft in document.rafts), lambda i: f"rafts[{i}].name", "unique raft names"
    )
    detectors: list[Detector] = []
    boards: list[Board] = []
    for index, raft in enumerate(document.rafts):
        layout = document.raft_layouts.get(raft.layout)
        if layout is None:
            raise ContradictionError(
                "Raft has an unknown layout",
                f"rafts[{index}].layout",
                raft.layout,
                f"one of {sorted(document.raft_layouts)}",
            )
        detectors += _raft_detectors(f"rafts[{index}]", raft, layout, types)
        boards += _raft_boards(f"rafts[{index}]", raft, layout)
    detectors.sort(key=lambda detector: detector.id)
    _check_ids(detectors, document.limits.detector_max)
    _refuse_repeats((board.location for board in boards), lambda _: "rafts", "unique DAQ locations")
    _refuse_repeats((board.name for board in boards), lambda _: "rafts", "unique board names")
    filters = _filters(document)
    names = document.obs_lsst
    return Camera(
        name=document.name,
        code=document.code,
        keyword_set=document.keyword_set,
        header_name=document.header_name,
        telescope_name=document.telescope_name,
        components=Components(**document.components.model_dump()),
        detectors=tuple(detectors),
        boards=tuple(sorted(boards, key=lambda board: board.location)),
        filters=filters,
        extname_prefix=document.extname_prefix,
        partition=document.partition,
        platform=document.platform,
        plate_scale_arcsec_per_mm=float(document.plate_scale_arcsec_per_mm),
        exposure_max=document.limits.exposure_max,
        detector_max=document.limits.detector_max,
        site=document.site.name,
        longitude_deg=float(document.site.longitude_deg),
        latitude_deg=float(document.site.latitude_deg),
        elevation_m=float(document.site.elevation_m),
        obs_class=names.instrument_class if names else "",
        obs_formatter=names.formatter if names else "",
        constants=dict(document.constants),
        word_bits=document.word_bits,
        readout_s=float(document.readout_s),
    )


def _check_ids(detectors: Sequence[Detector], detector_max: int) -> None:
    for before, after in pairwise(detectors):
        if before.id == after.id:
            raise ContradictionError(
                "Two detectors have one id",
                "rafts",
                after.id,
                f"unique ids; {before.name} and {after.name} share it",
            )
    if detectors[-1].id >= detector_max:
        raise ContradictionError(
            "Detector id is above the limit", "rafts", detectors[-1].id, f"below {detector_max}"
        )


# --- detector types -----------------------------------------------------------------------------


def _amplifiers(field: str, given: DetectorTypeDocument) -> tuple[Amplifier, ...]:
    if bool(given.amplifiers) == bool(given.amplifier_runs):
        raise ContradictionError(
            "Amplifiers are given twice or not at all",
            field,
            None,
            "either amplifiers or amplifier_runs",
        )
    amplifiers = [Amplifier(**one.model_dump()) for one in given.amplifiers]
    for index, run in enumerate(given.amplifier_runs):
        if len(run.names) != len(run.channels):
            raise ContradictionError(
                "Amplifier run has not a channel for each name",
                f"{field}.amplifier_runs[{index}].channels",
                run.channels,
                f"{len(run.names)} channels",
            )
        amplifiers += [
            Amplifier(
                name=name,
                channel=channel,
                x0=run.x0 + place * run.x_step,
                y0=run.y0 + place * run.y_step,
                flip_x=run.flip_x,
                flip_y=run.flip_y,
            )
            for place, (name, channel) in enumerate(zip(run.names, run.channels, strict=True))
        ]
    return tuple(amplifiers)


def _detector_type(name: str, given: DetectorTypeDocument, word_bits: int) -> DetectorType:
    field = f"detector_types.{name}"
    amplifiers = _amplifiers(field, given)
    made = DetectorType(
        name=name,
        vendor=given.vendor,
        model=given.model,
        data_columns=given.data_columns,
        data_rows=given.data_rows,
        prescan=given.prescan,
        serial_overscan=given.serial_overscan,
        parallel_overscan=given.parallel_overscan,
        amplifiers=amplifiers,
        xor_mask=given.xor_mask,
        pixel_um=float(given.pixel_um),
        frames=given.frames,
        saturation_adu=given.saturation_adu,
        gain_e_per_adu=float(given.gain_e_per_adu),
        bias_adu=float(given.bias_adu),
        read_noise_adu=float(given.read_noise_adu),
        binning=given.binning,
    )
    for key, value in (("xor_mask", given.xor_mask), ("saturation_adu", given.saturation_adu)):
        if value >= 1 << word_bits:
            raise ContradictionError(
                "Value does not fit the DAQ word",
                f"{field}.{key}",
                hex(value),
                f"at most {word_bits} bits (word_bits)",
            )
    names = [amp.name for amp in amplifiers]
    _refuse_repeats(names, lambda i: f"{field}.amplifiers[{i}].name", "unique amplifier names")
    channels = [amp.channel for amp in amplifiers]
    if sorted(channels) != list(range(len(channels))):
        raise ContradictionError(
            "Channels are not a permutation",
            f"{field}.channels",
            channels,
            f"each of 0 to {len(channels) - 1} once",
        )
    if given.frames == "lsst" and not set(names) <= set(LSST_AMPLIFIER_NAMES):
        raise ContradictionError(
            "Amplifier names do not suit the frame rule",
            f"{field}.frames",
            names,
            "two digits 00..07, 10..17 for lsst; use assembly otherwise",
        )
    _check_geometry(field, made)
    return made


def _check_geometry(field: str, made: DetectorType) -> None:
    for index, amp in enumerate(made.amplifiers):
        where = f"{field}.amplifiers[{index}]"
        if amp.x0 < 0 or amp.y0 < 0:
            raise ContradictionError(
                "Amplifier is outside the detector", where, (amp.x0, amp.y0), "x0, y0 from 0"
            )
        for other in made.amplifiers[:index]:
            if (
                abs(amp.x0 - other.x0) < made.data_columns
                and abs(amp.y0 - other.y0) < made.data_rows
            ):
                raise ContradictionError(
                    "Amplifiers overlap", where, amp.name, f"places clear of {other.name}"
                )
    area = len(made.amplifiers) * made.data_columns * made.data_rows
    if area != made.trimmed_columns * made.trimmed_rows:
        raise ContradictionError(
            "Amplifiers leave gaps in the detector",
            f"{field}.amplifiers",
            f"{area} pixels",
            f"{made.trimmed_columns} x {made.trimmed_rows} pixels covered from (0, 0)",
        )


# --- rafts ----------------------------------------------------------------------------------------


def _turned(x: float, y: float, angle_deg: float) -> tuple[float, float]:
    cosine, sine = round(cos(radians(angle_deg))), round(sin(radians(angle_deg)))
    return x * cosine - y * sine, x * sine + y * cosine


def _raft_detectors(
    field: str, raft: RaftDocument, layout: RaftLayoutDocument, types: Mapping[str, DetectorType]
) -> list[Detector]:
    slots = [place.slot for place in layout.detectors]
    _refuse_repeats(
        slots, lambda i: f"raft_layouts.{raft.layout}.detectors[{i}].slot", "unique slots"
    )
    for key, named in (("serials", raft.serials), ("maker_serials", raft.maker_serials)):
        for slot in named:
            if slot not in slots:
                raise ContradictionError(
                    "Slot is not in the raft", f"{field}.{key}.{slot}", slot, f"one of {slots}"
                )
    detectors = []
    for index, place in enumerate(layout.detectors):
        type_name = place.type or raft.type
        if type_name is None or type_name not in types:
            raise ContradictionError(
                "Detector type is unknown",
                f"{field}.type"
                if place.type is None
                else f"raft_layouts.{raft.layout}.detectors[{index}].type",
                type_name,
                f"one of {sorted(types)}",
            )
        x_mm, y_mm = _turned(place.x_mm, place.y_mm, raft.orientation_deg)
        detectors.append(
            Detector(
                id=raft.first_id + (index if place.offset is None else place.offset),
                raft=raft.name,
                slot=place.slot,
                type=types[type_name],
                purpose=SensorPurpose(place.purpose),
                serial=raft.serials.get(place.slot, ""),
                maker_serial=raft.maker_serials.get(place.slot, ""),
                raft_serial=raft.serial,
                centre_x_mm=round(raft.x_mm + x_mm, 6),
                centre_y_mm=round(raft.y_mm + y_mm, 6),
                orientation_deg=float((raft.orientation_deg + place.orientation_deg) % 360),
                frame_bay=raft.frame_bay,
            )
        )
    return detectors


def _raft_boards(field: str, raft: RaftDocument, layout: RaftLayoutDocument) -> list[Board]:
    where = f"raft_layouts.{raft.layout}.boards"
    slots = [slot for board in layout.boards for slot in board.slots]
    _refuse_repeats(slots, lambda _: where, "every slot on exactly one board")
    expected = {place.slot for place in layout.detectors}
    if set(slots) != expected:
        raise ContradictionError(
            "Boards do not read every detector",
            where,
            sorted(expected ^ set(slots)),
            "every slot on exactly one board",
        )
    bay = raft.bay or raft.name[1:]
    if not bay.isdecimal():
        raise ContradictionError(
            "Raft has no DAQ bay", f"{field}.bay", raft.bay, "two digits, as the name has none"
        )
    names = [board.name for board in layout.boards]
    for name in raft.boards:
        if name not in names:
            raise ContradictionError(
                "Board is not in the raft", f"{field}.boards.{name}", name, f"one of {names}"
            )
    made = []
    for board in layout.boards:
        identity = raft.boards.get(board.name)
        made.append(
            Board(
                location=f"{bay}/{board.board}",
                name=f"{raft.name}/{board.name}",
                detectors=tuple(f"{raft.name}_{slot}" for slot in board.slots),
                serial=identity.serial if identity else "",
                lsst_name=identity.lsst_name if identity else "",
            )
        )
    return made


# --- filters --------------------------------------------------------------------------------------


def _filters(document: CameraDocument) -> tuple[Filter, ...]:
    filters = [Filter(name=one.name, band=one.band) for one in document.filters]
    _refuse_repeats(
        (one.name for one in filters), lambda i: f"filters[{i}].name", "unique filter names"
    )
    rule = document.filter_combinations
    if rule is None:
        return tuple(filters)
    return tuple(filters + _combinations(filters, rule))


def _combinations(filters: Sequence[Filter], rule: FilterCombinationsDocument) -> list[Filter]:
    band_of = {one.name: one.band for one in filters}
    for key, names in (
        ("open_filter", [rule.open_filter]),
        ("filters_in_grating_wheel", rule.filters_in_grating_wheel),
        ("never_combined", rule.never_combined),
    ):
        for name in names:
            if name not in band_of:
                raise ContradictionError(
                    "Filter of a combination is unknown",
                    f"filter_combinations.{key}",
                    name,
                    "a name under filters",
                )
    made = [
        Filter(name=f"{one.name}{rule.joiner}{grating}", band=one.band)
        for one in filters
        if one.name not in rule.never_combined
        for grating in rule.gratings
    ]
    made += [
        Filter(name=f"{rule.open_filter}{rule.joiner}{name}", band=band_of[name])
        for name in rule.filters_in_grating_wheel
    ]
    _refuse_repeats(
        (one.name for one in [*filters, *made]),
        lambda _: "filter_combinations",
        "unique combined names",
    )
    for one in made:
        if len(one.name) > FILTER_NAME_LIMIT:
            raise ContradictionError(
                "Combined filter name is too long",
                "filter_combinations",
                one.name,
                f"at most {FILTER_NAME_LIMIT} characters",
            )
    return made
