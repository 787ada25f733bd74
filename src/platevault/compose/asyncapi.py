"""The messages between services as an AsyncAPI 3 document, made from their definitions.

``python -m platevault.compose.asyncapi docs/reference/messages`` writes it anew.

References
----------
AsyncAPI specification 3.0.0; AMQP bindings 0.3.0. Historical queues: capture contract, section 2.2.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel

from platevault.domain import places
from platevault.domain.capture import PRIORITY_ANSWER, PRIORITY_CATCH_UP, PRIORITY_LIVE
from platevault.domain.messages import (
    Associated,
    AssociatedAck,
    EndReadout,
    FileTransferCompleted,
    HeaderReady,
    HealthCheck,
    HealthCheckAck,
    ImageInOods,
    ImageRetrieval,
    IngestRequest,
    Message,
    NewArchiveItem,
    NewArchiveItemAck,
    SingleMessage,
    Together,
)

#: Version of the messages: the first part changes when a receiver of the old cannot read the new.
MESSAGES_VERSION = "2.0.0"
#: Names of the files that `write_document` makes.
DOCUMENT, PAGE = "asyncapi.yaml", "index.md"

_ARCHIVER, _CONTROLLER = "Archiver", "Archive Controller"
_FORWARDER, _OODS = "Forwarder", "OODS"


@dataclass(frozen=True, kw_only=True)
class Queue:
    """A queue of the port, and who speaks on it.

    Attributes
    ----------
    name
        By which the document names it.
    address
        Name on the broker; parameters in braces.
    receiver
        Who takes from it.
    historical
        Queues that had its part in the historical protocol.
    meaning
        What it is for.
    senders
        Who sends which messages.
    """

    name: str
    address: str
    receiver: str
    historical: str
    meaning: str
    senders: Mapping[str, Sequence[type[BaseModel]]]


QUEUES = (
    Queue(
        name="archive_controller",
        address=places.ARCHIVE_CONTROLLER_QUEUE,
        receiver=_CONTROLLER,
        historical="archive_ctrl_consume",
        meaning="Requests to the Archive Controller, and files that are ready for delivery.",
        senders={
            _ARCHIVER: (HealthCheck, NewArchiveItem),
            _FORWARDER: (FileTransferCompleted, Together),
        },
    ),
    Queue(
        name="boards",
        address=places.work_queue("{camera}"),
        receiver=_FORWARDER,
        historical="the queue of each Forwarder's registration (f99_consume)",
        meaning="Boards to read and write; every Forwarder that is paired for the camera takes.",
        senders={_ARCHIVER: (EndReadout,)},
    ),
    Queue(
        name="forwarder",
        address=places.forwarder_queue("{name}"),
        receiver=_FORWARDER,
        historical="the queue of each Forwarder's registration (f99_consume)",
        meaning="What concerns one Forwarder alone.",
        senders={_ARCHIVER: (Associated, HeaderReady)},
    ),
    Queue(
        name="archiver",
        address=places.archiver_queue("{camera}"),
        receiver=_ARCHIVER,
        historical="*_foreman_ack_publish, archive_ctrl_publish, telemetry_queue, "
        "oods_publish_to_*",
        meaning="Answers and results for the Archiver of a camera.",
        senders={
            _FORWARDER: (AssociatedAck, ImageRetrieval, Together),
            _CONTROLLER: (HealthCheckAck, NewArchiveItemAck, ImageInOods),
            _OODS: (ImageInOods, Together),
        },
    ),
    Queue(
        name="oods",
        address=places.oods_queue("{camera}"),
        receiver=_OODS,
        historical="*_publish_to_oods",
        meaning="Files that the OODS shall catalogue.",
        senders={_CONTROLLER: (IngestRequest, Together)},
    ),
)

#: Which message answers which.
_ANSWERS: Mapping[type[BaseModel], type[BaseModel]] = {
    Associated: AssociatedAck,
    HealthCheck: HealthCheckAck,
    NewArchiveItem: NewArchiveItemAck,
}
_PARAMETERS = {
    "camera": "Camera name, such as LSSTComCam.",
    "name": "Name of the Forwarder, as it is present.",
}
_DESCRIPTION = f"""\
Each queue has one kind of receiver, delivers at least once, and keeps messages through a restart
of the broker. Every message is idempotent: receiving it twice does no harm, and the ledger, not a
message, says what is to be done. A body that has not this shape goes to the dead letters.
Priorities: {PRIORITY_ANSWER} for requests and answers, {PRIORITY_LIVE} for boards just read out,
{PRIORITY_CATCH_UP} for boards of former exposures, 0 for results."""


def asyncapi_document() -> dict[str, Any]:
    """Make the document."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Platevault messages",
            "version": MESSAGES_VERSION,
            "description": _DESCRIPTION,
            "license": {"name": "BSD-3-Clause"},
        },
        "defaultContentType": "application/json",
        "channels": {queue.name: _channel(queue) for queue in QUEUES},
        "operations": dict(
            _operation(queue, sender, message)
            for queue in QUEUES
            for sender, messages in queue.senders.items()
            for message in messages
        ),
        "components": {"messages": {_type(one): _message(one) for one in message_classes()}},
    }


