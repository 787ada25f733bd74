"""Subjects, versions and ids of schemas, kept in a file of lines."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastavro.schema import SchemaParseException, UnknownType, parse_schema

from platevault.adapters.schema_registry.compatibility import backward_problems
from platevault.domain.errors import PermanentError, UsageError

#: Error codes of the dialect: subject, version and schema not found; schema not usable; schema not
#: compatible (Confluent Schema Registry API reference, "Errors").
SUBJECT_NOT_FOUND = 40401
VERSION_NOT_FOUND = 40402
SCHEMA_NOT_FOUND = 40403
SUBJECT_SOFT_DELETED = 40404
SUBJECT_NOT_SOFT_DELETED = 40405
INVALID_SCHEMA = 42201
INVALID_VERSION = 42202
INCOMPATIBLE_SCHEMA = 409


class SchemaStoreError(UsageError):
    """The file of schemas cannot be read: restore it; nothing was changed."""


class RegistryRefusalError(PermanentError):
    """The request cannot be met.

    Parameters
    ----------
    code
        Error code of the dialect; its first three digits are the HTTP status.
    message
        Text for the caller.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message, code=code)
        self.code = code


@dataclass(frozen=True, slots=True)
class Registered:
    """One schema under one subject.

    Attributes
    ----------
    subject, version, schema_id, schema
        Where it is known and its text.
    deleted
        Hidden from readers of the subject; its id still answers.
    """

    subject: str
    version: int
    schema_id: int
    schema: str
    deleted: bool = False


