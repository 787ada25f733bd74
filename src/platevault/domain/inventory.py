"""What is expected of an exposure, and what is known of its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from platevault.domain.ids import FileKey
from platevault.domain.lifecycles import Destination, FileState


@dataclass(frozen=True, slots=True)
class HeaderReference:
    """Where the header object of an exposure is.

    Attributes
    ----------
    url
        Address in the large file annex.
    version
        1, 2, ... of the same exposure.
    size_bytes
        Size of the object; 0 if not given.
    md5
        MD5 of the object, hexadecimal; empty if not given.
    """

    url: str
    version: int
    size_bytes: int = 0
    md5: str = ""


@dataclass(frozen=True, slots=True, order=True)
class ToldResult:
    """A result of one sensor that was published.

    Attributes
    ----------
    sensor
        Sensor name; empty for a result of the whole exposure.
    event
        Name of the event that said it.
    status_code
        What it said.
    """

    sensor: str
    event: str
    status_code: int


@dataclass(frozen=True, slots=True)
class Exposure:
    """One exposure as announced, with the sensors it must give.

    Attributes
    ----------
    image
        Image name.
    camera
        Camera name, such as ``LSSTComCam``.
    day_obs
        Observing day YYYYMMDD.
    exposure_id
        Integer id of the Butler.
    sensors
        Expected sensors: name -> ``SCIENCE``, ``WAVEFRONT`` or ``GUIDER``.
    facts
        What the camera said at startIntegration (exposure time, image type ...), for a header
        of last resort.
    """

    image: str
    camera: str
    day_obs: int
    exposure_id: int
    sensors: Mapping[str, str]
    facts: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ExposureRecord:
    """An exposure as the ledger knows it.

    Attributes
    ----------
    exposure
        What was announced.
    registered_tai
        When it was registered [s, TAI].
    target_dir
        Archive directory; empty until chosen, then constant.
    end_readout_tai
        End of readout [s, TAI]; ``None`` until it happened.
    header
        Newest header object; ``None`` until published.
    """

    exposure: Exposure
    registered_tai: float
    target_dir: str = ""
    end_readout_tai: float | None = None
    header: HeaderReference | None = None


@dataclass(frozen=True, slots=True)
class FileRecord:
    """State of one file at one destination.

    Attributes
    ----------
    key, destination
        Which file, where.
    state
        Present state.
    path
        Path there; empty until known.
    size_bytes, digest
        Of the contents; 0 and empty until known. ``digest`` is ``<algorithm>:<hex>``.
    degraded
        The file was written without its full header.
    attempt
        Number of the newest attempt; 0 is none.
    fence
        Highest fencing number seen.
    reason
        Why it is in this state, if that needs saying.
    changed_tai
        When the state changed last [s, TAI].
    """

    key: FileKey
    destination: Destination
    state: FileState
    path: str = ""
    size_bytes: int = 0
    digest: str = ""
    degraded: bool = False
    attempt: int = 0
    fence: int = 0
    reason: str = ""
    changed_tai: float = 0.0


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One attempt to bring a file to a destination; never changed but for its end.

    Attributes
    ----------
    key, destination
        Which file, where.
    number
        From 1, per file and destination.
    worker
        Who tried.
    fence
        Fencing number under which it tried.
    started_tai, ended_tai
        When [s, TAI]; ``ended_tai`` is ``None`` while open.
    staged_path, staged_digest, staged_size_bytes
        Temporary name, digest and size, known before the file gets its final name.
    outcome
        ``""`` while open, then ``done``, ``failed`` or ``lost``.
    error
        Class and text of what went wrong.
    """

    key: FileKey
    destination: Destination
    number: int
    worker: str
    fence: int
    started_tai: float
    ended_tai: float | None = None
    staged_path: str = ""
    staged_digest: str = ""
    outcome: str = ""
    error: str = ""
    staged_size_bytes: int = 0
