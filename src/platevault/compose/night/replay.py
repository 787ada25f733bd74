"""Real frames as exposures of a camera."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from platevault.domain.camera import Camera
from platevault.domain.errors import PermanentError
from platevault.sim.camera import Request
from platevault.sim.telescope import Target

#: Longest IMGTYPE (raw-fits contract, section 6).
_IMAGE_TYPE_LIMIT = 16


@dataclass(frozen=True, slots=True)
class FrameVisit:
    """A frame that was read once and fits the camera.

    Attributes
    ----------
    path, sensor
        The file, and the detector that replays it.
    begin_tai
        Start of its exposure [s, TAI]; ``None`` if it does not say.
    notes
        What was changed or not understood when it became counts.
    """

    path: Path
    sensor: str
    begin_tai: float | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FrameExposure:
    """What to do to replay a frame.

    Attributes
    ----------
    request
        Take command with its pixels.
    target
        Where the telescope pointed; ``None`` if it does not say.
    filter_name
        Physical filter; empty if the camera lacks it.
    """

    request: Request
    target: Target | None
    filter_name: str


def survey_frames(
    paths: Sequence[Path], camera: Camera, detector: str
) -> tuple[list[FrameVisit], list[str]]:
    """Read frames, keep what is needed to put them in order, and name those that are unfit.

    Reading blocks. Frames come in the order of their exposures, those without a time last.
    """
    # It brings astropy along, which every other command starts without.
    from platevault.sim.frames import load_frame

    sensor = detector or camera.detectors[0].name
    visits, problems = [], []
    for path in paths:
        try:
            frame = load_frame(path, camera, sensor)
        except PermanentError as error:
            problems.append(str(error))
        else:
            notes = frame.problems
            if frame.rounding_adu:
                notes += (f"values were rounded by up to {frame.rounding_adu:.3g} adu",)
            visits.append(FrameVisit(path, sensor, frame.subject.begin_tai, notes))
    visits.sort(key=lambda visit: float("inf") if visit.begin_tai is None else visit.begin_tai)
    return visits, problems


def load_exposure(visit: FrameVisit, camera: Camera) -> FrameExposure:
    """Read a frame again, with its pixels; reading blocks.

    Raises
    ------
    UnreadableFrameError, UnsuitableFrameError
        It changed since it was surveyed. Leave it out.
    """
    from platevault.sim.frames import load_frame

    frame = load_frame(visit.path, camera, visit.sensor)
    subject = frame.subject
    target = None
    if subject.ra_deg is not None and subject.dec_deg is not None:
        target = Target(subject.target or visit.path.name, subject.ra_deg, subject.dec_deg, 0.0)
    known = {item.name for item in camera.filters}
    return FrameExposure(
        request=Request(
            image_type=(subject.image_type or "OBJECT")[:_IMAGE_TYPE_LIMIT],
            exposure_s=subject.exposure_s,
            keys={"program": subject.program or "replay", "reason": "replay"},
            annotation=visit.path.name,
            planes={visit.sensor: frame.planes},
            facts=frame.facts,
        ),
        target=target,
        filter_name=subject.filter if subject.filter in known else "",
    )
