"""Read the interface definitions and give the topics of each component.

The definitions are YAML files, one per component, in ``platevault/data/interfaces``; a site adds
or replaces components with files of the same form in a directory of its own. A file is one of:

* a component, ``<Component>.yaml``;
* a template, ``_<name>.yaml``: topics that components take over with ``like`` and may patch;
* ``_generics.yaml``: topics every component, or every component of a category, has;
* ``_fields.yaml``: fields named in more than one topic, and runs of them.

References
----------
Fields, types, units, enumerations: ts_xml 28.0.1, which has the same fields as 27.1.1 in the topics
used here. Archivers: the last revision of ts_xml that had them, before 2023-02-07, extended by
``configurable`` and ``exposureClosed``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources
from pathlib import Path

from platevault.domain.errors import UsageError
from platevault.domain.samples import FieldSchema, TopicKind, TopicSchema
from platevault.sal.avro import avro_schema, rev_code
from platevault.sal.interface_files import (
    ComponentText,
    FieldText,
    GenericsText,
    InterfaceFileError,
    SharedFieldsText,
    TemplateText,
    TopicText,
    TopicTexts,
    parse_file,
)

__all__ = [
    "ComponentInterface",
    "InterfaceFileError",
    "Interfaces",
    "UnknownComponentError",
    "UnknownTopicError",
    "avro_schema",
    "load_interfaces",
    "rev_code",
]

#: Description of the reply topic, part of its schema text (SAL over Kafka, section 5.3).
_ACKCMD_ABOUT = "Command acknowledgement"
#: Fields of the reply topic; the texts are part of the schema text (SAL over Kafka, section 5.3).
_ACKCMD_FIELDS = (
    FieldSchema("ack", "long", description="Acknowledgement code"),
    FieldSchema("error", "long", description="An error code; only relevant if ack=FAILED"),
    FieldSchema("result", "string", description="Message"),
    FieldSchema(
        "identity",
        "string",
        description="private_identity field of the command being acknowledged",
    ),
    FieldSchema(
        "origin", "long", description="private_origin field of the command being acknowledged"
    ),
    FieldSchema(
        "cmdtype",
        "long",
        description="Index of command in alphabetical list of commands, with 0 being the first",
    ),
    FieldSchema(
        "timeout",
        "double",
        units="second",
        description="Estimated remaining duration of command; only relevant if ack=INPROGRESS",
    ),
)
_FAMILY_KINDS = {
    "commands": TopicKind.COMMAND,
    "events": TopicKind.EVENT,
    "telemetry": TopicKind.TELEMETRY,
    "native": TopicKind.TELEMETRY,
}
_PREFIXES = {TopicKind.COMMAND: "command_", TopicKind.EVENT: "logevent_"}


class UnknownComponentError(UsageError):
    """No interface file names the component: mend the name, or add its file."""


class UnknownTopicError(UsageError):
    """The component has no such topic: mend the name."""


@dataclass(frozen=True)
class ComponentInterface:
    """The topics of one component.

    Attributes
    ----------
    name
        SAL component, such as ``CCArchiver``.
    description
        What it is, in few words.
    indexed
        It has instances told apart by salIndex.
    indices
        Known instances by name.
    topics
        Every topic by sal_name, ``ackcmd`` included.
    native
        sal_names of topics defined directly in Avro, with only the fields used here; on Kafka they
        are read with the writer's schema and never written.
    """

    name: str
    description: str
    indexed: bool
    indices: Mapping[str, int]
    topics: Mapping[str, TopicSchema]
    native: frozenset[str] = frozenset()

    @cached_property
    def commands(self) -> tuple[TopicSchema, ...]:
        """Command topics."""
        return self._of(TopicKind.COMMAND)

    @cached_property
    def events(self) -> tuple[TopicSchema, ...]:
        """Event topics."""
        return self._of(TopicKind.EVENT)

    @cached_property
    def telemetry(self) -> tuple[TopicSchema, ...]:
        """Telemetry topics, those defined directly in Avro included."""
        return self._of(TopicKind.TELEMETRY)

    @property
    def ackcmd(self) -> TopicSchema:
        """The reply topic."""
        return self.topics["ackcmd"]

    def topic(self, sal_name: str) -> TopicSchema:
        """Give a topic by its sal_name; `UnknownTopicError` if there is none."""
        try:
            return self.topics[sal_name]
        except KeyError:
            raise UnknownTopicError(
                "The component has no such topic", component=self.name, topic=sal_name
            ) from None

    def command(self, name: str) -> TopicSchema:
        """Give a command topic by its short name; `UnknownTopicError` if there is none."""
        return self.topic(f"command_{name}")

    def event(self, name: str) -> TopicSchema:
        """Give an event topic by its short name; `UnknownTopicError` if there is none."""
        return self.topic(f"logevent_{name}")

    def has(self, sal_name: str) -> bool:
        """Tell whether there is a topic of this sal_name."""
        return sal_name in self.topics

    @cached_property
    def command_types(self) -> Mapping[str, int]:
        """Number of each command topic for ``cmdtype``: its place among all sorted sal_names.

        References
        ----------
        SAL over Kafka, section 9: the field text says commands only, the clients count all topics.
        """
        own = sorted(set(self.topics) - self.native)
        return {name: place for place, name in enumerate(own) if name.startswith("command_")}

    def _of(self, kind: TopicKind) -> tuple[TopicSchema, ...]:
        return tuple(topic for topic in self.topics.values() if topic.kind is kind)


class Interfaces:
    """Every component that is known, by name.

    Parameters
    ----------
    version
        Interface package and version that the definitions follow.
    components
        Components by name.
    """

    def __init__(self, *, version: str, components: Mapping[str, ComponentInterface]) -> None:
        self.version = version
        self._components = components

    def __iter__(self) -> Iterator[str]:
        return iter(self._components)

    def __contains__(self, name: object) -> bool:
        return name in self._components

    def component(self, name: str) -> ComponentInterface:
        """Give a component; `UnknownComponentError` if no file names it."""
        try:
            return self._components[name]
        except KeyError:
            raise UnknownComponentError(
                "No such component", component=name, expected=sorted(self._components)
            ) from None

    def topic(self, component: str, sal_name: str) -> TopicSchema:
        """Give one topic of one component.

        Raises
        ------
        UnknownComponentError, UnknownTopicError
            Mend the name.
        """
        return self.component(component).topic(sal_name)


def load_interfaces(extra: Path | None = None) -> Interfaces:
    """Read every interface file; the caller keeps the result.

    Parameters
    ----------
    extra
        Directory of further ``.yaml`` files. A file there replaces the shipped one of the same
        name, so a site adds a component, or redefines one, without touching the package.

    Raises
    ------
    InterfaceFileError
        A file is not as it must be. Mend it; nothing was loaded.
    """
    texts = {
        entry.name: entry.read_text(encoding="utf-8")
        for entry in resources.files("platevault").joinpath("data", "interfaces").iterdir()
        if entry.name.endswith(".yaml")
    }
    if extra is not None:
        if not extra.is_dir():
            raise InterfaceFileError("The directory of interface files is not there", file=extra)
        texts |= {path.name: path.read_text(encoding="utf-8") for path in extra.glob("*.yaml")}
    return _Assembly(texts).interfaces()


class _Assembly:
    """Puts the files together."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._generics = parse_file("_generics.yaml", texts["_generics.yaml"], GenericsText)
        self._shared = parse_file("_fields.yaml", texts["_fields.yaml"], SharedFieldsText)
        rest = sorted(set(texts) - {"_generics.yaml", "_fields.yaml"})
        self._templates = {
            name: parse_file(name, texts[name], TemplateText)
            for name in rest
            if name.startswith("_")
        }
        self._components = {
            name: parse_file(name, texts[name], ComponentText)
            for name in rest
            if not name.startswith("_")
        }

    def interfaces(self) -> Interfaces:
        components = {}
        for file, text in self._components.items():
            if file != f"{text.component}.yaml":
                raise InterfaceFileError(
                    "The file is not named after its component",
                    file=file,
                    field="component",
                    value=text.component,
                    expected=file.removesuffix(".yaml"),
                )
            components[text.component] = self._component(file, text)
        return Interfaces(version=self._generics.interface, components=components)

    def _component(self, file: str, text: ComponentText) -> ComponentInterface:
        topics: dict[str, TopicSchema] = {}
        native: set[str] = set()
        for layer in self._layers(file, text):
            for family, kind in _FAMILY_KINDS.items():
                for name, topic in getattr(layer, family).items():
                    sal_name = _PREFIXES.get(kind, "") + name
                    base = topics.get(sal_name) or TopicSchema(
                        text.component, sal_name, kind, text.indexed, ()
                    )
                    topics[sal_name] = self._patched(file, text, base, topic)
                    if family == "native":
                        native.add(sal_name)
        topics["ackcmd"] = TopicSchema(
            text.component,
            "ackcmd",
            TopicKind.ACKCMD,
            text.indexed,
            _ACKCMD_FIELDS,
            _ACKCMD_ABOUT,
        )
        return ComponentInterface(
            text.component, text.about, text.indexed, text.indices, topics, frozenset(native)
        )

    def _layers(self, file: str, text: ComponentText) -> Iterator[TopicTexts]:
        categories = self._generics.categories
        single = categories["single"]
        for wanted in text.generics:
            if wanted in categories and wanted != "single":
                yield categories[wanted]
            elif wanted.startswith("command_") and wanted[8:] in single.commands:
                yield TopicTexts(commands={wanted[8:]: single.commands[wanted[8:]]})
            elif wanted.startswith("logevent_") and wanted[9:] in single.events:
                yield TopicTexts(events={wanted[9:]: single.events[wanted[9:]]})
            else:
                raise InterfaceFileError(
                    "No such generic category or topic",
                    file=file,
                    field="generics",
                    value=wanted,
                    expected=[
                        *(name for name in categories if name != "single"),
                        *(f"command_{name}" for name in single.commands),
                        *(f"logevent_{name}" for name in single.events),
                    ],
                )
        for name in text.like:
            template = self._templates.get(f"{name}.yaml")
            if template is None:
                raise InterfaceFileError(
                    "No such template",
                    file=file,
                    field="like",
                    value=name,
                    expected=[item.removesuffix(".yaml") for item in self._templates],
                )
            yield template
        yield text

    def _patched(
        self, file: str, text: ComponentText, base: TopicSchema, topic: TopicText
    ) -> TopicSchema:
        fields = {field.name: field for field in base.fields}
        for name in topic.without:
            if fields.pop(name, None) is None:
                raise InterfaceFileError(
                    "There is no such field to leave out",
                    file=file,
                    field=f"{base.sal_name}.without",
                    value=name,
                    expected=list(fields),
                )
        for name, own in self._spread(file, base, topic):
            fields[name] = self._field(file, text, base.sal_name, name, own)
        return replace(
            base, fields=tuple(fields.values()), description=topic.about or base.description
        )

    def _spread(
        self, file: str, base: TopicSchema, topic: TopicText
    ) -> Iterator[tuple[str, FieldText | None]]:
        for name, own in topic.fields.items():
            if not name.startswith("+"):
                yield name, own
                continue
            if name[1:] not in self._shared.runs or own is not None:
                raise InterfaceFileError(
                    "No such run of fields",
                    file=file,
                    field=f"{base.sal_name}.fields",
                    value=name,
                    expected=[f"+{run}:" for run in self._shared.runs],
                )
            for member in self._shared.runs[name[1:]]:
                yield member, None

    def _field(
        self, file: str, text: ComponentText, topic: str, name: str, own: FieldText | None
    ) -> FieldSchema:
        given = own or text.fields.get(name) or self._shared.fields.get(name)
        if given is None:
            raise InterfaceFileError(
                "The field has no definition, here or in _fields.yaml",
                file=file,
                field=f"{topic}.fields.{name}",
                value=None,
                expected="{type: ..., units: ..., about: ...}",
            )
        count = given.count
        if isinstance(count, str):
            if count not in text.sizes:
                raise InterfaceFileError(
                    "The component does not say this size",
                    file=file,
                    field=f"{topic}.fields.{name}.count",
                    value=count,
                    expected=sorted(text.sizes),
                )
            count = text.sizes[count]
        return FieldSchema(
            name, given.type, count, given.units, given.about, given.max_length, given.enum
        )
