"""The control channel of a simulated DAQ: what a test bench asks, apart from what a reader asks."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from platevault.domain.daq_protocol import MalformedFrameError
from platevault.domain.errors import TransientError, UsageError
from platevault.domain.headers import HeaderValue
from platevault.sim.daq import SimDaq
from platevault.sim.daq_faults import DaqFault, FaultKind
from platevault.sim.frame_socket import FrameSocket
from platevault.sim.recipe import PixelRecipe


class ControlRefusedError(UsageError):
    """The device refuses an order: mend what it names; nothing was changed."""


class ControlBrokenError(TransientError):
    """The control channel broke: connect again and look at the device before repeating."""


class _Order(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    partition: str


class TriggerImage(_Order):
    """Begin a readout."""

    type: Literal["trigger"] = "trigger"
    image: str
    recipe: PixelRecipe
    folder: str = "raw"
    annotation: str = ""
    boards: tuple[str, ...] | None = None
    facts: dict[str, HeaderValue] = {}


class StepDevice(_Order):
    """Move device time on."""

    type: Literal["step"] = "step"
    duration_s: float


class InjectFault(_Order):
    """Begin a fault."""

    type: Literal["inject"] = "inject"
    fault: DaqFault


class ClearFaults(_Order):
    """End the faults of a kind, or all."""

    type: Literal["clear"] = "clear"
    kind: FaultKind | None = None


class DeviceState(BaseModel):
    """Answer to every order that was fulfilled.

    Attributes
    ----------
    now_tai
        Device time [s, TAI].
    images
        How many images the store holds.
    faults
        The faults at present.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    type: Literal["state"] = "state"
    now_tai: float
    images: int
    faults: tuple[DaqFault, ...]


class OrderRefused(BaseModel):
    """Answer to an order that was not fulfilled."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    type: Literal["refused"] = "refused"
    message: str
    context: dict[str, str]


Order = TriggerImage | StepDevice | InjectFault | ClearFaults
_ORDERS: TypeAdapter[Order] = TypeAdapter(Annotated[Order, Field(discriminator="type")])
_ANSWERS: TypeAdapter[DeviceState | OrderRefused] = TypeAdapter(
    Annotated[DeviceState | OrderRefused, Field(discriminator="type")]
)


def decode_order(control: bytes) -> Order:
    """Read an order; `MalformedFrameError` if it is none."""
    try:
        return _ORDERS.validate_json(control)
    except ValidationError as error:
        raise MalformedFrameError("Not an order", problem=str(error)) from error


def encode_answer(answer: DeviceState | OrderRefused) -> bytes:
    """Give the JSON of an answer."""
    return _ANSWERS.dump_json(answer)


def obey(daq: SimDaq, order: Order) -> DeviceState:
    """Carry out an order on a device and tell its state; errors are those of the device."""
    match order:
        case TriggerImage():
            daq.trigger(
                order.image,
                recipe=order.recipe,
                folder=order.folder,
                annotation=order.annotation,
                boards=order.boards,
                facts=order.facts,
            )
        case StepDevice():
            daq.step(order.duration_s)
        case InjectFault():
            daq.inject(order.fault)
        case ClearFaults():
            daq.clear(order.kind)
    return DeviceState(
        now_tai=daq.now_tai,
        images=sum(len(daq.images(folder=folder)) for folder in daq.folders()),
        faults=daq.faults.present(),
    )


class DaqControl:
    """Gives orders to a device in another process; use it as a context manager.

    Parameters
    ----------
    host, port
        Where the control channel answers.
    partition
        Which device.
    within_s
        Limit of an answer [s].
    """

    def __init__(self, *, host: str, port: int, partition: str, within_s: float = 10.0) -> None:
        self._host = host
        self._port = port
        self._partition = partition
        self._within_s = within_s
        self._frames: FrameSocket | None = None
        self._orders = 0

    async def __aenter__(self) -> Self:
        try:
            self._frames = await FrameSocket.connect(
                self._host, self._port, within_s=self._within_s
            )
        except OSError as error:
            raise ControlBrokenError("Nobody answers", host=self._host, port=self._port) from error
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._frames is not None:
            self._frames.close()
            self._frames = None

    async def trigger(
        self,
        image: str,
        *,
        recipe: PixelRecipe,
        folder: str = "raw",
        annotation: str = "",
        boards: tuple[str, ...] | None = None,
        facts: Mapping[str, HeaderValue] | None = None,
    ) -> DeviceState:
        """Begin the readout of an image."""
        return await self._give(
            TriggerImage(
                partition=self._partition,
                image=image,
                recipe=recipe,
                folder=folder,
                annotation=annotation,
                boards=boards,
                facts=dict(facts or {}),
            )
        )

    async def step(self, duration_s: float) -> DeviceState:
        """Move device time on by ``duration_s`` [s]."""
        return await self._give(StepDevice(partition=self._partition, duration_s=duration_s))

    async def inject(self, fault: DaqFault) -> DeviceState:
        """Begin a fault."""
        return await self._give(InjectFault(partition=self._partition, fault=fault))

    async def clear(self, kind: FaultKind | None = None) -> DeviceState:
        """End the faults of a kind, or all."""
        return await self._give(ClearFaults(partition=self._partition, kind=kind))

    async def _give(self, order: Order) -> DeviceState:
        if self._frames is None:
            raise ControlBrokenError("The control channel is not open")
        self._orders += 1
        try:
            async with asyncio.timeout(self._within_s):
                await self._frames.send(self._orders, _ORDERS.dump_json(order))
                frame = await self._frames.next_frame()
            if frame is None:
                raise ControlBrokenError("The control channel closed")
            answer = _ANSWERS.validate_json(frame.control)
        except (OSError, MalformedFrameError, ValidationError) as error:
            raise ControlBrokenError("The control channel broke", reason=str(error)) from error
        if isinstance(answer, OrderRefused):
            raise ControlRefusedError(answer.message, **answer.context)
        return answer
