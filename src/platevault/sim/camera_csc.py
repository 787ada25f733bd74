"""The camera as a commandable component: takeImages and setFilter."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from typing_extensions import override

from platevault.csc.csc import Csc
from platevault.domain.errors import UsageError
from platevault.ports.clock import Clock
from platevault.ports.sample_bus import SampleBus
from platevault.runtime.service import StopToken
from platevault.sal.acks import Ack, CommandRefusedError
from platevault.sal.controller import Command
from platevault.sal.schema import Interfaces
from platevault.sim.camera import CameraDevice, Request

#: What a take command is allowed beyond exposure and readout, for each image [s].
_OVERHEAD_S = 30.0


class SimCameraCsc(Csc):
    """Commands a `CameraDevice`; one take command at a time.

    Parameters
    ----------
    device
        The camera.
    bus, interfaces, clock, version
        As for `Csc`.
    taking
        Entered around each take command, so that cameras that share device time take turns.
    """

    def __init__(
        self,
        *,
        device: CameraDevice,
        bus: SampleBus,
        interfaces: Interfaces,
        clock: Clock,
        version: str,
        taking: asyncio.Lock,
    ) -> None:
        components = device.camera.components
        super().__init__(
            component=components.camera,
            sal_index=components.sal_index,
            bus=bus,
            interfaces=interfaces,
            clock=clock,
            version=version,
            simulation_mode=1,
        )
        self._device = device
        self._taking = taking
        self._has_filters = interfaces.component(components.camera).has("command_setFilter")

    @override
    async def run(self, stop: StopToken, ready: Callable[[], None]) -> None:
        """Be the camera until ``stop`` or ``exitControl``."""
        self.on_command("takeImages", self._take_images)
        if self._has_filters:
            self.on_command("setFilter", self._set_filter)
        await self._device.start()
        await super().run(stop, ready)

    async def _take_images(self, command: Command) -> Ack | None:
        self.require_enabled("takeImages")
        request = request_of(command.fields)
        await command.in_progress(request.count * (request.exposure_s + _OVERHEAD_S))
        async with self._taking:
            await self._device.take(request)
        return None

    async def _set_filter(self, command: Command) -> Ack | None:
        self.require_enabled("setFilter")
        async with self._taking:
            await self._device.set_filter(str(command.fields["name"]))
        return None


def request_of(fields: Mapping[str, Any]) -> Request:
    """Read the fields of takeImages.

    Raises
    ------
    CommandRefusedError
        A number is out of range, or ``keyValueMap`` is not ``key: value, key: value``.
    """
    count, exposure_s = int(fields["numImages"]), float(fields["expTime"])
    if count < 1:
        raise CommandRefusedError("numImages is out of range", value=count, expected=">= 1")
    if not 0 <= exposure_s <= 3600:  # noqa: PLR2004 - an hour is beyond any exposure
        raise CommandRefusedError("expTime is out of range", value=exposure_s, expected="0 to 3600")
    try:
        keys = parse_key_value_map(str(fields["keyValueMap"]))
    except UsageError as error:
        raise CommandRefusedError(str(error)) from error
    return Request(
        image_type=keys.pop("imageType", "OBJECT" if fields["shutter"] else "DARK"),
        exposure_s=exposure_s,
        count=count,
        keys=keys,
        annotation=str(fields["obsNote"]),
    )


class KeyValueMapError(UsageError):
    """The text of a keyValueMap cannot be taken apart: mend the named part."""


def parse_key_value_map(text: str) -> dict[str, str]:
    """Read ``imageType: BIAS, groupId: 2025-04-15T01:02:03.000``; values may hold colons.

    References
    ----------
    Camera take commands, field ``keyValueMap`` (header-service contract, A3).
    """
    found = {}
    for part in text.split(","):
        if not part.strip():
            continue
        key, colon, value = part.partition(":")
        if not colon or not key.strip():
            raise KeyValueMapError(
                "keyValueMap cannot be read", value=part.strip(), expected="key: value"
            )
        found[key.strip()] = value.strip()
    return found
