"""Schemas in hand: what a topic writes, and what a sample was written with."""

from __future__ import annotations

import asyncio

from platevault.adapters.kafka.codec import (
    AvroSchemaOf,
    TopicCodec,
    UndecodableSampleError,
    WriterSchema,
    parse_writer_schema,
    schema_id_of,
    subject_of,
)
from platevault.adapters.kafka.health import HealthBoard
from platevault.adapters.kafka.registry import (
    RegistryUnavailableError,
    SchemaRegistryClient,
    UnknownSchemaError,
)
from platevault.domain.errors import PermanentError
from platevault.domain.samples import Sample, TopicSchema
from platevault.ports.clock import Clock

#: Source of problems on the health board.
REGISTRY = "schema registry"
#: First and longest pause before a registry that does not answer is asked again [s].
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0


class SchemaBook:
    """Asks the registry once for each schema and remembers.

    Parameters
    ----------
    registry
        Who is asked.
    avro_schema
        Gives the Avro record of a topic.
    health
        Told whether the registry answers.
    clock
        Gives the moment of reception.
    """

    def __init__(
        self,
        *,
        registry: SchemaRegistryClient,
        avro_schema: AvroSchemaOf,
        health: HealthBoard,
        clock: Clock,
    ) -> None:
        self._registry = registry
        self._avro_schema = avro_schema
        self._health = health
        self._clock = clock
        self._codecs: dict[tuple[str, str], list[TopicCodec]] = {}
        self._ids: dict[tuple[str, str], int] = {}
        self._writers: dict[int, WriterSchema | PermanentError] = {}

    def codec(self, topic: TopicSchema) -> TopicCodec:
        """Give the codec of a topic."""
        known = self._codecs.setdefault((topic.component, topic.sal_name), [])
        for codec in known:
            if codec.topic is topic or codec.topic == topic:
                return codec
        codec = TopicCodec(topic, self._avro_schema(topic))
        known.append(codec)
        return codec

    async def id_to_write(self, name: str, topic: TopicSchema) -> int:
        """Give the id under which samples of a topic are written; the registry is asked once.

        Raises
        ------
        RegistryUnavailableError
            Retry.
        SchemaRefusedError, BusAccessError
            Do not retry.
        """
        codec = self.codec(topic)
        place = subject_of(name), codec.text
        schema_id = self._ids.get(place)
        if schema_id is None:
            try:
                schema_id = self._ids[place] = await self._registry.register(*place)
            except RegistryUnavailableError as error:
                self._health.bad(REGISTRY, str(error))
                raise
            self._health.good(REGISTRY)
            self._writers.setdefault(schema_id, parse_writer_schema(schema_id, codec.text))
        return schema_id

    def decode_known(self, topic: TopicSchema, value: bytes) -> Sample | None:
        """Give the sample of a message; ``None`` if the registry must be asked first.

        Raises
        ------
        UndecodableSampleError
            Skip it.
        """
        writer = self._writers.get(schema_id_of(value))
        if not isinstance(writer, WriterSchema):
            return None
        return self.codec(topic).decode(value, writer, self._clock.now_tai())

    async def decode(self, name: str, topic: TopicSchema, value: bytes) -> Sample:
        """Give the sample of a message; waits for a registry that does not answer.

        Raises
        ------
        UndecodableSampleError
            Skip it.
        BusAccessError
            The registry does not let us in. Do not retry.
        """
        received_tai = self._clock.now_tai()
        schema_id = schema_id_of(value)
        writer = self._writers.get(schema_id)
        if writer is None:
            writer = self._writers[schema_id] = await self._writer(schema_id, name)
        if isinstance(writer, PermanentError):
            raise UndecodableSampleError(
                "The sample's schema is of no use", schema_id=schema_id, reason=str(writer)
            )
        return self.codec(topic).decode(value, writer, received_tai)

    async def _writer(self, schema_id: int, name: str) -> WriterSchema | PermanentError:
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                text = await self._registry.schema(schema_id, subject_of(name))
                self._health.good(REGISTRY)
                return parse_writer_schema(schema_id, text)
            except RegistryUnavailableError as error:
                # A sample passed over now would be lost; the broker keeps what follows.
                self._health.bad(REGISTRY, str(error))
            except (UnknownSchemaError, UndecodableSampleError) as error:
                return error
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