def message_classes() -> tuple[type[BaseModel], ...]:
    """List the definitions of all messages."""
    return get_args(Message)


def format_document() -> str:
    """Give the document as YAML."""
    return yaml.safe_dump(asyncapi_document(), sort_keys=False, allow_unicode=True, width=100)


def format_page() -> str:
    """Give a page for people."""
    lines = [
        "# Messages between services",
        "",
        f"The [AsyncAPI document]({DOCUMENT}) has every field.",
        "",
        _DESCRIPTION,
        "",
        "## Queues",
        "",
        "| queue | from | to | messages | historical queues |",
        "|---|---|---|---|---|",
    ]
    for queue in QUEUES:
        for sender, messages in queue.senders.items():
            names = ", ".join(f"`{_type(one)}`" for one in messages)
            lines.append(
                f"| `{queue.address}` | {sender} | {queue.receiver} | {names} "
                f"| {queue.historical.replace('*', chr(92) + '*')} |"
            )
    lines += [
        "",
        "## Meanings",
        "",
        "| message | historical type | meaning | fields |",
        "|---|---|---|---|",
    ]
    for one in message_classes():
        fields = ", ".join(f"`{name}`" for name in one.model_fields if name != "type")
        lines.append(f"| `{_type(one)}` | `{_historical(one)}` | {_summary(one)} | {fields} |")
    return "\n".join([*lines, ""])


def write_document(directory: Path) -> None:
    """Write document and page into ``directory``."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / DOCUMENT).write_text(format_document(), encoding="utf-8")
    (directory / PAGE).write_text(format_page(), encoding="utf-8")


def _channel(queue: Queue) -> dict[str, Any]:
    names = sorted({_type(one) for messages in queue.senders.values() for one in messages})
    channel: dict[str, Any] = {
        "address": queue.address,
        "summary": queue.meaning,
        "description": f"Taken by: {queue.receiver}. Historical: {queue.historical}.",
        "messages": {name: _reference("components", "messages", name) for name in names},
    }
    parameters = {
        name: {"description": text}
        for name, text in _PARAMETERS.items()
        if f"{{{name}}}" in queue.address
    }
    if parameters:
        channel["parameters"] = parameters
    channel["bindings"] = {
        "amqp": {
            "is": "queue",
            "queue": {
                "name": queue.address,
                "durable": True,
                "exclusive": False,
                "autoDelete": False,
            },
            "bindingVersion": "0.3.0",
        }
    }
    return channel


def _operation(queue: Queue, sender: str, message: type[BaseModel]) -> tuple[str, dict[str, Any]]:
    name = _type(message)
    operation: dict[str, Any] = {
        "action": "send",
        "channel": _reference("channels", queue.name),
        "summary": f"{sender} to {queue.receiver}.",
        "messages": [_reference("channels", queue.name, "messages", name)],
        "bindings": {
            "amqp": {
                "deliveryMode": 2,
                "mandatory": True,
                "ack": True,
                "bindingVersion": "0.3.0",
            }
        },
    }
    answer = _ANSWERS.get(message)
    if answer is not None:
        operation["reply"] = {
            "address": {"location": "$message.payload#/reply_queue"},
            "channel": _reference("channels", "archiver"),
            "messages": [_reference("channels", "archiver", "messages", _type(answer))],
        }
    what = f"{name}_to_{queue.receiver}" if message is Together else name
    return f"{sender}_sends_{what}".lower().replace(" ", "_"), operation


def _message(message: type[BaseModel]) -> dict[str, Any]:
    schema = message.model_json_schema()
    schema.pop("description", None)
    if schema.pop("$defs", None) is not None:
        schema["properties"]["messages"]["items"] = {
            "oneOf": [
                _reference("components", "messages", _type(one), "payload")
                for one in get_args(SingleMessage)
            ]
        }
    return {
        "name": _type(message),
        "title": message.__name__,
        "summary": _summary(message),
        "description": inspect.cleandoc(message.__doc__ or ""),
        "contentType": "application/json",
        "payload": schema,
        "x-historical-type": _historical(message),
    }


def _type(message: type[BaseModel]) -> str:
    return str(message.model_fields["type"].default)


def _historical(message: type[BaseModel]) -> str:
    return str(getattr(message, "historical", ""))


def _summary(message: type[BaseModel]) -> str:
    return inspect.cleandoc(message.__doc__ or "").split("\n\n", maxsplit=1)[0].replace("``", "`")


def _reference(*parts: str) -> dict[str, str]:
    return {"$ref": "#/" + "/".join(parts)}


if __name__ == "__main__":
    write_document(Path(sys.argv[1]))
