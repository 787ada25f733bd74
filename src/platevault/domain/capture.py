"""Codes and texts of the capture corridor.

References
----------
Status codes: capture contract, section 4. Text limit: interface of the archiver events.
"""

from __future__ import annotations

from enum import IntEnum

from platevault.domain.ids import SensorName
from platevault.domain.inventory import HeaderReference

#: Longest text of an event field [byte].
TEXT_LIMIT = 256
#: Order of work: boards of a running night before those of catch-up, answers before both.
PRIORITY_ANSWER = 9
PRIORITY_LIVE = 6
PRIORITY_CATCH_UP = 2
#: In place of a header object, once files of the exposure were written without one. It keeps the
#: choice for the whole exposure: all its files must describe it in the same words.
NO_HEADER = HeaderReference(url="none:", version=0)


class RetrievalStatus(IntEnum):
    """Final status of one sensor in ``imageRetrievalForArchiving``."""

    DONE = 0
    """Its file is durable in the archive."""
    HEADER_FAILED = 5610
    """No header came: the file was written without it, or waits for it."""
    PIXELS_FAILED = 5611
    """The pixels could not be read."""
    FILE_FAILED = 5612
    """The file could not be written."""


def shortened(text: str, *, limit_bytes: int = TEXT_LIMIT) -> str:
    """Cut a text to ``limit_bytes`` [byte] of UTF-8, on a character boundary."""
    encoded = text.encode("utf-8", errors="replace")
    if len(encoded) <= limit_bytes:
        return encoded.decode("utf-8")
    return encoded[:limit_bytes].decode("utf-8", errors="ignore")


def sensor_text(sensor: str, text: str) -> str:
    """Give a description that names raft and sensor first, within the limit."""
    name = SensorName.parse(sensor)
    return shortened(f"raft {name.raft} sensor {name.slot}: {text}")
