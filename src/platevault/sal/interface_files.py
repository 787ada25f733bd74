"""The form of the interface files.

References
----------
`platevault.sal.schema` says what the files mean.
"""

from __future__ import annotations

from typing import Annotated, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from platevault.domain.errors import UsageError
from platevault.domain.samples import SalType

_ModelT = TypeVar("_ModelT", bound=BaseModel)
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class InterfaceFileError(UsageError):
    """An interface file is not as it must be: mend the named field of the named file."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class FieldText(_Part):
    """One field; ``count`` may name a size of the component."""

    type: SalType
    count: Annotated[int, Field(ge=1)] | str = 1
    units: str = "unitless"
    max_length: Annotated[int, Field(ge=0)] = 0
    enum: dict[str, int] = {}
    about: str = ""


class TopicText(_Part):
    """One topic, or a change to the topic of that name in a template."""

    about: str = ""
    without: list[str] = []
    fields: dict[str, FieldText | None] = {}


class TopicTexts(_Part):
    """Topics by family and short name; ``native`` ones are defined directly in Avro."""

    about: str = ""
    commands: dict[str, TopicText] = {}
    events: dict[str, TopicText] = {}
    telemetry: dict[str, TopicText] = {}
    native: dict[str, TopicText] = {}


class TemplateText(TopicTexts):
    """A file that components take over with ``like``."""

    template: str


class ComponentText(TopicTexts):
    """The file of one component."""

    component: str
    indexed: bool
    indices: dict[str, int] = {}
    generics: list[str]
    like: list[str] = []
    sizes: dict[str, Annotated[int, Field(ge=1)]] = {}
    fields: dict[str, FieldText] = {}

    @model_validator(mode="after")
    def _indices_need_an_index(self) -> Self:
        if self.indices and not self.indexed:
            raise ValueError("indices are given, but indexed is false")
        return self


class GenericsText(_Part):
    """The file of generic topics."""

    interface: str
    categories: dict[str, TopicTexts]


class SharedFieldsText(_Part):
    """The file of fields that several topics have."""

    fields: dict[str, FieldText]
    runs: dict[str, list[str]]


def parse_file(file: str, text: str, model: type[_ModelT]) -> _ModelT:
    """Read the text of one file; `InterfaceFileError` names the first thing that is wrong."""
    try:
        return model.model_validate(yaml.load(text, Loader=_LOADER))  # noqa: S506 (safe loaders)
    except yaml.YAMLError as error:
        raise InterfaceFileError("Not YAML", file=file, value=str(error)) from error
    except ValidationError as error:
        first = error.errors()[0]
        raise InterfaceFileError(
            "The interface file has an error",
            file=file,
            field=".".join(str(part) for part in first["loc"]),
            value=first["input"],
            expected=first["msg"],
        ) from error
