"""Orders for boards, checked, and what is due of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from platevault.domain.camera import Board, Camera
from platevault.domain.errors import IntegrityError, PermanentError, PlatevaultError, TransientError
from platevault.domain.ids import FileKey
from platevault.domain.inventory import ExposureRecord, FileRecord
from platevault.domain.lifecycles import FILE_TRANSITIONS, Destination, FileState, done_states
from platevault.domain.messages import EndReadout
from platevault.ports.file_ledger import UnknownExposureError
from platevault.ports.image_writer import DirectoryUnwritableError
from platevault.ports.readout import ImageMissingError
from platevault.services.forwarder.writing import SENSOR_KINDS

#: Attempts at a file before an error that does not pass by itself is left to a person.
ATTEMPTS = 5

Rows = Mapping[FileKey, FileRecord]


class BadOrderError(PermanentError):
    """A board was ordered that cannot be read: set the order aside and look who sent it."""


@dataclass(frozen=True, slots=True)
class Order:
    """An order that was checked.

    Attributes
    ----------
    message
        As received.
    camera, board
        What is to be read.
    folder
        Where its files go.
    """

    message: EndReadout
    camera: Camera
    board: Board
    folder: Path

    @property
    def subject(self) -> str:
        """Name of the order in steps and logs."""
        return f"{self.message.image}:{self.message.board}"


def check_order(
    message: EndReadout, cameras: Mapping[str, Camera], record: ExposureRecord | None
) -> Order:
    """Check an order against cameras and ledger.

    Raises
    ------
    BadOrderError, UnknownExposureError
        It cannot be carried out. Set it aside.
    """
    camera = cameras.get(message.camera)
    if camera is None:
        raise BadOrderError(
            "The camera is not known", camera=message.camera, expected=sorted(cameras)
        )
    board = camera.board_by_location.get(message.board)
    if board is None:
        raise BadOrderError("The camera has no such board", board=message.board, camera=camera.name)
    if record is None:
        raise UnknownExposureError("The exposure was never registered", image=message.image)
    strangers = [
        sensor
        for sensor in message.sensors
        if sensor not in board.detectors or sensor not in record.exposure.sensors
    ]
    if strangers or record.exposure.camera != camera.name:
        raise BadOrderError(
            "The order does not fit the exposure",
            image=message.image,
            camera=record.exposure.camera,
            board=board.location,
            sensors=strangers,
        )
    return Order(message, camera, board, Path(record.target_dir or message.target_dir))


def keys_of(image: str, sensor: str) -> list[FileKey]:
    """Give the files of a sensor, in the order in which they get their names."""
    return [FileKey(image, sensor, kind) for kind in SENSOR_KINDS]


def is_done(row: FileRecord) -> bool:
    """Tell whether a file is in the archive."""
    return row.state in done_states(row.key.kind, Destination.ARCHIVE)


def is_due(image: str, sensor: str, rows: Rows) -> bool:
    """Tell whether a sensor is to be written; not when one of its files waits for a person."""
    states = [rows[key] for key in keys_of(image, sensor)]
    if all(is_done(row) for row in states):
        return False
    return all(
        is_done(row)
        or row.state is FileState.SENDING
        or FileState.SENDING in FILE_TRANSITIONS[row.state]
        for row in states
    )


def state_after(error: PlatevaultError, *, number: int, catch_up: bool) -> FileState:
    """Tell what becomes of a file that could not be written.

    What passes by itself or is mended without us is tried again for as long as it takes, at the
    pace of catch-up; other errors a few times; a conflict never.

    Parameters
    ----------
    error
        What went wrong.
    number
        Number of the attempt.
    catch_up
        The DAQ had time to get the image.
    """
    if isinstance(error, TransientError | DirectoryUnwritableError):
        return FileState.RETRY
    if isinstance(error, IntegrityError):
        return FileState.DEAD
    if isinstance(error, ImageMissingError):
        return FileState.DEAD if catch_up else FileState.RETRY
    return FileState.RETRY if number < ATTEMPTS else FileState.DEAD
