"""Lines of JSON between the process that has the bus and one that borrows it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from platevault.domain.errors import PermanentError
from platevault.domain.samples import Sample, TopicSchema

#: Longest line [byte]; a sample of the largest topic (LSSTCam focal plane) takes about 100 kB.
LINE_LIMIT = 4 << 20


class LinkMissingError(PermanentError):
    """No process lends its bus there: start one, or check the root."""


class MalformedLineError(PermanentError):
    """The other side sent a line that means nothing: the connection is closed."""


@dataclass(frozen=True, slots=True)
class LinkAddress:
    """Where a bus is lent, and the secret that its borrowers must know.

    Attributes
    ----------
    port
        TCP port on the loopback interface.
    token
        Secret of this run, known to whoever may read the address file.
    """

    port: int
    token: str

    def write(self, file: Path) -> None:
        """Store the address for borrowers, readable by this user alone."""
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f".{file.name}.{os.getpid()}.new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            json.dump({"port": self.port, "token": self.token}, stream)
        temporary.replace(file)

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read the address of a bus; `LinkMissingError` if there is none."""
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            return cls(int(content["port"]), str(content["token"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise LinkMissingError(
                "No running process lends its bus here", file=str(file)
            ) from error


def encode_line(content: Mapping[str, Any]) -> bytes:
    """Give one line."""
    return json.dumps(content, separators=(",", ":")).encode() + b"\n"


def decode_line(line: bytes) -> dict[str, Any]:
    """Read one line; `MalformedLineError` if it is no JSON object."""
    try:
        content = json.loads(line)
    except ValueError as error:
        raise MalformedLineError("Line is not JSON", size_bytes=len(line)) from error
    if not isinstance(content, dict):
        raise MalformedLineError("Line is no object", size_bytes=len(line))
    return content


def plain_sample(sample: Sample) -> dict[str, Any]:
    """Give a sample as plain data; the topic by its name alone."""
    return {
        "component": sample.topic.component,
        "sal_name": sample.topic.sal_name,
        "fields": dict(sample.fields),
        "sal_index": sample.sal_index,
        "sent_tai": sample.sent_tai,
        "received_tai": sample.received_tai,
        "sequence": sample.sequence,
        "identity": sample.identity,
        "origin": sample.origin,
        "rev_code": sample.rev_code,
    }


def sample_of(content: Mapping[str, Any], topic: TopicSchema) -> Sample:
    """Read a sample of a topic; `MalformedLineError` if something is missing."""
    try:
        return Sample(
            topic=topic,
            fields=dict(content["fields"]),
            sal_index=int(content["sal_index"]),
            sent_tai=float(content["sent_tai"]),
            received_tai=float(content["received_tai"]),
            sequence=int(content["sequence"]),
            identity=str(content["identity"]),
            origin=int(content["origin"]),
            rev_code=str(content["rev_code"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise MalformedLineError(
            "Sample cannot be read", topic=topic.sal_name, problem=str(error)
        ) from error
