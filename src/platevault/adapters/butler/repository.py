"""Making and opening a Butler repository, and the meaning of what goes wrong with its database."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lsst.daf.butler import Butler, Config
from sqlalchemy import exc

from platevault.adapters.butler.configuration import (
    RAW_STORAGE_CLASS,
    STORAGE_CLASSES,
    Compatibility,
    RegistryAddressError,
    RepositoryMismatchError,
    RepositorySettings,
)
from platevault.adapters.butler.turns import RegistryTurns
from platevault.ports.ingest import CatalogueUnavailableError

_CONFIG = "butler.yaml"


@contextmanager
def database_errors(repository: Path) -> Iterator[None]:
    """Raise `CatalogueUnavailableError` for what time or an administrator heals."""
    try:
        yield
    except (exc.IntegrityError, exc.DataError, exc.ProgrammingError):
        raise
    except (exc.DBAPIError, exc.TimeoutError, exc.DisconnectionError, sqlite3.Error) as error:
        raise CatalogueUnavailableError(
            "Catalogue does not answer", repository=str(repository), error=str(error)
        ) from error


def open_butler(settings: RepositorySettings) -> Butler:
    """Open a repository for writing; make it first if there is none.

    Raises
    ------
    RepositoryMismatchError
        The directory holds something else, or a repository without our storage class.
    RegistryAddressError
        The settings name a database that cannot be used.
    CatalogueUnavailableError
        It cannot be reached now. Retry.
    """
    try:
        if not (settings.root / _CONFIG).exists():
            _make_repository_in_turn(settings)
        with database_errors(settings.root):
            butler = Butler.from_config(str(settings.root), writeable=True)
    except OSError as error:
        raise CatalogueUnavailableError(
            "Repository cannot be opened", repository=str(settings.root), error=str(error)
        ) from error
    if settings.compatibility is Compatibility.PLATEVAULT:
        _check_storage_class(settings.root)
    return butler


def _make_repository_in_turn(settings: RepositorySettings) -> None:
    turns = RegistryTurns(settings=settings)
    try:
        with _registry_address(settings), database_errors(settings.root), turns.turn("make"):
            if not (settings.root / _CONFIG).exists():
                _make_repository(settings)
    finally:
        turns.close()


@contextmanager
def _registry_address(settings: RepositorySettings) -> Iterator[None]:
    try:
        yield
    except (exc.ArgumentError, exc.NoSuchModuleError, ImportError, RuntimeError) as error:
        raise RegistryAddressError(
            "Registry cannot be made at this address",
            field="registry_url",
            namespace=settings.registry_namespace,
            error=str(error),
            expected="postgresql+psycopg://..., with pip install 'platevault[postgres]', of a"
            " database with the extension btree_gist and a namespace without tables",
        ) from error


def _make_repository(settings: RepositorySettings) -> None:
    """Make a repository whole or not at all, whoever else makes it at the same time."""
    root = settings.root
    root.parent.mkdir(parents=True, exist_ok=True)
    if root.exists() and any(root.iterdir()):
        raise RepositoryMismatchError(
            "Directory is not empty and no Butler repository", repository=str(root)
        )
    config = Config()
    if settings.registry_url:
        config["registry", "db"] = settings.registry_url
    if settings.registry_namespace:
        config["registry", "namespace"] = settings.registry_namespace
    if settings.checksum:
        config["datastore", "checksum"] = True
    for name, definition in STORAGE_CLASSES.items():
        config["storageClasses", name] = definition
    with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as scratch:
        # A part-made repository would look like a whole one, for its configuration comes first.
        fresh = Path(scratch) / root.name
        Butler.makeRepo(str(fresh), config=config)
        try:
            fresh.replace(root)
        except OSError:
            if not (root / _CONFIG).exists():
                raise
    _sync_directory(root.parent)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_storage_class(root: Path) -> None:
    config = Config(str(root / _CONFIG))
    if ("storageClasses", RAW_STORAGE_CLASS) not in config:
        raise RepositoryMismatchError(
            "Repository does not define the storage class of raw images",
            repository=str(root),
            field=f"storageClasses.{RAW_STORAGE_CLASS}",
            expected="compatibility: obs_lsst, or the definition in its butler.yaml",
        )
