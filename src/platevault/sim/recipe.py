"""What falls on the detectors during a simulated exposure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from platevault.domain.errors import UsageError
from platevault.sim.sky import Pointing


class InvalidRecipeError(UsageError):
    """An exposure cannot be simulated as described: mend the named field."""


class ImageType(StrEnum):
    """Kinds of exposure by what falls on the detectors; values as IMGTYPE."""

    BIAS = "BIAS"
    DARK = "DARK"
    FLAT = "FLAT"
    OBJECT = "OBJECT"

    @classmethod
    def parse(cls, imgtype: str) -> Self:
        """Take any IMGTYPE; what is neither bias, dark nor flat sees the sky."""
        name = imgtype.upper()
        if name in {"FLAT", "DFLAT", "SFLAT", "DOMEFLAT", "SKYFLAT", "CBP"}:
            return cls.FLAT
        return cls(name) if name in {"BIAS", "DARK"} else cls.OBJECT


@dataclass(frozen=True, slots=True)
class PixelRecipe:
    """What falls on the detectors during an exposure.

    Attributes
    ----------
    image_type
        Kind of exposure.
    exposure_s
        Time of light and dark current [s].
    pointing
        Where the camera looks; ``None`` gives sky without stars.
    filter
        Physical filter; its band chooses magnitudes and sky.
    seeing_arcsec
        Full width at half maximum of a star [arcsec].
    zero_point_mag
        Magnitude that gives one electron per second [mag].
    sky_mag_arcsec2
        Sky brightness [mag/arcsec**2].
    flat_e_per_s, dark_e_per_s
        Lamp and dark current [e/pixel/s].
    """

    image_type: ImageType
    exposure_s: float = 0.0
    pointing: Pointing | None = None
    filter: str = ""
    seeing_arcsec: float = 0.8
    zero_point_mag: float = 28.3
    sky_mag_arcsec2: float = 21.0
    flat_e_per_s: float = 4000.0
    dark_e_per_s: float = 0.05
