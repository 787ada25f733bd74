"""What a Forwarder says of the sensors of a board, after the effect."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from platevault.domain.capture import RetrievalStatus, sensor_text
from platevault.domain.messages import EndReadout, FileTransferCompleted, ImageRetrieval
from platevault.domain.places import ARCHIVE_CONTROLLER_QUEUE
from platevault.ports.work_queue import WorkQueue
from platevault.runtime.steps import Steps
from platevault.runtime.work import send_together


class Announcer:
    """Tells Archive Controller and Archiver what became of sensors; twice does no harm.

    Parameters
    ----------
    queue, steps
        Ports.
    """

    def __init__(self, *, queue: WorkQueue, steps: Steps) -> None:
        self._queue = queue
        self._steps = steps

    async def written(self, message: EndReadout, problems: Mapping[str, str]) -> None:
        """Say that the files of some sensors are durable and recorded.

        Parameters
        ----------
        message
            The order.
        problems
            Whose files, and why they have not the full header; empty text if they have.
        """
        done = [
            FileTransferCompleted(camera=message.camera, image=message.image, sensor=sensor)
            for sensor in problems
        ]
        await send_together(self._queue, ARCHIVE_CONTROLLER_QUEUE, done)
        for sensor in problems:
            await self._steps.reached("handed_over", f"{message.image}/{sensor}")
        results = [
            _result(message, sensor, RetrievalStatus.HEADER_FAILED, f"file written, {problem}")
            if problem
            else _result(message, sensor, RetrievalStatus.DONE, "file written")
            for sensor, problem in problems.items()
        ]
        await send_together(self._queue, message.reply_queue, results)
        for sensor in problems:
            await self._steps.reached("announced", f"{message.image}/{sensor}")

    async def tell(
        self, message: EndReadout, sensors: Iterable[str], status: RetrievalStatus, text: str
    ) -> None:
        """Say what became of sensors, naming raft and sensor."""
        results = [_result(message, sensor, status, text) for sensor in sensors]
        await send_together(self._queue, message.reply_queue, results)


def _result(message: EndReadout, sensor: str, status: RetrievalStatus, text: str) -> ImageRetrieval:
    return ImageRetrieval(
        camera=message.camera,
        image=message.image,
        sensor=sensor,
        status_code=int(status),
        description=sensor_text(sensor, text),
    )
