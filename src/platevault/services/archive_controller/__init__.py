"""Archive Controller: where exposures go, and their hand-off to each destination."""

from platevault.services.archive_controller.controller import (
    ARCHIVE_CONTROLLER_STEPS,
    ArchiveController,
)
from platevault.services.archive_controller.manifest import encode_manifest
from platevault.services.archive_controller.observing import ArchiveControllerObserver

__all__ = [
    "ARCHIVE_CONTROLLER_STEPS",
    "ArchiveController",
    "ArchiveControllerObserver",
    "encode_manifest",
]
