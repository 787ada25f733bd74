"""A camera as data: detectors, amplifiers, boards, filters and names.

Axes: x runs along a row (serial, NAXIS1), y across rows (parallel, NAXIS2), both from 0 at the
first pixel read of an amplifier, or at the lower left of a trimmed detector.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from platevault.domain.errors import UsageError


class InvalidCameraError(UsageError):
    """A camera description contradicts itself: mend the named field."""


class SensorPurpose(StrEnum):
    """What a detector is for."""

    SCIENCE = "SCIENCE"
    WAVEFRONT = "WAVEFRONT"
    GUIDER = "GUIDER"


@dataclass(frozen=True, slots=True)
class Amplifier:
    """One readout channel of a detector, in HDU order.

    Attributes
    ----------
    name
        Name without prefix, such as ``10``; EXTNAME is the camera's prefix plus this.
    channel
        Place of its samples within the sensor's group of a DAQ stripe, from 0.
    x0, y0
        Lower left pixel of its data in the trimmed detector [pixel].
    flip_x, flip_y
        Turn the raw data along the axis before it is placed there.
    """

    name: str
    channel: int
    x0: int
    y0: int
    flip_x: bool = False
    flip_y: bool = False


@dataclass(frozen=True, slots=True)
class DetectorType:
    """What detectors of one kind have in common.

    Attributes
    ----------
    name
        Name within the camera document.
    vendor, model
        CCD_MANU and CCD_TYPE.
    data_columns, data_rows
        Size of an amplifier's data [pixel].
    prescan, serial_overscan, parallel_overscan
        Columns before, columns after, rows after the data [pixel].
    amplifiers
        In HDU order.
    xor_mask
        Applied to each DAQ word.
    pixel_um
        Pixel size [um].
    frames
        Rule for DETSEC, DTV, DTM and the linear frames: ``lsst`` (raw-fits contract, sec. 3) or
        ``assembly`` (from ``x0``, ``y0``, ``flip_x``, ``flip_y``).
    saturation_adu
        Largest count of the converter [adu].
    gain_e_per_adu, bias_adu, read_noise_adu
        Nominal properties, used by the simulator only.
    binning
        Pixels of the silicon added up per pixel of the readout, along x and y alike.
    """

    name: str
    vendor: str
    model: str
    data_columns: int
    data_rows: int
    prescan: int
    serial_overscan: int
    parallel_overscan: int
    amplifiers: tuple[Amplifier, ...]
    xor_mask: int
    pixel_um: float
    frames: str
    saturation_adu: int
    gain_e_per_adu: float
    bias_adu: float
    read_noise_adu: float
    binning: int = 1

    @property
    def columns(self) -> int:
        """NAXIS1 of a segment [pixel]."""
        return self.prescan + self.data_columns + self.serial_overscan

    @property
    def rows(self) -> int:
        """NAXIS2 of a segment [pixel]."""
        return self.data_rows + self.parallel_overscan

    @property
    def trimmed_columns(self) -> int:
        """Width of the assembled detector without overscan [pixel]."""
        return max(amp.x0 for amp in self.amplifiers) + self.data_columns

    @property
    def trimmed_rows(self) -> int:
        """Height of the assembled detector without overscan [pixel]."""
        return max(amp.y0 for amp in self.amplifiers) + self.data_rows


@dataclass(frozen=True, slots=True)
class Detector:
    """One sensor of a camera.

    Attributes
    ----------
    id
        Detector id of the Butler.
    raft, slot
        ``R22``, ``S01``.
    type
        Its kind.
    purpose
        Science, wavefront or guider.
    serial
        LSST_NUM.
    maker_serial
        CCD_SERN.
    raft_serial
        RAFTNAME.
    centre_x_mm, centre_y_mm
        Centre in the focal plane [mm], for pointings and regions.
    orientation_deg
        Rotation in the focal plane [deg], counter-clockwise, multiple of 90.
    frame_bay
        Bay ``Rmn`` at which the linear frames place it; empty if that is ``raft``.
    """

    id: int
    raft: str
    slot: str
    type: DetectorType
    purpose: SensorPurpose
    serial: str
    maker_serial: str
    raft_serial: str
    centre_x_mm: float
    centre_y_mm: float
    orientation_deg: float = 0.0
    frame_bay: str = ""

    @property
    def name(self) -> str:
        """Full name, ``R22_S01``."""
        return f"{self.raft}_{self.slot}"

    @property
    def compact_name(self) -> str:
        """Name in header sections and camera events, ``R22S01``."""
        return f"{self.raft}{self.slot}"


@dataclass(frozen=True, slots=True)
class Board:
    """One readout board, the unit of a DAQ read.

    Attributes
    ----------
    location
        DAQ location ``bay/board``, such as ``22/0``.
    name
        Name for people, such as ``R22/Reb0``.
    detectors
        Detector names in the order in which their groups stand in a stripe.
    serial
        CONTNUM, hexadecimal.
    lsst_name
        REBNAME.
    """

    location: str
    name: str
    detectors: tuple[str, ...]
    serial: str = ""
    lsst_name: str = ""


@dataclass(frozen=True, slots=True)
class Filter:
    """One physical filter.

    Attributes
    ----------
    name
        Physical filter of the Butler.
    band
        Its band; empty if it has none.
    """

    name: str
    band: str = ""


@dataclass(frozen=True, slots=True)
class Components:
    """SAL components that belong to a camera.

    Attributes
    ----------
    camera, header_service, archiver, oods
        Component names.
    sal_index
        Index of the camera and of its header service; 0 if not indexed.
    telescope
        Which telescope its headers speak of: ``main`` or ``aux``.
    """

    camera: str
    header_service: str
    archiver: str
    oods: str
    sal_index: int = 0
    telescope: str = "main"


@dataclass(frozen=True)
class Camera:
    """A whole camera.

    Attributes
    ----------
    name
        Instrument name of the Butler and of the folders, such as ``LSSTComCam``.
    code
        First part of image names, such as ``CC``.
    keyword_set
        Instrument column of the keyword schema whose rows apply, such as ``ComCam``.
    header_name
        INSTRUME.
    telescope_name
        TELESCOP.
    components
        Its SAL components.
    detectors
        By id, ascending.
    boards
        By location.
    filters
        Every physical filter that may be recorded.
    extname_prefix
        Before the amplifier's name in EXTNAME, ``Segment``.
    partition, platform
        DAQPART and PLATFORM.
    plate_scale_arcsec_per_mm
        Sky per focal plane [arcsec/mm].
    exposure_max, detector_max
        Butler limits.
    obs_class, obs_formatter
        Names recorded with ``compatibility: obs_lsst``; empty if there are none.
    site
        Name of the site: longitude, latitude, elevation come with it [deg, deg, m].
    longitude_deg, latitude_deg, elevation_m
        Where the telescope stands; east positive.
    constants
        Fixed header values by keyword, for keywords whose source is a constant of the camera.
    word_bits
        Significant bits of a DAQ word.
    readout_s
        Nominal time of a readout [s].
    """

    name: str
    code: str
    keyword_set: str
    header_name: str
    telescope_name: str
    components: Components
    detectors: tuple[Detector, ...]
    boards: tuple[Board, ...]
    filters: tuple[Filter, ...]
    extname_prefix: str
    partition: str
    platform: str
    plate_scale_arcsec_per_mm: float
    exposure_max: int
    detector_max: int
    site: str
    longitude_deg: float
    latitude_deg: float
    elevation_m: float
    obs_class: str = ""
    obs_formatter: str = ""
    constants: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)
    word_bits: int = 18
    readout_s: float = 2.0

    @cached_property
    def detector_by_name(self) -> Mapping[str, Detector]:
        """Detectors by full name ``R22_S01``."""
        return {detector.name: detector for detector in self.detectors}

    @cached_property
    def board_by_location(self) -> Mapping[str, Board]:
        """Boards by DAQ location."""
        return {board.location: board for board in self.boards}

    def board_of(self, sensor: str) -> Board:
        """Give the board that reads a sensor ``R22_S01``; `InvalidCameraError` if there is none."""
        for board in self.boards:
            if sensor in board.detectors:
                return board
        raise InvalidCameraError("Sensor is not in the camera", sensor=sensor, camera=self.name)
