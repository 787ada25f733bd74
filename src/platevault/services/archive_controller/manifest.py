"""The list of sensors that an exposure must give, written before any of them."""

from __future__ import annotations

import json

from platevault.domain.ids import FileKey, FileKind
from platevault.domain.inventory import Exposure

#: Version of the manifest's form (``raw-fits`` contract, section 10).
MANIFEST_VERSION = 1.0


def encode_manifest(exposure: Exposure) -> bytes:
    """Give the body of ``<image>_expectedSensors.json``.

    Every sensor is listed as ``SCIENCE``: readers take the value for a rule of file names
    (``GUIDER`` makes them wait for ``..._guider.fits``), and full frames of wavefront and guider
    sensors are named like those of science sensors.

    References
    ----------
    ``raw-fits`` contract, section 10; checked against the manifest of a real LSSTCam exposure.
    """
    document = {
        "fileName": FileKey(exposure.image, "", FileKind.MANIFEST).file_name,
        "fileType": "expectedSensors",
        "obsId": exposure.image,
        "version": MANIFEST_VERSION,
        "expectedSensors": dict.fromkeys(sorted(exposure.sensors), "SCIENCE"),
    }
    return (json.dumps(document, indent=2) + "\n").encode("ascii")
