"""Topics on the brokers: made where they are missing, and how far they reach."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]
from confluent_kafka.cimpl import NewTopic

from platevault.adapters.kafka.codec import topic_name
from platevault.adapters.kafka.errors import error_of, problem_of
from platevault.adapters.kafka.settings import KafkaSettings
from platevault.domain.errors import UsageError
from platevault.domain.samples import TopicKind, TopicSchema
from platevault.ports.sample_bus import BusUnavailableError

#: Pause before a broker is asked again that does not know its own topic yet [s].
_PAUSE_S = 0.05
#: After so many probes without an answer another client is made.
_LOST_AFTER = 4
#: Said of a topic that is there but not yet in everybody's view.
_NOT_YET = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001 (librdkafka's own codes have this form)
        KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.FENCED_LEADER_EPOCH,
    }
)


class TopicDirectory:
    """Knows which topics are there.

    Parameters
    ----------
    settings
        Where the brokers are.
    """

    def __init__(self, *, settings: KafkaSettings) -> None:
        self._settings = settings
        self._admin: AdminClient | None = None
        self._options: dict[str, Any] = {}
        self._unanswered = 0
        self._there: set[str] = set()

    def open(self, **callbacks: Any) -> None:
        """Make the client; it connects when it is used."""
        self._options = {**self._settings.client(), **callbacks}
        self._admin = AdminClient(self._options)

    def close(self) -> None:
        """Let the client go."""
        self._admin = None

    def poll(self) -> None:
        """Let the client tell its news."""
        if self._admin is not None:
            self._admin.poll(0)

    def forget(self, name: str) -> None:
        """Look again, when the topic is used next, whether it is there."""
        self._there.discard(name)

    async def probe(self, within_s: float) -> None:
        """Return if a broker answers; `BusUnavailableError` if not.

        Notes
        -----
        It asks for a topic that nobody has. To describe the cluster would be simpler, but the reply
        of a broker that is about to end names no broker, and aborts the process (librdkafka 2.16.0,
        assertion in ``rd_kafka_admin_response_parse``). Upon such replies a client may also forget
        its brokers for good (librdkafka, issue 5301), so one that hears nothing is replaced.
        """
        asked = self._client.describe_topics(
            TopicCollection([f"lsst.{self._settings.subname}.probe"]), request_timeout=within_s
        )
        try:
            for future in asked.values():
                await _result(
                    future,
                    "The broker does not answer",
                    patient=True,
                    accept=KafkaError.TOPIC_AUTHORIZATION_FAILED,
                )
        except BusUnavailableError:
            self._unanswered += 1
            if self._unanswered % _LOST_AFTER == 0 and self._admin is not None:
                self._admin = AdminClient(self._options)
            raise
        self._unanswered = 0

    async def ensure(self, topics: Collection[TopicSchema]) -> dict[str, TopicSchema]:
        """Make those topics that are missing; give all by name.

        Raises
        ------
        BusUnavailableError
            Retry.
        BusAccessError, BusRefusalError
            Do not retry.

        References
        ----------
        SAL over Kafka, section 2: one partition; events are compacted; whoever comes first creates.
        """
        named = {topic_name(self._settings.subname, topic): topic for topic in topics}
        try:
            async with asyncio.timeout(self._settings.answer_within_s):
                await self._ensure(named)
        except TimeoutError as error:
            raise BusUnavailableError(
                "Topics did not appear", missing=sorted(named.keys() - self._there)
            ) from error
        return named

    async def ends(self, names: Collection[str]) -> dict[str, int]:
        """Give the offset that the next message of each topic will have.

        Raises
        ------
        BusUnavailableError
            Retry.
        BusAccessError
            Do not retry.
        """
        return await self._offsets(names, OffsetSpec.latest())  # type: ignore[no-untyped-call]

    async def starts(self, names: Collection[str]) -> dict[str, int]:
        """Give the offset of the oldest message of each topic; errors as in `ends`."""
        return await self._offsets(names, OffsetSpec.earliest())  # type: ignore[no-untyped-call]

    async def since(self, names: Collection[str], since_ms: int) -> dict[str, int]:
        """Give the offset of the first message of each topic from a moment on [ms, UTC].

        Negative if there is none; errors as in `ends`.
        """
        return await self._offsets(names, OffsetSpec.for_timestamp(since_ms))

    async def reach(self, name: str) -> tuple[int, int]:
        """Give the offsets of the oldest message of a topic and after its newest."""
        return (await self.starts([name]))[name], (await self.ends([name]))[name]

    async def _offsets(self, names: Collection[str], spec: OffsetSpec) -> dict[str, int]:
        if not names:
            return {}
        try:
            async with asyncio.timeout(self._settings.answer_within_s):
                while True:
                    asked = self._client.list_offsets(
                        {TopicPartition(name, 0): spec for name in names},
                        request_timeout=self._settings.answer_within_s,
                    )
                    offsets: dict[str, int] = {}
                    for place, future in asked.items():
                        found = await _result(future, "Offsets not found", patient=True)
                        if found is not None:
                            offsets[str(place.topic)] = int(found.offset)
                    if len(offsets) == len(names):
                        return offsets
                    await asyncio.sleep(_PAUSE_S)
        except TimeoutError as error:
            raise BusUnavailableError("Offsets were not told in time") from error

    async def _ensure(self, named: Mapping[str, TopicSchema]) -> None:
        missing = await self._missing(named.keys() - self._there)
        while missing:
            made = self._client.create_topics(
                [self._new(name, named[name]) for name in sorted(missing)],
                request_timeout=self._settings.answer_within_s,
            )
            for name, future in made.items():
                await _result(
                    future, "Topic not created", accept=KafkaError.TOPIC_ALREADY_EXISTS, topic=name
                )
            missing = await self._missing(missing)
            if missing:
                await asyncio.sleep(_PAUSE_S)

    async def _missing(self, names: Collection[str]) -> set[str]:
        if not names:
            return set()
        asked = self._client.describe_topics(
            TopicCollection(sorted(names)), request_timeout=self._settings.answer_within_s
        )
        missing = set()
        for name, future in asked.items():
            found = await _result(future, "Topic not described", patient=True, topic=name)
            if found is None or not found.partitions or found.partitions[0].leader is None:
                missing.add(name)
            else:
                self._there.add(name)
        return missing

    def _new(self, name: str, topic: TopicSchema) -> NewTopic:
        compacted = {"cleanup.policy": "compact"} if topic.kind is TopicKind.EVENT else {}
        return NewTopic(
            name,
            num_partitions=1,
            replication_factor=self._settings.replication_factor,
            config=compacted,
        )

    @property
    def _client(self) -> AdminClient:
        if self._admin is None:
            raise UsageError("The bus is not open")
        return self._admin


async def _result(
    future: Future[Any],
    message: str,
    /,
    *,
    patient: bool = False,
    accept: int | None = None,
    **context: object,
) -> Any:
    """Wait for an answer; ``None`` if it is "not yet" and we are patient, or what we accept."""
    answer = asyncio.wrap_future(future)
    # A caller that is cancelled leaves the answer to itself: the client cannot take requests back.
    answer.add_done_callback(lambda done: done.cancelled() or done.exception())
    try:
        return await asyncio.shield(answer)
    except KafkaException as error:
        problem = problem_of(error)
        if (patient and problem.code() in _NOT_YET) or problem.code() == accept:
            return None
        raise error_of(problem, message, **context) from error
