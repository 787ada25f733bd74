"""What a repository is made with: where it is, whose names it records, its storage class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from platevault.domain.errors import UsageError

#: Name of the dataset type of raw images (raw-file contract, sec. 7).
RAW_DATASET_TYPE = "raw"
RAW_DIMENSIONS = ("instrument", "detector", "exposure")
#: Name of our storage class; not a general word, for all storage classes share one namespace.
RAW_STORAGE_CLASS = "PlatevaultRawImage"
#: Its definition in a repository's ``butler.yaml``.
STORAGE_CLASSES: Mapping[str, Any] = {
    "PlatevaultBox": {"pytype": "platevault.adapters.butler.raw_image.Box"},
    RAW_STORAGE_CLASS: {
        "pytype": "platevault.adapters.butler.raw_image.RawImage",
        "parameters": ["bbox"],
        "derivedComponents": {
            "metadata": "StructuredDataDict",
            "dimensions": "PlatevaultBox",
        },
    },
}
#: Storage class of raw images in obs_lsst.
OBS_STORAGE_CLASS = "Exposure"
#: Ids and names of visit systems (obs_base, visit definition).
ONE_TO_ONE = 0
BY_SEQ_START_END = 2
VISIT_SYSTEMS: Mapping[int, str] = {ONE_TO_ONE: "one-to-one", BY_SEQ_START_END: "by-seq-start-end"}


class Compatibility(StrEnum):
    """Whose names a repository records."""

    PLATEVAULT = "platevault"
    """Own storage class and formatter: ``butler.get`` works with pip packages alone."""
    OBS_LSST = "obs_lsst"
    """Those of obs_lsst: ``butler.get`` needs the LSST stack."""


class RepositoryMismatchError(UsageError):
    """The repository has other names than the settings say: mend the settings, or take another."""


class RegistryAddressError(UsageError):
    """The registry's address is wrong or its driver is not installed: mend the settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositorySettings:
    """Where the catalogue is and whose names it records.

    Attributes
    ----------
    root
        Directory of the repository; made if it is absent.
    compatibility
        Whose names to record.
    registry_url
        SQLAlchemy address of the registry, ``postgresql+psycopg://...``; empty is SQLite in
        ``root``.
    registry_namespace
        Schema within that database.
    checksum
        Let the Butler take its own checksum of each file; it reads every file for that.
    """

    root: Path
    compatibility: Compatibility = Compatibility.PLATEVAULT
    registry_url: str = ""
    registry_namespace: str = ""
    checksum: bool = False


@dataclass(frozen=True, slots=True)
class CataloguedFile:
    """What the Butler recorded of a file.

    Attributes
    ----------
    dataset_id
        UUID of the dataset.
    path
        Where it is.
    size_bytes
        Its size when it was ingested.
    checksum
        The Butler's own checksum (blake2b, hexadecimal); empty unless the repository takes it.
    """

    dataset_id: str
    path: Path
    size_bytes: int
    checksum: str = ""
