"""How a DAQ store is asked over a byte stream: messages and frames, without I/O.

A frame is a head of 24 bytes, a control message as JSON, and a payload of raw words::

    magic "PVDQ" | version u8 | 0 u8 | 0 u16 | request u32 | control bytes u32 | payload bytes u64

in network order. A reply carries the number of its request; a connection is used for one request
at a time, but ``listen`` is answered by announcements until it is closed.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from platevault.domain.errors import PermanentError, UsageError
from platevault.domain.headers import HeaderValue
from platevault.domain.wire import ReadoutRegisters, StripeLayout, WordPacking

MAGIC = b"PVDQ"
VERSION = 1
_HEAD = struct.Struct(">4sBBHIIQ")
#: Size of a frame's head [byte].
HEAD_BYTES = _HEAD.size
#: A longer control message is refused; it holds a list of some ten thousand images [byte].
CONTROL_LIMIT_BYTES = 16 << 20
#: A larger payload is refused; a board of a large camera has a fifth of a gigabyte [byte].
PAYLOAD_LIMIT_BYTES = 4 << 30
_REQUEST_LIMIT = 1 << 32


class MalformedFrameError(PermanentError):
    """The other end broke the protocol: close the connection."""


class FrameMisuseError(UsageError):
    """The caller breaks the protocol: a bug; the connection is of no further use."""


class ProblemCode(StrEnum):
    """Why a request was not fulfilled."""

    IMAGE_MISSING = "image_missing"
    IMAGE_INCOMPLETE = "image_incomplete"
    REFUSED = "refused"


class _Message(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, ser_json_inf_nan="constants"
    )


class ListImages(_Message):
    """Ask for the images of a folder, oldest first."""

    type: Literal["list_images"] = "list_images"
    partition: str
    folder: str


class DescribeBoard(_Message):
    """Ask for geometry and origin of one board."""

    type: Literal["describe_board"] = "describe_board"
    partition: str
    image: str
    location: str


class ReadBoard(_Message):
    """Ask for the words of one board.

    With ``shared`` the store, if it is on the same host, may say where they are in memory
    instead of sending them; it keeps them there until it hears `BoardTaken`.
    """

    type: Literal["read_board"] = "read_board"
    partition: str
    image: str
    location: str
    shared: bool = False


class BoardTaken(_Message):
    """Tell that the words which a `BoardEntry` placed in memory are no longer looked at."""

    type: Literal["board_taken"] = "board_taken"


class Listen(_Message):
    """Ask for announcements from now on."""

    type: Literal["listen"] = "listen"
    partition: str


class Listening(_Message):
    """Answer to `Listen`: nothing that comes after this is missed."""

    type: Literal["listening"] = "listening"


class ImageEntry(_Message):
    """One image of the store; an announcement, or part of a list."""

    type: Literal["image"] = "image"
    image: str
    folder: str
    tag: str
    annotation: str
    triggered_tai: float
    complete: bool
    boards: tuple[str, ...] = ()


class ImageList(_Message):
    """Answer to `ListImages`."""

    type: Literal["image_list"] = "image_list"
    images: tuple[ImageEntry, ...]


class MemoryPlace(_Message):
    """Where the words of a board are: some bytes of a file, to be opened read-only."""

    path: str
    offset_bytes: Annotated[int, Field(ge=0)]
    size_bytes: Annotated[int, Field(ge=0)]


class BoardEntry(_Message):
    """Answer to `DescribeBoard`, and to `ReadBoard` with the words as payload or in ``memory``."""

    type: Literal["board"] = "board"
    location: str
    registers: ReadoutRegisters
    layout: StripeLayout
    packing: WordPacking
    channels: tuple[int, ...]
    size_bytes: int
    serial: str
    firmware: str
    platform: str
    partition: str
    daq_version: str
    facts: dict[str, HeaderValue]
    memory: MemoryPlace | None = None


class Problem(_Message):
    """Answer to a request that was not fulfilled."""

    type: Literal["problem"] = "problem"
    code: ProblemCode
    message: str
    context: dict[str, str] = {}


Message = (
    ListImages
    | DescribeBoard
    | ReadBoard
    | BoardTaken
    | Listen
    | Listening
    | ImageEntry
    | ImageList
    | BoardEntry
    | Problem
)

_ADAPTER: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="type")])


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame whose head and control message are here; its payload follows.

    Attributes
    ----------
    request
        Number of the request.
    control
        The control message as JSON; `decode_message` reads those of the store.
    payload_bytes
        Size of the payload [byte].
    """

    request: int
    control: bytes
    payload_bytes: int


@dataclass(frozen=True, slots=True)
class PayloadPart:
    """Some bytes of the payload, in order."""

    data: bytes


@dataclass(frozen=True, slots=True)
class NeedData:
    """Nothing can be said before more bytes come.

    Attributes
    ----------
    size_bytes
        How many bytes the piece in hand still lacks; whoever receives no more than these at a time
        never takes bytes of the next piece [byte].
    """

    size_bytes: int


@dataclass(frozen=True, slots=True)
class Closed:
    """The other end closed between two frames."""


Event = Frame | PayloadPart | NeedData | Closed


class _State(StrEnum):
    HEAD = "head"
    CONTROL = "control"
    PAYLOAD = "payload"
    CLOSED = "closed"
    BROKEN = "broken"


#: What may follow what.
TRANSITIONS: dict[str, frozenset[str]] = {
    _State.HEAD: frozenset({_State.CONTROL, _State.CLOSED, _State.BROKEN}),
    _State.CONTROL: frozenset({_State.HEAD, _State.PAYLOAD, _State.BROKEN}),
    _State.PAYLOAD: frozenset({_State.HEAD, _State.BROKEN}),
    _State.CLOSED: frozenset(),
    _State.BROKEN: frozenset(),
}


