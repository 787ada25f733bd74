"""Where things go: folders of exposures and queues of services.

References
----------
Folders: ``raw-fits`` contract, section 8. Queues: capture contract, section 2.2.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from platevault.domain.errors import UsageError
from platevault.domain.ids import ImageName

_FOLDER = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
#: Requests to the Archive Controller.
ARCHIVE_CONTROLLER_QUEUE = "archive_controller"
#: Role under which Forwarders are present.
FORWARDER_ROLE = "forwarder"


def exposure_directory(camera: str, image: str) -> PurePosixPath:
    """Give the folder of an exposure below an area: ``<camera>/<day_obs>/<image>``.

    Parameters
    ----------
    camera
        Camera name, such as ``LSSTComCam``.
    image
        Image name; the observing day is taken from it and never computed again.

    Raises
    ------
    InvalidNameError, UsageError
        A name from outside is not usable as a folder. Refuse the input.
    """
    day_obs = ImageName.parse(image).day_obs
    if _FOLDER.match(camera) is None:
        raise UsageError("Camera name cannot be a folder", camera=camera)
    return PurePosixPath(camera, f"{day_obs:08d}", image)


def work_queue(camera: str) -> str:
    """Name the queue of boards to read of a camera."""
    return f"work.{camera}"


def oods_queue(camera: str) -> str:
    """Name the queue of files to be catalogued of a camera."""
    return f"oods.{camera}"


def archiver_queue(camera: str) -> str:
    """Name the queue of answers and results for the Archiver of a camera."""
    return f"archiver.{camera}"


def night_queues(cameras: Iterable[str]) -> list[str]:
    """Name every queue that must be empty when all work of some cameras is done."""
    names = [ARCHIVE_CONTROLLER_QUEUE]
    for camera in cameras:
        names += [work_queue(camera), oods_queue(camera), archiver_queue(camera)]
    return names


def forwarder_queue(name: str) -> str:
    """Name the queue of one Forwarder."""
    return f"forwarder.{name}"


def forwarder_lease(name: str) -> str:
    """Name the lease by which an Archiver holds a Forwarder."""
    return f"forwarder/{name}"


def board_lease(image: str, board: str) -> str:
    """Name the lease under which the files of one board are written."""
    return f"write/{image}/{board}"


def header_lease(image: str) -> str:
    """Name the lease under which the header of an exposure's files is chosen."""
    return f"header/{image}"
