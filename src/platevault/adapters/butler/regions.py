"""Where the detectors of an exposure are on the sky, as polygons of the Butler.

References
----------
Meaning of the sky angle: obs_base, WCS from boresight without flip (at 0 the focal plane's y points
north and x west; at 90 deg y points east and x north). Padding: obs_base, visit definition.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from lsst.sphgeom import ConvexPolygon, UnitVector3d, Vector3d

from platevault.domain.camera import Camera, Detector

#: Margin around each detector [pixel], so that a region is never too small.
PADDING_PIXELS = 250
_ARCSEC = math.pi / 648000.0


@dataclass(frozen=True, slots=True)
class VisitRegions:
    """Regions of one pointing.

    Attributes
    ----------
    visit
        Convex hull of all detectors.
    detectors
        Polygon of each detector by id.
    """

    visit: ConvexPolygon
    detectors: dict[int, ConvexPolygon]


def visit_regions(
    camera: Camera,
    *,
    ra_deg: float,
    dec_deg: float,
    sky_angle_deg: float,
    padding_pixels: int = PADDING_PIXELS,
) -> VisitRegions:
    """Project the corners of every detector of a camera on the sky.

    Parameters
    ----------
    camera
        Detector places and plate scale.
    ra_deg, dec_deg
        Boresight, ICRS [deg].
    sky_angle_deg
        Position angle of the focal plane's y axis, north through east [deg].
    padding_pixels
        Margin around each detector [pixel].
    """
    plane = _TangentPlane(camera, ra_deg, dec_deg, sky_angle_deg)
    corners = {
        detector.id: [plane.on_sky(x, y) for x, y in _corners(detector, padding_pixels)]
        for detector in camera.detectors
    }
    return VisitRegions(
        visit=ConvexPolygon.convexHull([point for points in corners.values() for point in points]),
        detectors={number: ConvexPolygon.convexHull(points) for number, points in corners.items()},
    )


class _TangentPlane:
    """Gnomonic projection about the boresight."""

    def __init__(self, camera: Camera, ra_deg: float, dec_deg: float, sky_angle_deg: float) -> None:
        self._scale = camera.plate_scale_arcsec_per_mm * _ARCSEC
        self._cos, self._sin = (
            math.cos(math.radians(sky_angle_deg)),
            math.sin(math.radians(sky_angle_deg)),
        )
        ra, dec = math.radians(ra_deg), math.radians(dec_deg)
        self._towards = (math.cos(dec) * math.cos(ra), math.cos(dec) * math.sin(ra), math.sin(dec))
        self._east = (-math.sin(ra), math.cos(ra), 0.0)
        self._north = (-math.sin(dec) * math.cos(ra), -math.sin(dec) * math.sin(ra), math.cos(dec))

    def on_sky(self, x_mm: float, y_mm: float) -> UnitVector3d:
        x, y = x_mm * self._scale, y_mm * self._scale
        east = -x * self._cos + y * self._sin
        north = x * self._sin + y * self._cos
        return UnitVector3d(
            Vector3d(
                *(
                    t + east * e + north * n
                    for t, e, n in zip(self._towards, self._east, self._north, strict=True)
                )
            )
        )


def _corners(detector: Detector, padding_pixels: int) -> Iterator[tuple[float, float]]:
    kind = detector.type
    half_x = (kind.trimmed_columns / 2 + padding_pixels) * kind.pixel_um * 1e-3
    half_y = (kind.trimmed_rows / 2 + padding_pixels) * kind.pixel_um * 1e-3
    turn = math.radians(detector.orientation_deg)
    for sign_x, sign_y in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
        x, y = sign_x * half_x, sign_y * half_y
        yield (
            detector.centre_x_mm + x * math.cos(turn) - y * math.sin(turn),
            detector.centre_y_mm + x * math.sin(turn) + y * math.cos(turn),
        )
