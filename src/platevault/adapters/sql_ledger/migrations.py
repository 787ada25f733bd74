"""The numbered steps of a ledger's schema."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema.

    Attributes
    ----------
    version
        From 1, without gaps.
    name
        What it brings.
    script
        SQL statements.
    """

    version: int
    name: str
    script: str


def read_migrations(database: str) -> list[Migration]:
    """Read the steps that this release knows for a database (``sqlite``, ...), in order."""
    folder = resources.files("platevault") / "data" / "migrations" / database
    steps = []
    for entry in folder.iterdir():
        if entry.name.endswith(".sql"):
            number, _, name = entry.name.removesuffix(".sql").partition("_")
            steps.append(Migration(int(number), name, entry.read_text(encoding="utf-8")))
    return sorted(steps, key=lambda step: step.version)
