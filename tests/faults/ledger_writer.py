"""A process that writes a ledger without end and says what it was told is stored.

Lines on standard output, each written only after the call has returned: ``registered IMAGE``,
``begun IMAGE``, ``written IMAGE``; ``full`` when the disk is. Arguments: the ledger, the name of
this writer, and a limit of the size of files [byte], 0 for none.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sys
from dataclasses import replace
from itertools import count

from platevault.adapters.sqlite import SqliteFileLedger
from platevault.domain.inventory import Exposure
from platevault.domain.lifecycles import Destination, FileState
from platevault.ports.file_ledger import Change, LedgerFullError
from platevault.testing.exposures_contract import an_exposure, files_of


def _say(line: str) -> None:
    os.write(sys.stdout.fileno(), f"{line}\n".encode())


async def _take(ledger: SqliteFileLedger, exposure: Exposure, worker: str) -> None:
    keys = files_of(exposure)
    await ledger.register(exposure, files=keys, now_tai=1.0)
    _say(f"registered {exposure.image}")
    await ledger.begin(keys, Destination.ARCHIVE, worker=worker, fence=7, now_tai=2.0)
    _say(f"begun {exposure.image}")
    changes = [
        Change(key, Destination.ARCHIVE, FileState.WRITTEN, fence=7, digest="md5:aa")
        for key in keys
    ]
    await ledger.apply(changes, now_tai=3.0)
    _say(f"written {exposure.image}")


async def _write(path: str, worker: str) -> None:
    async with SqliteFileLedger(path, busy_timeout_s=20.0) as ledger:
        for start in count(1, 5):
            async with asyncio.TaskGroup() as group:
                for number in range(start, start + 5):
                    image = f"{worker}_O_20250415_{number:06d}"
                    exposure = replace(an_exposure(), image=image, exposure_id=number)
                    group.create_task(_take(ledger, exposure, worker))


async def _write_until_full(path: str, worker: str, limit: int) -> None:
    """Write until the disk is full; then get more room and write one more."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    async with SqliteFileLedger(path) as ledger:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            for number in count(1):
                image = f"{worker}_O_20250415_{number:06d}"
                await _take(ledger, replace(an_exposure(), image=image), worker)
        except LedgerFullError:
            _say("full")
        for _ in range(3):
            try:
                await _take(ledger, replace(an_exposure(), image="STILL_FULL"), worker)
            except LedgerFullError:
                _say("full")
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        await _take(ledger, replace(an_exposure(), image="MORE_ROOM"), worker)


def main() -> None:
    """Run as the arguments say."""
    path, worker, limit = sys.argv[1], sys.argv[2], int(sys.argv[3])
    if limit:
        asyncio.run(_write_until_full(path, worker, limit))
    else:
        asyncio.run(_write(path, worker))


if __name__ == "__main__":
    main()
