"""What a component says on the bus, and how loud."""

from __future__ import annotations

import logging
import os
from typing import Any

import structlog

from platevault.domain.errors import PlatevaultError
from platevault.ports.clock import Clock
from platevault.ports.sample_bus import BusUnavailableError
from platevault.sal.controller import Controller

_log = structlog.get_logger(__name__)


class Voice:
    """Events, telemetry and log messages of one component.

    Parameters
    ----------
    controller
        Writes the topics.
    clock
        Gives the time of log messages.
    """

    def __init__(self, *, controller: Controller, clock: Clock) -> None:
        self._controller = controller
        self._clock = clock
        self._levels = {"": logging.INFO}

    def has(self, event: str, /) -> bool:
        """Tell whether the component has the event."""
        return self._controller.interface.has(f"logevent_{event}")

    async def publish(self, event: str, /, *, force: bool = False, **fields: Any) -> bool:
        """Publish an event if a field differs from the last time, or ``force``; tell whether."""
        writer = self._controller.event(event)
        if not force:
            return await writer.write_if_changed(**fields)
        await writer.write(**fields)
        return True

    async def publish_telemetry(self, topic: str, /, **fields: Any) -> None:
        """Publish telemetry."""
        await self._controller.telemetry(topic).write(**fields)

    async def set_level(self, level: int, subsystem: str = "") -> None:
        """Let only messages of ``level`` and above out to the bus, and say so."""
        self._levels[subsystem] = level
        await self.publish("logLevel", force=True, level=level, subsystem=subsystem)

    async def say_level(self) -> None:
        """Publish the level in use."""
        await self.set_level(self._levels[""])

    async def log(
        self,
        level: int,
        message: str,
        /,
        *,
        traceback: str = "",
        subsystem: str = "",
        **facts: object,
    ) -> None:
        """Log, and publish ``logMessage`` if ``level`` reaches the level in use.

        A bus that is not available does not make this fail.
        """
        name = self._controller.identity
        _log.log(_standard_level(level), message, component=name, **facts)
        if level < self._levels.get(subsystem, self._levels[""]):
            return
        try:
            await self.publish(
                "logMessage",
                force=True,
                name=f"{name}.{subsystem}" if subsystem else name,
                level=level,
                message=str(PlatevaultError(message, **facts)),
                traceback=traceback,
                process=os.getpid(),
                timestamp=self._clock.now_tai(),
            )
        except BusUnavailableError as error:
            _log.warning("Log message not published", component=name, reason=str(error))


def _standard_level(level: int) -> int:
    """Give the standard level at or below ``level``."""
    return max(logging.DEBUG, min(logging.CRITICAL, level - level % 10))
