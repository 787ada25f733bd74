"""Where a telescope points, as one consistent set of angles through astropy.

References
----------
Hour and parallactic angle from the horizon frame: spherical astronomy (Green 1985, ch. 1).
Airmass: SLALIB ``sla_AIRMAS`` (Hardie 1962).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

#: Rotator angle [deg] at which the camera's y axis points up in the horizon frame.
_ROTATOR_ZERO_DEG = 0.0


@dataclass(frozen=True, slots=True)
class Target:
    """What the telescope is asked to follow.

    Attributes
    ----------
    name
        OBJECT.
    ra_deg, dec_deg
        Position [deg, ICRS].
    sky_angle_deg
        Rotation of the camera on the sky (ROTPA) [deg].
    track_id
        Number of the slew.
    """

    name: str
    ra_deg: float
    dec_deg: float
    sky_angle_deg: float
    track_id: int = 0


@dataclass(frozen=True, slots=True)
class Track:
    """Angles of a target over time, each of shape ``(n_time,)``.

    Attributes
    ----------
    tai
        Moments [s, TAI].
    azimuth_deg, elevation_deg
        Horizon frame, north 0, east 90 [deg].
    hour_angle_h
        West positive [h].
    parallactic_deg
        Parallactic angle [deg].
    rotator_deg
        Physical rotator angle that keeps the sky angle, -180 to 180 [deg].
    airmass
        From the elevation.
    """

    tai: NDArray[np.float64]
    azimuth_deg: NDArray[np.float64]
    elevation_deg: NDArray[np.float64]
    hour_angle_h: NDArray[np.float64]
    parallactic_deg: NDArray[np.float64]
    rotator_deg: NDArray[np.float64]
    airmass: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Site:
    """Where a telescope stands.

    Attributes
    ----------
    longitude_deg, latitude_deg
        Geodetic, east and north positive [deg].
    elevation_m
        Above the ellipsoid [m].
    """

    longitude_deg: float
    latitude_deg: float
    elevation_m: float


def airmass_of(elevation_deg: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the airmass for elevations [deg]; below 3 deg it stays at that of 3 deg."""
    secant = 1.0 / np.sin(np.radians(np.maximum(elevation_deg, 3.0))) - 1.0
    return np.asarray(
        1.0 + secant * (0.9981833 - secant * (0.002875 + 0.0008083 * secant)), dtype=np.float64
    )


def horizon_angles(
    azimuth_deg: NDArray[np.float64], elevation_deg: NDArray[np.float64], latitude_deg: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute hour angle [h] and parallactic angle [deg] from the horizon frame."""
    azimuth, elevation = np.radians(azimuth_deg), np.radians(elevation_deg)
    latitude = np.radians(latitude_deg)
    hour = np.arctan2(
        -np.sin(azimuth) * np.cos(elevation),
        np.sin(elevation) * np.cos(latitude)
        - np.cos(elevation) * np.cos(azimuth) * np.sin(latitude),
    )
    parallactic = np.arctan2(
        -np.sin(azimuth) * np.cos(latitude),
        np.sin(latitude) * np.cos(elevation)
        - np.cos(latitude) * np.sin(elevation) * np.cos(azimuth),
    )
    return np.degrees(hour) / 15.0, np.degrees(parallactic)


@dataclass
class Telescope:
    """Follows targets from a site; all its angles come from one transformation.

    Attributes
    ----------
    site
        Where it stands.
    target
        What it follows now; ``None`` while parked.
    """

    site: Site
    target: Target | None = None
    _slews: int = field(default=0)

    def slew(self, target: Target) -> Target:
        """Follow ``target`` from now on; gives it with its track number."""
        self._slews += 1
        self.target = Target(
            target.name, target.ra_deg, target.dec_deg, target.sky_angle_deg, self._slews
        )
        return self.target

    def track(self, tai: NDArray[np.float64]) -> Track:
        """Compute the angles of the target at moments [s, TAI], shape ``(n_time,)``.

        While parked the telescope looks at the flat field screen: azimuth 0, elevation 40 deg.
        """
        if self.target is None:
            azimuth = np.zeros_like(tai)
            elevation = np.full_like(tai, 40.0)
        else:
            azimuth, elevation = self._horizon(self.target, tai)
        hour_angle, parallactic = horizon_angles(azimuth, elevation, self.site.latitude_deg)
        sky_angle = 0.0 if self.target is None else self.target.sky_angle_deg
        rotator = _wrap_180(parallactic - sky_angle + _ROTATOR_ZERO_DEG)
        return Track(
            tai, azimuth, elevation, hour_angle, parallactic, rotator, airmass_of(elevation)
        )

    def overhead_position(self, tai: float) -> tuple[float, float]:
        """Give RA and Dec [deg, ICRS] of the zenith at a moment [s, TAI]."""
        from astropy import units
        from astropy.coordinates import AltAz, SkyCoord

        zenith = SkyCoord(
            az=0.0 * units.deg, alt=90.0 * units.deg, frame=AltAz(**self._observer(tai))
        ).icrs
        return float(zenith.ra.deg), float(zenith.dec.deg)

    def _horizon(
        self, target: Target, tai: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        from astropy import units
        from astropy.coordinates import AltAz, SkyCoord

        place = SkyCoord(target.ra_deg * units.deg, target.dec_deg * units.deg, frame="icrs")
        seen = place.transform_to(AltAz(**self._observer(tai)))
        return (
            np.asarray(seen.az.deg, dtype=np.float64),
            np.asarray(seen.alt.deg, dtype=np.float64),
        )

    def _observer(self, tai: float | NDArray[np.float64]) -> dict[str, object]:
        from astropy import units
        from astropy.coordinates import EarthLocation
        from astropy.time import Time
        from astropy.utils import iers

        # The bundled tables serve; a simulated night must not ask the network.
        iers.conf.auto_download = False
        iers.conf.iers_degraded_accuracy = "ignore"
        location = EarthLocation.from_geodetic(
            self.site.longitude_deg * units.deg,
            self.site.latitude_deg * units.deg,
            self.site.elevation_m * units.m,
        )
        return {"obstime": Time(tai, format="unix_tai"), "location": location}


def _wrap_180(angle_deg: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((angle_deg + 180.0) % 360.0 - 180.0, dtype=np.float64)