class FrameReader:
    """Bytes in, events out; the same events however the bytes are cut."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._state = _State.HEAD
        self._ended = False
        self._request = 0
        self._control_bytes = 0
        self._payload_left = 0

    @property
    def payload_left(self) -> int:
        """Bytes of the present payload that have not been given out [byte]."""
        return self._payload_left

    def receive_data(self, data: bytes) -> None:
        """Take bytes as they came; none at all mean that the other end closed."""
        if data:
            self._buffer += data
        else:
            self._ended = True

    def take_payload(self, size_bytes: int) -> None:
        """Count payload bytes that were received elsewhere, past this reader.

        Raises
        ------
        FrameMisuseError
            They are not payload, or bytes before them wait to be given out. A bug.
        """
        if self._state is not _State.PAYLOAD or self._buffer or size_bytes > self._payload_left:
            raise FrameMisuseError(
                "These bytes are not the payload's",
                state=self._state.value,
                size_bytes=size_bytes,
                expected=self._payload_left,
            )
        self._payload_left -= size_bytes
        if self._payload_left == 0:
            self._go(_State.HEAD)

    def next_event(self) -> Event:
        """Give what the bytes so far mean.

        Raises
        ------
        MalformedFrameError
            They mean nothing, or the other end closed within a frame. Close the connection.
        """
        match self._state:
            case _State.HEAD:
                return self._head()
            case _State.CONTROL:
                return self._control()
            case _State.PAYLOAD:
                return self._payload()
            case _State.CLOSED:
                return Closed()
            case _State.BROKEN:
                raise MalformedFrameError("Connection is broken")

    def _head(self) -> Event:
        if len(self._buffer) < HEAD_BYTES:
            if self._ended and not self._buffer:
                self._go(_State.CLOSED)
                return Closed()
            # Refuse at the first wrong byte: whoever speaks another protocol may wait for us.
            if not MAGIC.startswith(bytes(self._buffer[: len(MAGIC)])):
                raise self._broken("Not a frame", value=bytes(self._buffer).hex())
            return self._need(HEAD_BYTES - len(self._buffer))
        magic, version, pad, spare, request, control, payload = _HEAD.unpack_from(self._buffer)
        if magic != MAGIC or pad or spare:
            raise self._broken("Not a frame", value=bytes(self._buffer[:HEAD_BYTES]).hex())
        if version != VERSION:
            raise self._broken("Frame of another version", value=version, expected=VERSION)
        if not 0 < control <= CONTROL_LIMIT_BYTES:
            raise self._broken("Control message too long or empty", value=control)
        if payload > PAYLOAD_LIMIT_BYTES:
            raise self._broken("Payload too large", value=payload, expected=PAYLOAD_LIMIT_BYTES)
        del self._buffer[:HEAD_BYTES]
        self._request, self._control_bytes, self._payload_left = request, control, payload
        self._go(_State.CONTROL)
        return self._control()

    def _control(self) -> Event:
        if len(self._buffer) < self._control_bytes:
            return self._need(self._control_bytes - len(self._buffer))
        control = bytes(self._buffer[: self._control_bytes])
        del self._buffer[: self._control_bytes]
        self._go(_State.PAYLOAD if self._payload_left else _State.HEAD)
        return Frame(self._request, control, self._payload_left)

    def _payload(self) -> Event:
        if not self._buffer:
            return self._need(self._payload_left)
        part = bytes(self._buffer[: self._payload_left])
        del self._buffer[: len(part)]
        self._payload_left -= len(part)
        if self._payload_left == 0:
            self._go(_State.HEAD)
        return PayloadPart(part)

    def _need(self, size_bytes: int) -> NeedData:
        if self._ended:
            raise self._broken("Connection closed within a frame", missing_bytes=size_bytes)
        return NeedData(size_bytes)

    def _go(self, state: _State) -> None:
        assert state in TRANSITIONS[self._state]
        self._state = state

    def _broken(self, message: str, **context: object) -> MalformedFrameError:
        self._go(_State.BROKEN)
        return MalformedFrameError(message, **context)


def encode_head(request: int, control: bytes, *, payload_bytes: int = 0) -> bytes:
    """Give head and control message of a frame; the payload is sent after them as it is.

    Raises
    ------
    FrameMisuseError
        A size or number is out of range. A bug; nothing may be sent.
    """
    if (
        not 0 <= request < _REQUEST_LIMIT
        or not 0 < len(control) <= CONTROL_LIMIT_BYTES
        or not 0 <= payload_bytes <= PAYLOAD_LIMIT_BYTES
    ):
        raise FrameMisuseError(
            "Frame is too large",
            request=request,
            control_bytes=len(control),
            payload_bytes=payload_bytes,
        )
    return _HEAD.pack(MAGIC, VERSION, 0, 0, request, len(control), payload_bytes) + control


def encode_message(message: Message) -> bytes:
    """Give the JSON of a control message."""
    return _ADAPTER.dump_json(message)


def decode_message(control: bytes) -> Message:
    """Read the JSON of a control message.

    Raises
    ------
    MalformedFrameError
        It is none that is known. Close the connection.
    """
    try:
        return _ADAPTER.validate_json(control)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise MalformedFrameError(
            "Control message does not have a known shape",
            field=".".join(str(part) for part in first["loc"]),
            problem=first["msg"],
        ) from error
