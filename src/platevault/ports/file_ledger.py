"""The one answer to "where is my image?": each file's state, places and digest."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from platevault.domain.errors import IntegrityError, PermanentError, TransientError
from platevault.domain.ids import FileKey
from platevault.domain.inventory import (
    AttemptRecord,
    Exposure,
    ExposureRecord,
    FileRecord,
    HeaderReference,
    ToldResult,
)
from platevault.domain.lifecycles import Destination, FileState


class LedgerUnavailableError(TransientError):
    """The database does not answer or is busy: retry; nothing was written.

    Only an adapter whose connection broke in the commit itself may not know; its subclass says so,
    and repeating the call is safe.
    """


class LedgerFullError(LedgerUnavailableError):
    """The database has no space left: alarm, retry when there is space; nothing was written."""


class UnknownExposureError(PermanentError):
    """The exposure was never registered: register it first."""


class ConflictingExposureError(IntegrityError):
    """The image name is taken by an exposure with other contents: touch nothing, tell a person."""


class StaleFenceError(PermanentError):
    """Somebody with a newer fencing number works on the file: stop, write nothing."""


class StateConflictError(PermanentError):
    """The file is not in a state from which the change is allowed: look again, then decide."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change of state of one file at one destination, by compare-and-set.

    Attributes
    ----------
    key, destination
        Which file, where.
    to
        New state. It must be reachable from the present one (`FILE_TRANSITIONS`) or equal it.
    fence
        Fencing number of the writer; 0 writes without a lease.
    path, size_bytes, digest
        Stored if given; ``None`` leaves what is there.
    degraded
        Stored if given.
    reason
        Why, if that needs saying.
    """

    key: FileKey
    destination: Destination
    to: FileState
    fence: int = 0
    path: str | None = None
    size_bytes: int | None = None
    digest: str | None = None
    degraded: bool | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Staged:
    """What an attempt has written under a temporary name.

    Attributes
    ----------
    key, destination, number
        Which attempt.
    path
        The temporary name.
    size_bytes, digest
        Of what is there.
    """

    key: FileKey
    destination: Destination
    number: int
    path: str
    size_bytes: int
    digest: str


class FileLedger(Protocol):
    """Exposures, their files at each destination, and every attempt.

    Each call is one durable transaction: when it returns the change survives kill -9 and power
    loss, when it raises nothing of it was written. Calls are safe from several processes.
    """

    async def register(
        self, exposure: Exposure, *, files: Collection[FileKey], now_tai: float
    ) -> bool:
        """Store an exposure and one `EXPECTED` row per file and destination.

        ``True`` if it is new, ``False`` if the same exposure was there.

        Raises
        ------
        ConflictingExposureError
            Another exposure has the name. Nothing was changed.
        """

    async def exposure(self, image: str) -> ExposureRecord | None:
        """Give one exposure, ``None`` if it was never registered."""

    async def exposures(
        self, *, camera: str = "", day_obs: int = 0, unfinished: bool = False
    ) -> list[ExposureRecord]:
        """List exposures by name; ``unfinished`` gives those with a file that is not done.

        Done is one of `platevault.domain.lifecycles.done_states`, or a settled state.
        """

    async def set_target(self, image: str, target_dir: str) -> str:
        """Store the archive directory once; give the one that is stored.

        This and the next two raise `UnknownExposureError` for an image never registered.
        """

    async def set_end_readout(self, image: str, end_readout_tai: float) -> None:
        """Store the end of readout [s, TAI], the first one told."""

    async def set_header(self, image: str, header: HeaderReference) -> None:
        """Store where the header is, unless a newer version is stored."""

    async def begin(
        self,
        keys: Sequence[FileKey],
        destination: Destination,
        *,
        worker: str,
        fence: int,
        now_tai: float,
    ) -> list[AttemptRecord]:
        """Open one attempt for each file and set it `SENDING`; all or none.

        Files that are done already get no attempt and are left out of the answer. An attempt
        that was still open is closed as ``lost``.

        Raises
        ------
        StaleFenceError
            A newer fence is stored for one of them.
        StateConflictError
            One of them is in a state that allows no work.
        """

    async def stage(self, staged: Sequence[Staged]) -> None:
        """Store temporary names, sizes and digests, before files are linked; all or none.

        Of several for one attempt the last is stored.

        Raises
        ------
        StaleFenceError
            A newer attempt closed one of them as ``lost``.
        StateConflictError
            One of them is no attempt, or has ended.
        """

    async def apply(self, changes: Sequence[Change], *, now_tai: float) -> None:
        """Change states, all or none; an open attempt of each file is closed with it.

        A change to the destination's done state, `SENT` or `VERIFIED` closes it as ``done``; to
        `RETRY`, `DEAD` or `READY` as ``failed`` with the change's reason; to `SENDING` leaves it
        open. A change that is already in place (same state, same digest, and a digest is given)
        succeeds again, even under an older fence: nothing is written then.

        Raises
        ------
        StaleFenceError
            A newer fence is stored for one of them.
        StateConflictError
            One of them was never registered, may not go to its new state, or is in that state
            with another digest.
        """

    async def files(
        self,
        *,
        image: str = "",
        sensors: Collection[str] = (),
        destination: Destination | None = None,
        states: Collection[FileState] = (),
    ) -> list[FileRecord]:
        """List files by image, sensor, kind, destination; no condition lists all.

        ``sensors`` narrows what an image has, and is of use with an image alone.
        """

    async def attempts(self, image: str) -> list[AttemptRecord]:
        """List every attempt of an image, oldest first."""

    async def set_told(self, image: str, result: ToldResult, *, now_tai: float) -> None:
        """Store that a result was published; again is success.

        Raises `UnknownExposureError` for an image never registered.
        """

    async def told(self, image: str) -> list[ToldResult]:
        """List the results of an image that were published, sorted."""
