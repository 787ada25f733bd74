"""Names and numbers of exposures, sensors and files.

References
----------
Image names, exposure ids: ``raw-fits`` contract, section 7 (obs_lsst translators).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from typing_extensions import override

from platevault.domain.errors import UsageError

_IMAGE_NAME = re.compile(r"([A-Z][A-Z0-9]{1,3})_([OCHPQS])_(\d{8})_(\d{6})", re.ASCII)
_SENSOR = re.compile(r"([A-Z][A-Z0-9]{2})_?([A-Z][A-Z0-9]{2})")
#: Five digits of the sequence number go into the exposure id.
SEQUENCE_LIMIT = 100_000
_CONTROLLERS = "OCHPQS"
_LAST_SHIFTED_DAY = {"C": 20231004, "P": 20250417, "Q": 20250417, "S": 20250417}


class InvalidNameError(UsageError):
    """A name from outside does not have the form it must have: refuse the input."""


@dataclass(frozen=True, slots=True, order=True)
class ImageName:
    """Name of one exposure, such as ``MC_O_20250415_000060``.

    Attributes
    ----------
    source
        Camera code: AT, CC, MC, TS or that of a camera added by YAML.
    controller
        Who commanded it: O C H P Q S.
    day_obs
        Observing day YYYYMMDD.
    sequence
        Number within the day, 0 to 99999.
    """

    source: str
    controller: str
    day_obs: int
    sequence: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Take an image name apart; `InvalidNameError` if it is none."""
        match = _IMAGE_NAME.fullmatch(text)
        if match is None or int(match[4]) >= SEQUENCE_LIMIT:
            raise InvalidNameError("Not an image name", value=text, expected="CC_O_20250415_000060")
        return cls(match[1], match[2], int(match[3]), int(match[4]))

    @override
    def __str__(self) -> str:
        return f"{self.source}_{self.controller}_{self.day_obs:08d}_{self.sequence:06d}"

    @property
    def exposure_id(self) -> int:
        """Integer exposure id of the Butler."""
        day = self.day_obs
        last = _LAST_SHIFTED_DAY.get(self.controller)
        if self.controller == "H" or (last is not None and day <= last):
            day += 1000_00_00 * _CONTROLLERS.index(self.controller)
        return day * SEQUENCE_LIMIT + self.sequence


@dataclass(frozen=True, slots=True, order=True)
class SensorName:
    """Raft and slot of one sensor; text form ``R22_S01``, compact form ``R22S01``."""

    raft: str
    slot: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Take ``R22_S01`` or ``R22S01`` apart; `InvalidNameError` if it is neither."""
        match = _SENSOR.fullmatch(text)
        if match is None:
            raise InvalidNameError("Not a sensor name", value=text, expected="R22_S01")
        return cls(match[1], match[2])

    @override
    def __str__(self) -> str:
        return f"{self.raft}_{self.slot}"

    @property
    def compact(self) -> str:
        """Form used in header section names, ``R22S01``."""
        return f"{self.raft}{self.slot}"


class FileKind(StrEnum):
    """What a file of an exposure is."""

    RAW = "raw"
    SIDECAR = "sidecar"
    MANIFEST = "manifest"


@dataclass(frozen=True, slots=True, order=True)
class FileKey:
    """Identity of one file of an exposure.

    Attributes
    ----------
    image
        Image name as text.
    sensor
        Sensor name as text, ``R22_S01``; empty for files of the whole exposure.
    kind
        Raw image, sidecar or manifest.
    """

    image: str
    sensor: str
    kind: FileKind

    @property
    def file_name(self) -> str:
        """Name under which readers look for the file."""
        match self.kind:
            case FileKind.MANIFEST:
                return f"{self.image}_expectedSensors.json"
            case FileKind.SIDECAR:
                return f"{self.image}_{self.sensor}.json"
            case FileKind.RAW:
                return f"{self.image}_{self.sensor}.fits"
