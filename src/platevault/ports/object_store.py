"""Objects by key, with a digest on every write: the large file annex, archive sites."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from platevault.domain.errors import IntegrityError, PermanentError, TransientError


class StoreUnavailableError(TransientError):
    """The store does not answer, or is full: retry; nothing has a final name."""


class ObjectMissingError(PermanentError):
    """There is no such object."""


class ObjectConflictError(IntegrityError):
    """Another object has the key: nothing was overwritten; keep both and tell a person."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object that is durable.

    Attributes
    ----------
    key
        Path within the store, ``/`` between its parts.
    url
        Address for consumers.
    size_bytes
        Size.
    md5
        MD5 of the contents, hexadecimal.
    """

    key: str
    url: str
    size_bytes: int
    md5: str


class ObjectStore(Protocol):
    """A store that never overwrites. Keys from outside are checked: no ``..``, no absolute path."""

    async def put_if_absent(self, key: str, data: bytes) -> StoredObject:
        """Store an object durably; the same contents again is success.

        Raises
        ------
        ObjectConflictError
            The key has other contents.
        StoreUnavailableError
            Nothing was stored under the key. Retry.
        """

    async def get(self, url: str) -> bytes:
        """Read an object by the address it was published under; `ObjectMissingError` if none."""

    async def stat(self, key: str) -> StoredObject | None:
        """Describe an object; ``None`` if there is none."""

    async def list(self, prefix: str = "") -> list[str]:
        """List keys that begin with ``prefix``, sorted."""

    async def delete(self, key: str) -> None:
        """Remove an object; nothing happens if there is none."""
