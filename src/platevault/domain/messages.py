"""Messages between services; one typed definition each, versioned.

The meanings are those of the historical archiver protocol; ``historical`` names the message type
there. Every message is idempotent: receiving it twice does no harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from platevault.domain.errors import PermanentError


class MalformedMessageError(PermanentError):
    """A message body has not the shape it must have: dead letter, go on."""


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    historical: ClassVar[str] = ""


class Associated(_Message):
    """Archiver to Forwarder: work for me; take items from ``work_queue``."""

    historical: ClassVar[str] = "ASSOCIATED"
    type: Literal["associated"] = "associated"
    archiver: str
    forwarder: str
    work_queue: str
    reply_queue: str
    fence: int


class AssociatedAck(_Message):
    """Forwarder to Archiver: paired."""

    historical: ClassVar[str] = "ASSOCIATED_ACK"
    type: Literal["associated_ack"] = "associated_ack"
    archiver: str
    forwarder: str
    fence: int


class HealthCheck(_Message):
    """Archiver to Archive Controller: say that you are there."""

    historical: ClassVar[str] = "ARCHIVE_HEALTH_CHECK"
    type: Literal["health_check"] = "health_check"
    sender: str
    reply_queue: str
    ack_id: str


class HealthCheckAck(_Message):
    """Archive Controller to Archiver: alive."""

    historical: ClassVar[str] = "ARCHIVE_HEALTH_CHECK_ACK"
    type: Literal["health_check_ack"] = "health_check_ack"
    sender: str
    ack_id: str


class NewArchiveItem(_Message):
    """Archiver to Archive Controller: make a place for this exposure."""

    historical: ClassVar[str] = "NEW_XX_ARCHIVE_ITEM"
    type: Literal["new_archive_item"] = "new_archive_item"
    camera: str
    image: str
    reply_queue: str


class NewArchiveItemAck(_Message):
    """Archive Controller to Archiver: its directory, made and stored."""

    historical: ClassVar[str] = "NEW_XX_ARCHIVE_ITEM_ACK"
    type: Literal["new_archive_item_ack"] = "new_archive_item_ack"
    camera: str
    image: str
    target_dir: str


class EndReadout(_Message):
    """Archiver to Forwarders: read one board of the exposure and write its files.

    It carries the transfer parameters, so one message is a whole unit of work.
    """

    historical: ClassVar[str] = "XX_FWDR_XFER_PARAMS, XX_FWDR_END_READOUT"
    type: Literal["end_readout"] = "end_readout"
    camera: str
    image: str
    board: str
    sensors: tuple[str, ...]
    target_dir: str
    reply_queue: str
    end_readout_tai: float
    header_due_tai: float
    catch_up: bool = False


class HeaderReady(_Message):
    """Archiver to each paired Forwarder: the header object of an exposure is there (a hint)."""

    historical: ClassVar[str] = "XX_FWDR_HEADER_READY"
    type: Literal["header_ready"] = "header_ready"
    camera: str
    image: str
    url: str
    version: int


class FileTransferCompleted(_Message):
    """Forwarder to Archive Controller: files of one sensor are durable in the archive."""

    historical: ClassVar[str] = "FILE_TRANSFER_COMPLETED"
    type: Literal["file_transfer_completed"] = "file_transfer_completed"
    camera: str
    image: str
    sensor: str


class ImageRetrieval(_Message):
    """Forwarder to Archiver: one final status of one sensor, for imageRetrievalForArchiving."""

    historical: ClassVar[str] = "IMAGE_RETRIEVAL_FOR_ARCHIVING"
    type: Literal["image_retrieval"] = "image_retrieval"
    camera: str
    image: str
    sensor: str
    status_code: int
    description: str


class IngestRequest(_Message):
    """Archive Controller to OODS: files of one sensor are in the OODS area."""

    historical: ClassVar[str] = "XX_FILE_INGEST_REQUEST"
    type: Literal["ingest_request"] = "ingest_request"
    camera: str
    image: str
    sensor: str
    path: str


class ImageInOods(_Message):
    """OODS to Archiver: ingest result of one sensor, for imageInOODS."""

    historical: ClassVar[str] = "IMAGE_IN_OODS"
    type: Literal["image_in_oods"] = "image_in_oods"
    camera: str
    image: str
    sensor: str
    status_code: int
    description: str


#: What an envelope may hold.
SingleMessage = (
    Associated
    | AssociatedAck
    | HealthCheck
    | HealthCheckAck
    | NewArchiveItem
    | NewArchiveItemAck
    | EndReadout
    | HeaderReady
    | FileTransferCompleted
    | ImageRetrieval
    | IngestRequest
    | ImageInOods
)
#: Messages in one envelope at most; one that kills its receiver takes the others with it.
MOST_TOGETHER = 64


class Together(_Message):
    """Envelope: messages that go to one queue at one moment; each is done by itself.

    One message costs the broker as much as many. One that fails is sent again alone.
    """

    historical: ClassVar[str] = "none, each message by itself"
    type: Literal["together"] = "together"
    messages: tuple[Annotated[SingleMessage, Field(discriminator="type")], ...] = Field(
        min_length=2, max_length=MOST_TOGETHER
    )


Message = SingleMessage | Together


def in_envelopes(messages: Sequence[SingleMessage]) -> list[Message]:
    """Give messages for one queue as few, in their order; one alone stays as it is."""
    found: list[Message] = []
    for first in range(0, len(messages), MOST_TOGETHER):
        part = tuple(messages[first : first + MOST_TOGETHER])
        found.append(part[0] if len(part) == 1 else Together(messages=part))
    return found


def singles(message: Message) -> tuple[SingleMessage, ...]:
    """Give what is in an envelope, or the message itself."""
    return message.messages if isinstance(message, Together) else (message,)


_ADAPTER: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="type")])


def encode_message(message: Message) -> bytes:
    """Give the JSON body of a message."""
    return _ADAPTER.dump_json(message)


def decode_message(body: bytes) -> Message:
    """Read a JSON body.

    Raises
    ------
    MalformedMessageError
        The body is no known message. Do not retry; set it aside.
    """
    try:
        return _ADAPTER.validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise MalformedMessageError(
            "Message does not have a known shape",
            field=".".join(str(part) for part in first["loc"]),
            problem=first["msg"],
        ) from error
