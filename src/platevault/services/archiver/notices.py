"""Events of camera and Header Service as the Archiver understands them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from platevault.domain.camera import Camera
from platevault.domain.errors import PermanentError
from platevault.domain.headers import HeaderValue
from platevault.domain.ids import ImageName, InvalidNameError
from platevault.domain.inventory import HeaderReference
from platevault.domain.samples import Sample

START = "startIntegration"
END = "endReadout"
HEADER = "largeFileObjectAvailable"
#: Header objects that are no header for files: the same header as FITS text.
_OTHER_FORMS = frozenset({"FITS"})


class MalformedEventError(PermanentError):
    """An event says something impossible: it is passed over; look who sent it."""


class StrangeImageError(PermanentError):
    """An event speaks of an image of another camera: it is passed over; look who sent it."""


@dataclass(frozen=True, slots=True)
class ExposureNotice:
    """What a camera event says of an exposure.

    Attributes
    ----------
    image
        Name of the image, of this camera.
    facts
        Every field of the event.
    moment_tai
        When it happened [s, TAI].
    """

    image: ImageName
    facts: Mapping[str, HeaderValue]
    moment_tai: float


def read_exposure(sample: Sample, camera: Camera) -> ExposureNotice:
    """Read startIntegration or endReadout.

    Raises
    ------
    MalformedEventError, StrangeImageError
        Pass the event over.
    """
    image = _image(sample, "imageName", camera)
    facts = {name: _plain(value) for name, value in sample.fields.items() if _is_plain(value)}
    field = "timestampEndOfReadout" if sample.topic.name == END else "timestampAcquisitionStart"
    moment = facts.get(field)
    if not isinstance(moment, float) or moment <= 0:
        moment = sample.sent_tai
    return ExposureNotice(image, facts, moment)


def read_header(sample: Sample, camera: Camera) -> tuple[ImageName, HeaderReference] | None:
    """Read largeFileObjectAvailable; ``None`` if it is another form of a header.

    Raises
    ------
    MalformedEventError, StrangeImageError
        Pass the event over.
    """
    if sample.fields.get("mimeType") in _OTHER_FORMS:
        return None
    image = _image(sample, "id", camera)
    url = sample.fields.get("url")
    if not isinstance(url, str) or not url:
        raise MalformedEventError("Event without an address", field="url", image=str(image))
    version = _number(sample, "version")
    return image, HeaderReference(
        url=url,
        version=max(1, int(version)),
        size_bytes=max(0, int(_number(sample, "byteSize"))),
        md5=str(sample.fields.get("checkSum", "")),
    )


def _image(sample: Sample, field: str, camera: Camera) -> ImageName:
    text = sample.fields.get(field)
    try:
        image = ImageName.parse(str(text))
    except InvalidNameError as error:
        raise MalformedEventError(
            "Event without an image name", topic=sample.topic.name, field=field, value=text
        ) from error
    if image.source != camera.code:
        raise StrangeImageError(
            "Event of another camera",
            topic=sample.topic.name,
            field=field,
            value=text,
            expected=camera.code,
        )
    return image


def _number(sample: Sample, field: str) -> float:
    value = sample.fields.get(field, 0)
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise MalformedEventError(
            "Event with an impossible number", topic=sample.topic.name, field=field, value=value
        )
    return float(value)


def _is_plain(value: object) -> bool:
    return isinstance(value, bool | int | float | str)


def _plain(value: HeaderValue) -> HeaderValue:
    return None if isinstance(value, float) and not math.isfinite(value) else value
