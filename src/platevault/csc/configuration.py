"""Configuration of a component: files of a directory, laid over one another, then validated."""

from __future__ import annotations

import asyncio
import hashlib
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import yaml
from jsonschema import Draft7Validator
from pydantic import BaseModel, ValidationError

from platevault.domain.errors import UsageError

#: Names of overrides; a leading ``_`` marks files that are not for choosing.
_OVERRIDE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.(yaml|yml)")
#: References that git may be asked for: no option, no range.
_GIT_REF = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")
_INIT = "_init.yaml"
#: Longest wait for git [s, machine].
_GIT_LIMIT_S = 20.0


class ConfigurationError(UsageError):
    """The configuration is not as it must be: mend the named field of the named file."""


@dataclass(frozen=True, slots=True)
class Available:
    """What a configuration directory offers.

    Attributes
    ----------
    overrides
        Names of the files that ``start`` may name, sorted.
    version
        ``git describe`` of the directory, or a digest of its files.
    url
        Address of the directory.
    schema_version
        Version of the schema the files follow.
    """

    overrides: tuple[str, ...]
    version: str
    url: str
    schema_version: str


@dataclass(frozen=True, slots=True)
class Applied:
    """A configuration that was read and is valid.

    Attributes
    ----------
    settings
        Instance of the model, or a plain dictionary if there is a JSON schema.
    files
        Names of the files it was made of, in order.
    version, url, schema_version
        As in `Available`.
    """

    settings: Any
    files: tuple[str, ...]
    version: str
    url: str
    schema_version: str


class ConfigurationSource(Protocol):
    """Where a configurable component gets its settings."""

    async def available(self) -> Available:
        """Look what is on offer; `ConfigurationError` if the place cannot be read."""

    async def read(self, override: str) -> Applied:
        """Read, lay over and validate; ``override`` is ``file``, ``file:ref``, ``:ref`` or empty.

        Raises
        ------
        ConfigurationError
            Names file, field, value and what is expected. Nothing was applied.
        """


class ModelRule:
    """Validation by a pydantic model.

    Parameters
    ----------
    model
        The settings; unknown keys should be forbidden in it.
    version
        Version of the schema, such as ``v2``.
    """

    def __init__(self, *, model: type[BaseModel], version: str) -> None:
        self._model = model
        self.version = version

    def settings(self, merged: Mapping[str, Any], origin: Mapping[str, str]) -> BaseModel:
        """Make the settings; ``origin`` tells which file set each dotted field."""
        try:
            return self._model.model_validate(merged)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise _invalid(origin, field, first["input"], first["msg"]) from error


class SchemaRule:
    """Validation by a JSON schema, draft 7, whose title ends with `` v<version>``; no defaults.

    Parameters
    ----------
    schema
        The schema as a dictionary.
    """

    def __init__(self, *, schema: Mapping[str, Any]) -> None:
        self._schema = schema

    @property
    def version(self) -> str:
        """Last word of the title, such as ``v2``."""
        title = str(self._schema.get("title", ""))
        match = re.search(r" (v[^ ]+)$", title)
        if match is None:
            raise ConfigurationError(
                "The schema has no version", field="title", value=title, expected="... v<version>"
            )
        return match[1]

    def settings(self, merged: Mapping[str, Any], origin: Mapping[str, str]) -> dict[str, Any]:
        """Give a copy of ``merged`` if it is valid."""
        errors = sorted(
            Draft7Validator(self._schema).iter_errors(dict(merged)),
            key=lambda error: [str(part) for part in error.absolute_path],
        )
        if errors:
            first = errors[0]
            field = ".".join(str(part) for part in first.absolute_path)
            raise _invalid(origin, field, first.instance, first.message)
        return dict(merged)


