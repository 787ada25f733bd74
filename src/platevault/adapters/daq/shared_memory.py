"""Words of a board out of the memory of a store on this host."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from platevault.domain.daq_protocol import MemoryPlace
from platevault.domain.errors import UsageError

#: A file that another process holds open (proc(5)).
_PATH = re.compile(r"/proc/[1-9][0-9]*/fd/[0-9]+")
#: How the kernel calls files without a name (memfd_create(2)).
_NAMELESS = "/memfd:"
#: Copied by one call of the system [byte].
_PIECE_BYTES = 16 << 20


class MemoryUnreachableError(UsageError):
    """The memory is not ours to read, as in another container: let the words be sent."""


def copy_from_memory(place: MemoryPlace, into: memoryview) -> None:
    """Copy words; it takes milliseconds and lets other threads run.

    Parameters
    ----------
    place
        Where the store says that they are.
    into
        Bytes to fill, ``place.size_bytes`` of them.

    Raises
    ------
    MemoryUnreachableError
        The place is no memory of a process of the same user, or is too small.
    """
    if _PATH.fullmatch(place.path) is None:
        raise MemoryUnreachableError("No path of shared memory", value=place.path)
    try:
        file = os.open(place.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise MemoryUnreachableError(
            "Shared memory cannot be opened", path=place.path, reason=error.strerror
        ) from error
    try:
        found = os.fstat(file)
        ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()
        if not ours or not str(Path(place.path).readlink()).startswith(_NAMELESS):
            raise MemoryUnreachableError("The path is no shared memory of ours", path=place.path)
        filled = 0
        while filled < len(into):
            piece = into[filled : filled + _PIECE_BYTES]
            size = os.preadv(file, [piece], place.offset_bytes + filled)
            if size == 0:
                raise MemoryUnreachableError(
                    "Shared memory ends too early",
                    path=place.path,
                    size_bytes=found.st_size,
                    expected=place.offset_bytes + len(into),
                )
            filled += size
    except OSError as error:
        raise MemoryUnreachableError(
            "Shared memory cannot be read", path=place.path, reason=error.strerror
        ) from error
    finally:
        os.close(file)