class SchemaStore:
    """What a registry remembers.

    Parameters
    ----------
    file
        Lines of JSON, one per change, each durable before it is answered; ``None`` keeps it all in
        memory.
    check_compatibility
        Refuse a schema with which readers cannot read what was written under the newest one.
    """

    def __init__(self, file: Path | None = None, *, check_compatibility: bool = True) -> None:
        self._file = file
        self._check = check_compatibility
        self._ids: dict[str, int] = {}
        self._texts: dict[int, str] = {}
        self._subjects: dict[str, list[Registered]] = {}

    @property
    def compatibility(self) -> str:
        """Level of the check, in the words of the dialect."""
        return "BACKWARD" if self._check else "NONE"

    def load(self) -> None:
        """Read the file; a last line without its end was never answered and is dropped.

        Raises
        ------
        SchemaStoreError
            Another line means nothing.
        """
        if self._file is None or not self._file.exists():
            return
        data = self._file.read_bytes()
        whole, _, torn = data.rpartition(b"\n")
        if torn:
            with self._file.open("r+b") as stream:
                stream.truncate(len(data) - len(torn))
                os.fsync(stream.fileno())
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                self._apply(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise SchemaStoreError(
                    "A line of the schema file means nothing", file=str(self._file), line=number
                ) from error

    def register(self, subject: str, schema: str) -> Registered:
        """Give the schema's place under the subject, making it if there is none; idempotent.

        Raises
        ------
        RegistryRefusalError
            It is no schema, or not compatible with the newest version. Nothing was stored.
        """
        text = canonical(schema)
        known = self._live(subject)
        for entry in known:
            if entry.schema == text:
                return entry
        if known and self._check:
            problems = backward_problems(json.loads(known[-1].schema), json.loads(text))
            if problems:
                raise RegistryRefusalError(
                    INCOMPATIBLE_SCHEMA,
                    f"Schema being registered is incompatible with version {known[-1].version} of "
                    f'subject "{subject}": {"; ".join(problems)}',
                )
        entry = Registered(
            subject,
            max((entry.version for entry in self._subjects.get(subject, ())), default=0) + 1,
            self._ids.get(text, len(self._texts) + 1),
            text,
        )
        self._change(
            {
                "op": "register",
                "subject": subject,
                "version": entry.version,
                "id": entry.schema_id,
                "schema": text,
            }
        )
        return entry

    def find(self, subject: str, schema: str) -> Registered:
        """Give the schema's place under the subject; `RegistryRefusalError` if it has none."""
        text = canonical(schema)
        for entry in self._known(subject):
            if entry.schema == text:
                return entry
        raise RegistryRefusalError(SCHEMA_NOT_FOUND, "Schema not found")

    def schema(self, schema_id: int) -> str:
        """Give the text of an id; `RegistryRefusalError` if there is none."""
        try:
            return self._texts[schema_id]
        except KeyError:
            raise RegistryRefusalError(SCHEMA_NOT_FOUND, f"Schema {schema_id} not found") from None

    def places(self, schema_id: int) -> list[Registered]:
        """Give every place of an id; `RegistryRefusalError` if there is no such id."""
        self.schema(schema_id)
        return [
            entry
            for entries in self._subjects.values()
            for entry in entries
            if entry.schema_id == schema_id and not entry.deleted
        ]

    def subjects(self) -> list[str]:
        """Give the names of the subjects that are not deleted."""
        return sorted(subject for subject in self._subjects if self._live(subject))

    def versions(self, subject: str) -> list[int]:
        """Give the versions of a subject; `RegistryRefusalError` if it is not there."""
        return [entry.version for entry in self._known(subject)]

    def version(self, subject: str, version: str) -> Registered:
        """Give one version, or ``latest``; `RegistryRefusalError` if it is not there."""
        known = self._known(subject)
        if version in {"latest", "-1"}:
            return known[-1]
        if not version.isdecimal():
            raise RegistryRefusalError(INVALID_VERSION, f"The version {version} is not valid")
        for entry in known:
            if entry.version == int(version):
                return entry
        raise RegistryRefusalError(VERSION_NOT_FOUND, f"Version {version} not found")

    def delete(self, subject: str, *, permanent: bool) -> list[int]:
        """Hide a subject, or forget one that is hidden; give its versions.

        Raises
        ------
        RegistryRefusalError
            It is not there, hidden already, or not hidden before it is forgotten.
        """
        entries = self._subjects.get(subject)
        if not entries:
            raise RegistryRefusalError(SUBJECT_NOT_FOUND, f"Subject '{subject}' not found")
        live = self._live(subject)
        if permanent and live:
            raise RegistryRefusalError(
                SUBJECT_NOT_SOFT_DELETED, f"Subject '{subject}' was not deleted first"
            )
        if not permanent and not live:
            raise RegistryRefusalError(
                SUBJECT_SOFT_DELETED, f"Subject '{subject}' was soft deleted"
            )
        versions = [entry.version for entry in (entries if permanent else live)]
        self._change({"op": "forget" if permanent else "hide", "subject": subject})
        return versions

    def _live(self, subject: str) -> list[Registered]:
        return [entry for entry in self._subjects.get(subject, ()) if not entry.deleted]

    def _known(self, subject: str) -> list[Registered]:
        live = self._live(subject)
        if not live:
            raise RegistryRefusalError(SUBJECT_NOT_FOUND, f"Subject '{subject}' not found")
        return live

    def _change(self, change: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("ab") as stream:
                stream.write(json.dumps(change).encode() + b"\n")
                stream.flush()
                os.fsync(stream.fileno())
        self._apply(change)

    def _apply(self, change: dict[str, Any]) -> None:
        subject = str(change["subject"])
        match change["op"]:
            case "register":
                entry = Registered(
                    subject, int(change["version"]), int(change["id"]), str(change["schema"])
                )
                self._ids[entry.schema] = entry.schema_id
                self._texts[entry.schema_id] = entry.schema
                self._subjects.setdefault(subject, []).append(entry)
            case "hide":
                self._subjects[subject] = [
                    Registered(
                        entry.subject, entry.version, entry.schema_id, entry.schema, deleted=True
                    )
                    for entry in self._subjects[subject]
                ]
            case "forget":
                del self._subjects[subject]
            case other:
                raise ValueError(f"unknown change {other!r}")

    def __iter__(self) -> Iterator[Registered]:
        for entries in self._subjects.values():
            yield from entries


def canonical(schema: str) -> str:
    """Give the text without space between its parts, all keys kept and in their order.

    Raises
    ------
    RegistryRefusalError
        It is no Avro schema.
    """
    try:
        parsed = json.loads(schema)
        parse_schema(parsed)
    except (ValueError, SchemaParseException, UnknownType, KeyError, TypeError) as error:
        raise RegistryRefusalError(INVALID_SCHEMA, f"Invalid schema: {error}") from error
    return json.dumps(parsed, separators=(",", ":"))