class ConfigurationDirectory:
    """A directory ``<root>/<component>/<schema version>``, in git or not.

    Parameters
    ----------
    root
        Directory of the configurations of several components.
    component
        SAL component.
    site
        Its file ``_<site>.yaml`` is laid over ``_init.yaml`` if it is there.
    rule
        Validation.

    Notes
    -----
    Read in order: ``_init.yaml``, which must exist, ``_<site>.yaml``, the override. Later files
    replace values key by key, at every depth; the top-level key ``metadata`` is dropped.

    References
    ----------
    SAL over Kafka, section 11.
    """

    def __init__(
        self, *, root: Path, component: str, site: str, rule: ModelRule | SchemaRule
    ) -> None:
        self._root = root
        self._component = component
        self._site = site
        self._rule = rule
        self._known: tuple[object, str] = (None, "")

    @property
    def path(self) -> Path:
        """The directory of this component and schema version."""
        return self._root / self._component / self._rule.version

    async def available(self) -> Available:
        """Look what is on offer; `ConfigurationError` if the directory cannot be read."""
        return await asyncio.to_thread(self._available)

    async def read(self, override: str) -> Applied:
        """Read, lay over and validate; see `ConfigurationSource.read`."""
        return await asyncio.to_thread(self._read, override)

    def _available(self) -> Available:
        names = tuple(name for name in self._files() if _OVERRIDE.fullmatch(name))
        return Available(names, self._version(), self._url, self._rule.version)

    def _read(self, override: str) -> Applied:
        file, _, ref = override.partition(":")
        if file and not _OVERRIDE.fullmatch(file):
            raise ConfigurationError(
                "Not the name of an override",
                field="configurationOverride",
                value=override,
                expected=self._available().overrides,
            )
        if (ref or override.endswith(":")) and not _GIT_REF.fullmatch(ref):
            raise ConfigurationError(
                "Not a git reference", field="configurationOverride", value=override
            )
        merged: dict[str, Any] = {}
        origin: dict[str, str] = {}
        files = []
        for name, needed in ((_INIT, True), (f"_{self._site}.yaml", False), (file, True)):
            text = self._text(name, ref) if name else None
            if text is None:
                if name and needed:
                    raise ConfigurationError(
                        "The configuration file is not there",
                        file=str(self.path / name),
                        ref=ref,
                        expected=self._available().overrides if name == file else _INIT,
                    )
                continue
            files.append(name)
            _lay_over(merged, _parsed(name, text), name, origin, "")
        merged.pop("metadata", None)
        settings = self._rule.settings(merged, origin)
        version = ref or self._version()
        return Applied(settings, tuple(files), version, self._url, self._rule.version)

    @property
    def _url(self) -> str:
        return self.path.absolute().as_uri()

    def _files(self) -> list[str]:
        try:
            return sorted(entry.name for entry in self.path.iterdir() if entry.is_file())
        except OSError as error:
            raise ConfigurationError(
                "The configuration directory cannot be read",
                file=str(self.path),
                value=error.strerror,
            ) from error

    def _text(self, name: str, ref: str) -> str | None:
        if ref:
            return self._text_at(name, ref)
        try:
            return (self.path / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                "The configuration file cannot be read",
                file=str(self.path / name),
                value=str(error),
            ) from error

    def _text_at(self, name: str, ref: str) -> str | None:
        if self._git("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}") is None:
            raise ConfigurationError(
                "git does not know the reference", file=str(self.path), value=ref
            )
        return self._git("show", f"{ref}:./{name}")

    def _version(self) -> str:
        """Ask git, and without git make a digest; again only when a file or HEAD changed."""
        stamp = self._stamp()
        if stamp != self._known[0]:
            version = self._git("describe", "--all", "--long", "--always", "--dirty")
            self._known = (stamp, (version or self._digest()).strip())
        return self._known[1]

    def _stamp(self) -> object:
        files = [
            (name, status.st_mtime_ns, status.st_size)
            for name in self._files()
            for status in [(self.path / name).stat()]
        ]
        heads = [
            head.stat().st_mtime_ns
            for folder in (self.path, *self.path.parents)
            for head in (folder / ".git" / "HEAD", folder / ".git" / "logs" / "HEAD")
            if head.is_file()
        ]
        return files, heads

    def _digest(self) -> str:
        digest = hashlib.sha256()
        for name in self._files():
            digest.update(name.encode() + b"\0" + (self.path / name).read_bytes() + b"\0")
        return f"sha256:{digest.hexdigest()[:12]}"

    def _git(self, *arguments: str) -> str | None:
        """Run git in the directory; ``None`` if it is not there or says no."""
        try:
            done = subprocess.run(  # noqa: S603 (arguments are checked above; no shell)
                ["git", "-C", str(self.path), *arguments],  # noqa: S607 (the operator's git)
                capture_output=True,
                check=False,
                timeout=_GIT_LIMIT_S,
                text=True,
            )
        except FileNotFoundError:
            return None
        except subprocess.TimeoutExpired as error:
            raise ConfigurationError("git does not answer", file=str(self.path)) from error
        return done.stdout if done.returncode == 0 else None


def _parsed(name: str, text: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigurationError("Not YAML", file=name, value=str(error)) from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigurationError(
            "The file must hold named settings", file=name, value=content, expected="name: value"
        )
    return content


def _lay_over(
    merged: dict[str, Any],
    layer: Mapping[str, Any],
    file: str,
    origin: dict[str, str],
    prefix: str,
) -> None:
    for key, value in layer.items():
        field = f"{prefix}{key}"
        present = merged.get(key)
        if key in merged and isinstance(present, dict) != isinstance(value, dict):
            raise ConfigurationError(
                "A group of settings and a single value cannot replace each other",
                file=file,
                field=field,
                value=value,
                expected="a group" if isinstance(present, dict) else "a single value",
            )
        if isinstance(present, dict):
            _lay_over(present, value, file, origin, f"{field}.")
        elif isinstance(value, dict):
            merged[key] = {}
            origin[field] = file
            _lay_over(merged[key], value, file, origin, f"{field}.")
        else:
            merged[key] = value
            origin[field] = file


def _invalid(
    origin: Mapping[str, str], field: str, value: object, expected: str
) -> ConfigurationError:
    parts = field.split(".")
    nearest = next(
        (
            origin[".".join(parts[:length])]
            for length in range(len(parts), 0, -1)
            if ".".join(parts[:length]) in origin
        ),
        _INIT,
    )
    return ConfigurationError(
        "The configuration is not valid", file=nearest, field=field, value=value, expected=expected
    )
