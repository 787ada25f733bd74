"""What a Forwarder says of each sensor, after the effect."""

from __future__ import annotations

from platevault.domain.capture import RetrievalStatus, sensor_text
from platevault.domain.messages import EndReadout, FileTransferCompleted, ImageRetrieval
from platevault.domain.places import ARCHIVE_CONTROLLER_QUEUE
from platevault.ports.work_queue import WorkQueue
from platevault.runtime.steps import Steps


class Announcer:
    """Tells Archive Controller and Archiver what became of a sensor; twice does no harm.

    Parameters
    ----------
    queue, steps
        Ports.
    """

    def __init__(self, *, queue: WorkQueue, steps: Steps) -> None:
        self._queue = queue
        self._steps = steps

    async def written(self, message: EndReadout, sensor: str, problem: str) -> None:
        """Say that the files of a sensor are durable and recorded.

        Parameters
        ----------
        message
            The order.
        sensor
            Whose files.
        problem
            Why they have not the full header; empty if they have.
        """
        await self._queue.send(
            ARCHIVE_CONTROLLER_QUEUE,
            FileTransferCompleted(camera=message.camera, image=message.image, sensor=sensor),
        )
        await self._steps.reached("handed_over", f"{message.image}/{sensor}")
        if problem:
            await self.tell(
                message, sensor, RetrievalStatus.HEADER_FAILED, f"file written, {problem}"
            )
        else:
            await self.tell(message, sensor, RetrievalStatus.DONE, "file written")
        await self._steps.reached("announced", f"{message.image}/{sensor}")

    async def tell(
        self, message: EndReadout, sensor: str, status: RetrievalStatus, text: str
    ) -> None:
        """Say what became of a sensor, naming raft and sensor."""
        await self._queue.send(
            message.reply_queue,
            ImageRetrieval(
                camera=message.camera,
                image=message.image,
                sensor=sensor,
                status_code=int(status),
                description=sensor_text(sensor, text),
            ),
        )
