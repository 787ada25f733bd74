"""Shape of a camera's YAML document, field by field; `cameras` gives it its meaning."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Text = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[ -~]+$")]
RaftName = Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9]{2}$")]
SlotName = Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9]{2}$")]
AmplifierName = Annotated[str, Field(pattern=r"^[A-Za-z0-9]{1,8}$")]
#: The Butler's limit is 32 characters (raw-fits contract, sec. 6).
FilterName = Annotated[str, Field(min_length=1, max_length=32, pattern=r"^[!-~]+$")]
Pixels = Annotated[int, Field(ge=0, le=100_000)]
Keyword = Annotated[str, Field(pattern=r"^[A-Z0-9_ -]{1,60}$")]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ComponentsDocument(_Document):
    """SAL components of the camera."""

    camera: Text
    header_service: Text
    archiver: Text
    oods: Text
    sal_index: int = Field(default=0, ge=0, description="0 if the components are not indexed")
    telescope: Literal["main", "aux"] = "main"


class SiteDocument(_Document):
    """Where the telescope stands."""

    name: Text
    longitude_deg: float = Field(ge=-360, le=360, description="east positive")
    latitude_deg: float = Field(ge=-90, le=90)
    elevation_m: float = Field(ge=-500, le=9000)


class AmplifierDocument(_Document):
    """One amplifier, written out."""

    name: AmplifierName
    channel: int = Field(ge=0, le=255)
    x0: Pixels
    y0: Pixels
    flip_x: bool = False
    flip_y: bool = False


class AmplifierRunDocument(_Document):
    """Amplifiers in a row: names and channels one by one, places in equal steps."""

    names: list[AmplifierName] = Field(min_length=1, max_length=256)
    channels: list[int] = Field(min_length=1, max_length=256)
    x0: Pixels
    y0: Pixels
    x_step: int = 0
    y_step: int = 0
    flip_x: bool = False
    flip_y: bool = False


class DetectorTypeDocument(_Document):
    """What detectors of one kind have in common."""

    vendor: Text
    model: Text
    data_columns: int = Field(ge=1, le=100_000, description="pixel, per amplifier")
    data_rows: int = Field(ge=1, le=100_000, description="pixel, per amplifier")
    prescan: Pixels = 0
    serial_overscan: Pixels = 0
    parallel_overscan: Pixels = 0
    amplifiers: list[AmplifierDocument] = Field(
        default=[], description="in HDU order; or give amplifier_runs"
    )
    amplifier_runs: list[AmplifierRunDocument] = Field(
        default=[], description="in HDU order; or give amplifiers"
    )
    xor_mask: int = Field(ge=0)
    pixel_um: float = Field(gt=0)
    frames: Literal["lsst", "assembly"] = "assembly"
    saturation_adu: int = Field(ge=1)
    gain_e_per_adu: float = Field(default=1.0, gt=0, description="for the simulator")
    bias_adu: float = Field(default=1000.0, ge=0, description="for the simulator")
    read_noise_adu: float = Field(default=5.0, ge=0, description="for the simulator")
    binning: int = Field(default=1, ge=1, le=64, description="along x and y; sizes are as binned")


class LayoutDetectorDocument(_Document):
    """One place of a raft."""

    slot: SlotName
    x_mm: float = 0.0
    y_mm: float = 0.0
    orientation_deg: Literal[0, 90, 180, 270] = 0
    offset: int | None = Field(
        default=None, ge=0, description="id less the raft's first id; default: place in the list"
    )
    type: Text | None = Field(default=None, description="default: the type of the raft")
    purpose: Literal["SCIENCE", "WAVEFRONT", "GUIDER"] = "SCIENCE"


class LayoutBoardDocument(_Document):
    """One readout board of a raft."""

    board: str = Field(pattern=r"^[0-9]$", description="second part of the DAQ location")
    name: Text
    slots: list[SlotName] = Field(min_length=1, description="in stripe order")


class RaftLayoutDocument(_Document):
    """What rafts of one kind have in common."""

    detectors: list[LayoutDetectorDocument] = Field(min_length=1)
    boards: list[LayoutBoardDocument] = Field(min_length=1)


class BoardIdentityDocument(_Document):
    """Serial numbers of one readout board."""

    serial: str = Field(default="", pattern=r"^[0-9a-f]*$", description="CONTNUM, hexadecimal")
    lsst_name: str = ""


class RaftDocument(_Document):
    """One raft."""

    name: RaftName
    layout: Text
    type: Text | None = Field(default=None, description="detector type unless the layout says")
    first_id: int = Field(ge=0)
    serial: Text
    x_mm: float = 0.0
    y_mm: float = 0.0
    orientation_deg: Literal[0, 90, 180, 270] = 0
    bay: str | None = Field(
        default=None,
        pattern=r"^[0-9]{2}$",
        description="first part of the DAQ location; default: the digits of the name",
    )
    frame_bay: str = Field(
        default="",
        pattern=r"^(R[0-9]{2})?$",
        description="bay of the linear frames if it is not the name",
    )
    serials: dict[SlotName, Text] = Field(default={}, description="LSST_NUM by slot")
    maker_serials: dict[SlotName, Text] = Field(default={}, description="CCD_SERN by slot")
    boards: dict[Text, BoardIdentityDocument] = Field(default={}, description="by board name")


class FilterDocument(_Document):
    """One physical filter."""

    name: FilterName
    band: Annotated[str, Field(max_length=32)] = ""


class FilterCombinationsDocument(_Document):
    """A second wheel: every filter is also recorded as ``FILTER~GRATING``."""

    joiner: Text = "~"
    gratings: list[Text] = Field(min_length=1)
    open_filter: Text = Field(description="filter that stands for no filter")
    filters_in_grating_wheel: list[Text] = Field(
        default=[], description="filters combined with the open filter only; they give the band"
    )
    never_combined: list[Text] = []


class LimitsDocument(_Document):
    """Limits of the Butler's instrument record."""

    exposure_max: int = Field(default=7050123199999, ge=1)
    detector_max: int = Field(default=1000, ge=1)


class ObsLsstDocument(_Document):
    """Names recorded with ``compatibility: obs_lsst``."""

    instrument_class: Text
    formatter: Text


class CameraDocument(_Document):
    """A whole camera as its YAML document has it."""

    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,15}$")
    code: str = Field(pattern=r"^[A-Z][A-Z0-9]{1,3}$")
    keyword_set: Literal["LSSTCam", "ComCam", "LATISS", "GenericCamera"]
    header_name: Text
    telescope_name: Text
    components: ComponentsDocument
    site: SiteDocument
    plate_scale_arcsec_per_mm: float = Field(gt=0)
    partition: Text
    platform: Text
    extname_prefix: str = Field(default="Segment", pattern=r"^[A-Za-z0-9_]{0,16}$")
    word_bits: int = Field(default=18, ge=8, le=31)
    readout_s: float = Field(default=2.0, ge=0)
    limits: LimitsDocument = LimitsDocument()
    obs_lsst: ObsLsstDocument | None = None
    constants: dict[Keyword, str | int | float | bool | None] = {}
    detector_types: dict[Text, DetectorTypeDocument] = Field(min_length=1)
    raft_layouts: dict[Text, RaftLayoutDocument] = Field(min_length=1)
    rafts: list[RaftDocument] = Field(min_length=1)
    filters: list[FilterDocument] = Field(min_length=1)
    filter_combinations: FilterCombinationsDocument | None = None
