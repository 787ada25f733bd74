"""What is known of one exposure: its camera events, in any order, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from platevault.domain.headers import HeaderValue
from platevault.domain.keywords import Capture
from platevault.services.header_service.sampling import Reading

START, READOUT, END_READOUT, END = (
    "startIntegration",
    "startReadout",
    "endReadout",
    "endOfImageTelemetry",
)
PARAMETERS = "imageReadoutParameters"
#: Camera events that carry ``imageName``.
IMAGE_TOPICS = (START, READOUT, END_READOUT, END, PARAMETERS)
SHUTTER_OPENS, SHUTTER_CLOSED = "startShutterOpen", "endShutterClose"
#: A field that has another name in another event of the same exposure.
_ALIASES = {"exposureTime": "requestedExposureTime"}


@dataclass(frozen=True, slots=True)
class Correction:
    """Values that a person or a later measurement puts in place of what was captured.

    Attributes
    ----------
    values
        By FITS keyword; ``None`` makes a value undefined.
    author, reason
        Who and why.
    """

    values: Mapping[str, HeaderValue]
    author: str
    reason: str


@dataclass(slots=True)
class ExposureEvents:
    """The camera events of one exposure; the same set of events always gives the same answers.

    Attributes
    ----------
    image
        Image name.
    readout_s
        Nominal readout time of the camera, to reckon back from the end of readout [s].
    events
        Newest sample of each event that names the image.
    corrections
        In the order in which they were made.
    """

    image: str
    readout_s: float
    events: dict[str, Reading] = field(default_factory=dict)
    corrections: list[Correction] = field(default_factory=list)

    def take(self, topic: str, reading: Reading) -> bool:
        """Keep an event; ``False`` if it says nothing new."""
        known = self.events.get(topic)
        if known is not None and (known.sent_tai, known.sequence) >= (
            reading.sent_tai,
            reading.sequence,
        ):
            return False
        self.events[topic] = reading
        return known is None or known.fields != reading.fields

    def carrier(self, topic: str, name: str) -> tuple[Reading, str] | None:
        """Find an event with a field: the named one, else another of the same exposure."""
        for candidate in (topic, START, END, READOUT, END_READOUT):
            event = self.events.get(candidate)
            if event is None:
                continue
            for alias in (name, _ALIASES.get(name, "")):
                if alias and event.fields.get(alias) is not None:
                    return event, alias
        return None

    def moment(self, capture: Capture) -> float | None:
        """Give the time of a capture [s, TAI]; ``None`` if no event tells it."""
        match capture:
            case Capture.READOUT:
                return self._readout_tai
            case Capture.END:
                end = self.events.get(END)
                return None if end is None else end.sent_tai
            case _:
                return self._start_tai

    @property
    def _start_tai(self) -> float | None:
        stamp = self._stamp(START, "timestampAcquisitionStart")
        if stamp is not None:
            return stamp
        start = self.events.get(START)
        return None if start is None else start.sent_tai

    @property
    def _readout_tai(self) -> float | None:
        stamp = self._own_stamp(READOUT, "timestampStartOfReadout")
        if stamp is None:
            stamp = self._own_stamp(END, "timestampDateEnd")
        if stamp is not None:
            return stamp
        done = self._own_stamp(END_READOUT, "timestampEndOfReadout")
        if done is not None:
            return done - self.readout_s
        readout = self.events.get(READOUT)
        return None if readout is None else readout.sent_tai

    def _stamp(self, topic: str, name: str) -> float | None:
        found = self.carrier(topic, name)
        if found is None:
            return None
        value = found[0].fields[found[1]]
        return float(value) if isinstance(value, int | float) and value > 0 else None

    def _own_stamp(self, topic: str, name: str) -> float | None:
        event = self.events.get(topic)
        value = None if event is None else event.fields.get(name)
        return float(value) if isinstance(value, int | float) and value > 0 else None
