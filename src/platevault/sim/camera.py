"""A camera as its controller shows it on the bus: the events of an exposure, in device time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from platevault.domain.camera import Camera, Detector, SensorPurpose
from platevault.domain.errors import UsageError
from platevault.domain.headers import HeaderValue
from platevault.domain.ids import ImageName
from platevault.domain.keywords import GENERIC_SET
from platevault.domain.timescales import day_obs_of, isot
from platevault.domain.wire import registers_of
from platevault.ports.readout import ImageAnnouncement
from platevault.sim.daq import SimDaq
from platevault.sim.observatory import Announcer, Observatory
from platevault.sim.pixels import ImageType, PixelRecipe
from platevault.sim.sky import Pointing
from platevault.sim.telemetry import Said

#: Time the shutter takes to open or close [s] (LSSTCam blades, rough).
_SHUTTER_S = 0.9
#: End of readout to endOfImageTelemetry [s] (header-service contract, A2).
_TELEMETRY_DELAY_S = 0.3
#: What startIntegration gives as time to failure, beyond exposure and readout [s].
_TIMEOUT_MARGIN_S = 10.0
_CCD_COLD_DEG_C = -100.0
_VENDOR_CODE = {"E2V": 1, "ITL": 2}
_SHUTTERED = frozenset({ImageType.FLAT, ImageType.OBJECT})


class UnknownFilterError(UsageError):
    """The camera has no such filter: choose one of its document."""


class UnknownSensorError(UsageError):
    """A sensor that is to be read is not in the camera: choose from its document."""


@dataclass(frozen=True, slots=True)
class Request:
    """One take command.

    Attributes
    ----------
    image_type
        IMGTYPE.
    exposure_s
        Requested time of each exposure [s].
    count
        Exposures, one after the other.
    keys
        Further keys of the command: groupId, program, reason, testType ...
    annotation
        Operator's note.
    planes, facts
        Counts by sensor and further header values of a real frame that is replayed instead of
        made; ``None`` and empty for a simulated one.
    """

    image_type: str
    exposure_s: float
    count: int = 1
    keys: Mapping[str, str] | None = None
    annotation: str = ""
    planes: Mapping[str, NDArray[np.int32]] | None = None
    facts: Mapping[str, HeaderValue] = field(default_factory=dict)


class CameraDevice:
    """Takes exposures: shutter, readout, and what the bus hears of it.

    Parameters
    ----------
    camera
        Which camera.
    observatory
        Device time and telescopes.
    announcer
        Publishes events.
    daq
        The camera's DAQ.
    first_sequence
        Number of the first exposure of its day.
    sensors
        Sensors that are read; empty for all.
    on_event
        Called with topic and image name before each event of an exposure is published; it gives
        how often the event goes out: 0 loses it.
    """

    def __init__(
        self,
        *,
        camera: Camera,
        observatory: Observatory,
        announcer: Announcer,
        daq: SimDaq,
        first_sequence: int = 1,
        sensors: Sequence[str] = (),
        on_event: Callable[[str, str], Awaitable[int]] | None = None,
    ) -> None:
        self.camera = camera
        self._observatory = observatory
        self._announcer = announcer
        self.daq = daq
        self._sequence = first_sequence
        self._sensors = tuple(sensors)
        self._on_event = on_event
        self._filter = camera.filters[0].name

    @property
    def detectors(self) -> tuple[Detector, ...]:
        """Detectors that are read."""
        if not self._sensors:
            return self.camera.detectors
        by_name = self.camera.detector_by_name
        unknown = [name for name in self._sensors if name not in by_name]
        if unknown:
            raise UnknownSensorError(
                "Sensor is not in the camera", sensor=unknown[0], camera=self.camera.name
            )
        return tuple(by_name[name] for name in self._sensors)

    @property
    def _ccds(self) -> tuple[Detector, ...]:
        # Readout and temperature arrays hold CCDs: the second half of a wavefront CCD is not one.
        halves = {(one.raft, one.slot) for one in self.detectors}
        return tuple(
            one
            for one in self.detectors
            if one.purpose is not SensorPurpose.WAVEFRONT
            or not one.slot.endswith("1")
            or (one.raft, f"{one.slot[:-1]}0") not in halves
        )

    async def start(self) -> None:
        """Say what the camera is made of and which filter is in."""
        await self._say("focalPlaneSummaryInfo", self._focal_plane())
        await self._say(
            "cameraInfo",
            {
                "cameraMakeAndModel": self.camera.name,
                "plateScale": self.camera.plate_scale_arcsec_per_mm,
            },
        )
        await self._say(
            "availableFilters",
            {
                "filterNames": ",".join(item.name for item in self.camera.filters)[:256],
                "filterTypes": ",".join(item.band for item in self.camera.filters)[:256],
            },
        )
        await self.set_filter(self._filter)

    async def set_filter(self, name: str) -> None:
        """Put a physical filter in; `UnknownFilterError` if the camera does not have it."""
        bands = {item.name: item.band for item in self.camera.filters}
        if name not in bands:
            raise UnknownFilterError(
                "The camera has no such filter", filter=name, camera=self.camera.name
            )
        self._filter = name
        slot = list(bands).index(name)
        await self._say("startSetFilter", {"filterName": name, "filterType": bands[name]})
        await self._say(
            "endSetFilter",
            {
                "filterName": name,
                "filterType": bands[name],
                "filterSlot": slot,
                "filterPosition": 309.0,
            },
        )
        if self.camera.components.telescope == "aux":
            await self._set_wheels(name, bands[name])

    async def take(self, request: Request) -> list[str]:
        """Take exposures of where the telescope points; gives their image names."""
        image_type = ImageType.parse(request.image_type)
        images = []
        for index in range(1, request.count + 1):
            image = self._next_name()
            images.append(image)
            await self._expose(image, image_type, request, index)
        return images

    def _next_name(self) -> str:
        day_obs = day_obs_of(self._observatory.clock.now_tai())
        name = ImageName(self.camera.code, "O", day_obs, self._sequence)
        self._sequence += 1
        return str(name)

    async def _expose(
        self, image: str, image_type: ImageType, request: Request, index: int
    ) -> None:
        clock = self._observatory.clock
        begin = clock.now_tai()
        common = self._common_fields(image, request, index, begin)
        await self._say(
            "startIntegration",
            {
                **common,
                "exposureTime": request.exposure_s,
                "mode": "normal",
                "timeout": request.exposure_s + self.camera.readout_s + _TIMEOUT_MARGIN_S,
            },
            image,
        )
        opened = image_type in _SHUTTERED and request.exposure_s > 0
        await self._integrate(request.exposure_s, opened=opened)
        end = clock.now_tai()
        await self._say(
            "startReadout",
            {**common, "exposureTime": request.exposure_s, "timestampStartOfReadout": end},
            image,
        )
        announced = self._start_readout(image, image_type, request)
        await self._say("imageReadoutParameters", self._geometry(image, request.annotation), image)
        await self._observatory.advance(self.camera.readout_s)
        await self._say_temperatures()
        await self._say(
            "endReadout",
            {
                **common,
                "requestedExposureTime": request.exposure_s,
                "timestampEndOfReadout": clock.now_tai(),
            },
            image,
        )
        await self._observatory.advance(_TELEMETRY_DELAY_S)
        await self._say(
            "endOfImageTelemetry",
            {
                **common,
                "exposureTime": request.exposure_s,
                "imageTag": announced.tag,
                "timestampDateObs": begin,
                "timestampDateEnd": end,
                "measuredShutterOpenTime": request.exposure_s if opened else 0.0,
                "darkTime": end - begin,
                "emulatedImage": "" if request.planes is None else request.annotation,
            },
            image,
        )

    async def _integrate(self, exposure_s: float, *, opened: bool) -> None:
        clock = self._observatory.clock
        if opened:
            await self._say("startShutterOpen", {"timestampTransition": clock.now_tai()})
            await self._observatory.advance(_SHUTTER_S)
            await self._say("endShutterOpen", {"timestampTransition": clock.now_tai()})
        await self._observatory.advance(exposure_s)
        if opened:
            await self._say("startShutterClose", {"timestampTransition": clock.now_tai()})
            await self._observatory.advance(_SHUTTER_S)
            await self._say("endShutterClose", {"timestampTransition": clock.now_tai()})

    def _start_readout(
        self, image: str, image_type: ImageType, request: Request
    ) -> ImageAnnouncement:
        now_tai = self._observatory.clock.now_tai()
        if request.planes is not None:
            return self.daq.trigger(
                image, planes=request.planes, facts=request.facts, annotation=request.annotation
            )
        return self.daq.trigger(
            image,
            recipe=self._recipe(image_type, request.exposure_s, now_tai),
            boards={self.camera.board_of(detector.name).location for detector in self.detectors},
            annotation=request.annotation,
        )

    def _recipe(self, image_type: ImageType, exposure_s: float, now_tai: float) -> PixelRecipe:
        target = self._observatory.telescopes[self.camera.components.telescope].target
        pointing = (
            Pointing(target.ra_deg, target.dec_deg, target.sky_angle_deg)
            if target is not None and image_type is ImageType.OBJECT
            else None
        )
        return PixelRecipe(
            image_type=image_type,
            exposure_s=exposure_s,
            pointing=pointing,
            filter=self._filter,
            seeing_arcsec=self._observatory.weather.at(now_tai).seeing_arcsec,
        )

    def _common_fields(
        self, image: str, request: Request, index: int, begin_tai: float
    ) -> dict[str, Any]:
        name = ImageName.parse(image)
        keys = {
            "imageType": request.image_type,
            "groupId": isot(begin_tai),
            "testType": request.image_type,
            "stutterRows": "0",
            "stutterNShifts": "0",
            "stutterDelay": "0.0",
            **self._own_keys(),
            **(request.keys or {}),
        }
        return {
            "additionalKeys": ":".join(_escaped(key) for key in keys),
            "additionalValues": ":".join(_escaped(value) for value in keys.values()),
            "imagesInSequence": request.count,
            "imageName": image,
            # Generic cameras count from 0 (ts_xml, GenericCamera.startIntegration).
            "imageIndex": index - 1 if self.camera.keyword_set == GENERIC_SET else index,
            "imageSource": name.source,
            "imageController": name.controller,
            "imageDate": f"{name.day_obs:08d}",
            "imageNumber": name.sequence,
            "timestampAcquisitionStart": begin_tai,
        }

    def _own_keys(self) -> dict[str, str]:
        # Generic cameras have no event that tells the filter.
        return {"filter": self._filter} if self.camera.keyword_set == GENERIC_SET else {}

    def _focal_plane(self) -> dict[str, Any]:
        detectors = self.detectors
        boards = [self.camera.board_of(detector.name) for detector in detectors]
        return {
            "ccdLocation": _listed(detector.compact_name for detector in detectors),
            "raftBay": _listed(detector.raft for detector in detectors),
            "ccdSlot": _listed(detector.slot for detector in detectors),
            "rebSerialNumber": _listed(
                str(int(board.serial, 16)) if board.serial else "0" for board in boards
            ),
            "rebLSSTName": _listed(board.lsst_name for board in boards),
            "ccdLSSTName": _listed(detector.serial for detector in detectors),
            "raftLSSTName": _listed(detector.raft_serial for detector in detectors),
            "ccdManSerNum": _listed(detector.maker_serial for detector in detectors),
            "ccdManufacturer": _listed(detector.type.vendor for detector in detectors),
            "ccdType": [_VENDOR_CODE.get(detector.type.vendor, 0) for detector in detectors],
            "ccdTempSetPoint": [_CCD_COLD_DEG_C for _ in detectors],
            "sequencerKey": _listed(
                f"FP_{detector.type.vendor}_2s_l3cp_v30.seq" for detector in detectors
            ),
            "sequencerChecksum": _listed("1781310301" for _ in detectors),
        }

    def _geometry(self, image: str, annotation: str) -> dict[str, Any]:
        detectors = self._ccds
        registers = [registers_of(detector.type) for detector in detectors]
        return {
            "imageName": image,
            "ccdLocation": _listed(detector.compact_name for detector in detectors),
            "raftBay": _listed(detector.raft for detector in detectors),
            "ccdSlot": _listed(detector.slot for detector in detectors),
            "ccdType": [_VENDOR_CODE.get(detector.type.vendor, 0) for detector in detectors],
            "overRows": [item.over_rows for item in registers],
            "overCols": [item.over_cols for item in registers],
            "readRows": [item.read_rows for item in registers],
            "readCols": [item.read_cols for item in registers],
            "readCols2": [item.read_cols2 for item in registers],
            "preCols": [item.pre_cols for item in registers],
            "preRows": [item.pre_rows for item in registers],
            "postCols": [item.post_cols for item in registers],
            "underCols": [item.under_cols for item in registers],
            "daqFolder": "raw",
            "daqAnnotation": annotation,
        }

    async def _say_temperatures(self) -> None:
        detectors = self._ccds
        await self._say(
            "focal_plane_Ccd",
            {
                "location": _listed(detector.compact_name for detector in detectors),
                "temp": [_CCD_COLD_DEG_C + 0.01 * (detector.id % 7) for detector in detectors],
            },
        )
        await self._say("vacuum", {"tempCCDSetPoint": _CCD_COLD_DEG_C})

    async def _set_wheels(self, name: str, band: str) -> None:
        wheel, _, grating = name.partition("~")
        now = {"name": wheel, "band": band, "slot": 1}
        for topic, fields in (
            ("reportedFilterPosition", now),
            ("reportedDisperserPosition", {"name": grating or "empty", "band": "EMPTY", "slot": 0}),
            ("reportedLinearStagePosition", {"position": 67.0}),
            ("settingsAppliedValues", {"instrumentPort": 2}),
        ):
            await self._announcer.say(Said("ATSpectrograph", topic, fields))

    async def _say(self, topic: str, fields: Mapping[str, Any], image: str = "") -> None:
        times = 1
        if image and self._on_event is not None:
            times = await self._on_event(topic, image)
        components = self.camera.components
        for _ in range(times):
            await self._announcer.say_known(
                Said(components.camera, topic, fields, components.sal_index)
            )


def _escaped(text: str) -> str:
    # CAP-572: a colon within an element is escaped.
    return text.replace(":", "\\:")


def _listed(values: Any) -> str:
    return ":".join(_escaped(str(value)) for value in values)
