"""What a night's driver saw itself, apart from what the system says of itself."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from platevault.domain.camera import Camera


@dataclass(slots=True)
class TakenImage:
    """One exposure that was taken.

    Attributes
    ----------
    image, camera, sensors
        Which, by which camera, of which sensors.
    end_readout_tai
        Wall time when endReadout was published [s, TAI]; 0 if it never was.
    end_telemetry_tai
        Wall time when endOfImageTelemetry was published [s, TAI]; 0 if it never was.
    header_tai
        Wall time when its first header was announced [s, TAI]; 0 if it never was.
    """

    image: str
    camera: Camera
    sensors: tuple[str, ...]
    end_readout_tai: float = 0.0
    end_telemetry_tai: float = 0.0
    header_tai: float = 0.0


@dataclass(slots=True)
class NightRecord:
    """A night as its driver saw it.

    Attributes
    ----------
    images
        By name, in the order taken.
    events
        How often each (event, image, sensor, status) was announced on the bus.
    faults
        Faults that were injected, in words.
    """

    images: dict[str, TakenImage] = field(default_factory=dict)
    events: Counter[tuple[str, str, str, int]] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
