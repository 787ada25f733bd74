"""What an observatory says around one exposure of ComCam, as samples for a Header Service."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from typing import Any

from typing_extensions import override

from platevault.domain.camera import Camera
from platevault.domain.ids import ImageName
from platevault.domain.samples import Sample
from platevault.domain.timescales import utc_from_tai
from platevault.ports.object_store import (
    ObjectConflictError,
    ObjectMissingError,
    ObjectStore,
    StoredObject,
    StoreUnavailableError,
)
from platevault.sal.schema import Interfaces, UnknownTopicError, load_interfaces
from platevault.sal.values import complete_fields

#: Start of acquisition of the first exposure [s, TAI]: 2025-04-16T00:53:13.5 TAI.
BEGIN_TAI = 1744764793.5
#: Name of the first exposure.
IMAGE = "CC_O_20250415_000060"
#: Duration of the exposure and of its readout [s].
EXPOSURE_S, READOUT_S = 15.0, 2.0
Keys = list[str]


@cache
def interfaces() -> Interfaces:
    """Give the shipped interfaces, read once."""
    return load_interfaces()


class Speaker:
    """Makes samples with growing numbers."""

    def __init__(self) -> None:
        self._number = 0

    def say(
        self, component: str, topic: str, sent_tai: float, /, sal_index: int = 0, **fields: Any
    ) -> Sample:
        """Make one sample; fields that are not given have their defaults."""
        known = interfaces().component(component)
        try:
            schema = known.event(topic)
        except UnknownTopicError:
            schema = known.topic(topic)
        self._number += 1
        values, _ = complete_fields(schema, fields)
        return Sample(
            topic=schema,
            fields=values,
            sal_index=sal_index,
            sent_tai=sent_tai,
            sequence=self._number,
            identity=component,
            origin=1,
        )


def image_name(number: int) -> str:
    """Name the exposure ``number`` after the first."""
    first = ImageName.parse(IMAGE)
    return str(ImageName(first.source, "O", first.day_obs, first.sequence + number))


def states(speaker: Speaker, camera: Camera, sent_tai: float = BEGIN_TAI - 100.0) -> list[Sample]:
    """Say what holds through many exposures: focal plane, filter, target, simulation modes."""
    detectors = camera.detectors
    boards = [camera.board_of(one.name) for one in detectors]
    said = [
        speaker.say(
            "CCCamera",
            "focalPlaneSummaryInfo",
            sent_tai,
            ccdLocation=":".join(one.compact_name for one in detectors),
            raftBay=":".join(one.raft for one in detectors),
            ccdSlot=":".join(one.slot for one in detectors),
            rebSerialNumber=":".join("417176731" for _ in detectors),
            rebLSSTName=":".join(board.lsst_name or "LCA-13574-003" for board in boards),
            ccdLSSTName=":".join(one.serial for one in detectors),
            raftLSSTName=":".join(one.raft_serial for one in detectors),
            ccdManSerNum=":".join(str(22000 + one.id) for one in detectors),
            ccdManufacturer=":".join(one.type.vendor for one in detectors),
            ccdTempSetPoint=[-100.0 - one.id for one in detectors],
            sequencerKey=":".join("FP_ITL.seq" for _ in detectors),
            sequencerChecksum=":".join("1781310301" for _ in detectors),
        ),
        speaker.say(
            "CCCamera",
            "endSetFilter",
            sent_tai,
            filterName="r_03",
            filterType="r",
            filterSlot=2,
            filterPosition=12.5,
        ),
        speaker.say(
            "MTPtg",
            "currentTarget",
            sent_tai,
            timestamp=sent_tai,
            targetType=1,
            targetName="Vela_SNR",
            ra=2.2252947962927707,
            declination=-0.7714355293543711,
            frame=2,
        ),
        speaker.say("MTDomeTrajectory", "telescopeVignetted", sent_tai, vignetted=1),
    ]
    for component, index in (
        ("MTMount", 0),
        ("MTM1M3", 0),
        ("MTM2", 0),
        ("MTHexapod", 1),
        ("MTHexapod", 2),
        ("MTRotator", 0),
        ("MTDome", 0),
        ("MTDomeTrajectory", 0),
    ):
        said.append(speaker.say(component, "simulationMode", sent_tai, sal_index=index, mode=0))
    return said


def telemetry(speaker: Speaker, tai: float) -> list[Sample]:
    """Say what is measured at a moment [s, TAI]: angles run with time, 0.01 deg/s."""
    run = 0.01 * (tai - BEGIN_TAI)
    return [
        speaker.say(
            "MTPtg",
            "mountPosition",
            tai + 0.02,
            timestamp=tai,
            azimuthActualPosition=221.0 + run,
            elevationActualPosition=69.0 - run,
            ra=127.5 + run,
            declination=-44.2,
            skyAngle=46.0 + run,
        ),
        speaker.say(
            "MTPtg", "currentTargetStatus", tai + 0.02, timestamp=tai, ha=1.25 + run, airmass=1.07
        ),
        speaker.say(
            "MTMount",
            "azimuth",
            tai + 0.02,
            actualPosition=221.0 + run,
            actualPositionTimestamp=tai,
            timestamp=tai,
        ),
        speaker.say(
            "MTMount",
            "elevation",
            tai + 0.02,
            actualPosition=69.0 - run,
            actualPositionTimestamp=tai,
            timestamp=tai,
        ),
        speaker.say("MTRotator", "rotation", tai + 0.02, actualPosition=3.0 + run, timestamp=tai),
        speaker.say(
            "MTHexapod", "application", tai, sal_index=1, demand=[0.0, 0.0, -2856.0, 0.0, 0.0, 0.0]
        ),
        speaker.say(
            "ESS",
            "temperature",
            tai,
            sal_index=301,
            timestamp=tai,
            temperatureItem=[11.0] + [float("nan")] * 15,
        ),
        speaker.say("ESS", "pressure", tai, sal_index=301, timestamp=tai, pressureItem=[74390.0]),
        speaker.say(
            "ESS", "relativeHumidity", tai, sal_index=301, timestamp=tai, relativeHumidityItem=33.5
        ),
        speaker.say(
            "ESS", "airFlow", tai, sal_index=301, timestamp=tai, speed=1.25, direction=32.0
        ),
        speaker.say(
            "DIMM",
            "dimmMeasurement",
            tai,
            sal_index=1,
            timestamp=tai,
            fwhm=0.75,
            expiresAt=utc_from_tai(tai) + 600.0,
        ),
    ]


def camera_events(
    speaker: Speaker,
    camera: Camera,
    *,
    image: str = IMAGE,
    begin_tai: float = BEGIN_TAI,
    keys: Mapping[str, str] | None = None,
) -> list[Sample]:
    """Say what the camera says of one exposure, in order."""
    name = ImageName.parse(image)
    given = {
        "imageType": "OBJECT",
        "groupId": "2025-04-16T00\\:53\\:10.143",
        "testType": "OBJECT",
        "reason": "science",
        "program": "BLOCK-T434",
        **(keys or {}),
    }
    common = {
        "additionalKeys": ":".join(given),
        "additionalValues": ":".join(given.values()),
        "imagesInSequence": 1,
        "imageName": image,
        "imageIndex": 1,
        "imageSource": name.source,
        "imageController": name.controller,
        "imageDate": f"{name.day_obs:08d}",
        "imageNumber": name.sequence,
        "timestampAcquisitionStart": begin_tai,
    }
    readout_tai = begin_tai + EXPOSURE_S + 1.0
    done_tai = readout_tai + READOUT_S

    def say(topic: str, sent_tai: float, **fields: Any) -> Sample:
        return speaker.say("CCCamera", topic, sent_tai, **fields)

    return [
        say(
            "startIntegration",
            begin_tai + 0.03,
            **common,
            exposureTime=EXPOSURE_S,
            mode="normal",
            timeout=30.0,
        ),
        say("startShutterOpen", begin_tai + 0.1, timestampTransition=begin_tai + 0.1),
        say("endShutterClose", readout_tai - 0.1, timestampTransition=readout_tai - 0.1),
        say(
            "startReadout",
            readout_tai + 0.01,
            **common,
            exposureTime=EXPOSURE_S,
            timestampStartOfReadout=readout_tai,
        ),
        say(
            "imageReadoutParameters",
            readout_tai + 0.02,
            imageName=image,
            ccdLocation=":".join(one.compact_name for one in camera.detectors),
            overRows=[48 for _ in camera.detectors],
            overCols=[64 for _ in camera.detectors],
            underCols=[3 for _ in camera.detectors],
            daqAnnotation=f"note of {image}",
        ),
        say(
            "endReadout",
            done_tai + 0.01,
            **common,
            requestedExposureTime=EXPOSURE_S,
            timestampEndOfReadout=done_tai,
        ),
        say(
            "endOfImageTelemetry",
            done_tai + 0.3,
            **common,
            exposureTime=EXPOSURE_S,
            imageTag="c5af68adbf9f3249",
            timestampDateObs=begin_tai,
            timestampDateEnd=readout_tai,
            measuredShutterOpenTime=EXPOSURE_S,
            darkTime=EXPOSURE_S + 1.0,
        ),
    ]


def exposure(
    camera: Camera, *, speaker: Speaker | None = None, number: int = 0, period_s: float = 20.0
) -> list[Sample]:
    """Say everything around one exposure, in order of sending; states come with the first.

    Parameters
    ----------
    camera
        ComCam, or one with its components.
    speaker
        Numbers the samples.
    number
        Place in a series of exposures ``period_s`` [s] apart.
    period_s
        See ``number``.
    """
    speaker = speaker or Speaker()
    begin_tai = BEGIN_TAI + number * period_s
    said = states(speaker, camera) if number == 0 else []
    for second in range(-3, int(EXPOSURE_S + READOUT_S) + 2):
        said += telemetry(speaker, begin_tai + second + 0.25)
    said += [
        speaker.say(
            "CCCamera",
            "focal_plane_Ccd",
            begin_tai - 20.0,
            location=":".join(one.compact_name for one in camera.detectors),
            temp=[-100.0 - 0.1 * one.id for one in camera.detectors],
        )
    ]
    said += camera_events(speaker, camera, image=image_name(number), begin_tai=begin_tai)
    return sorted(said, key=lambda sample: sample.sent_tai)


class MemoryObjectStore(ObjectStore):
    """Objects in memory, for tests of services; fails while `is_down`."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.is_down = False
        self.refused = 0

    @override
    async def put_if_absent(self, key: str, data: bytes) -> StoredObject:
        self._check()
        if self.objects.setdefault(key, data) != data:
            raise ObjectConflictError("Another object has the key", key=key)
        return self._described(key)

    @override
    async def get(self, url: str) -> bytes:
        self._check()
        try:
            return self.objects[url.removeprefix("memory:///")]
        except KeyError:
            raise ObjectMissingError("There is no such object", url=url) from None

    @override
    async def stat(self, key: str) -> StoredObject | None:
        self._check()
        return self._described(key) if key in self.objects else None

    @override
    async def list(self, prefix: str = "") -> Keys:
        self._check()
        return sorted(key for key in self.objects if key.startswith(prefix))

    @override
    async def delete(self, key: str) -> None:
        self._check()
        self.objects.pop(key, None)

    def _described(self, key: str) -> StoredObject:
        data = self.objects[key]
        digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
        return StoredObject(key, f"memory:///{key}", len(data), digest)

    def _check(self) -> None:
        if self.is_down:
            self.refused += 1
            raise StoreUnavailableError("The store is down")
