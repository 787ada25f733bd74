"""Errors of brokers and registry as ours."""

from __future__ import annotations

from confluent_kafka import KafkaError, KafkaException

from platevault.domain.errors import PermanentError, PlatevaultError
from platevault.ports.sample_bus import BusUnavailableError

_REFUSALS = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    }
)
_LASTING = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.INVALID_REPLICATION_FACTOR,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.POLICY_VIOLATION,
        KafkaError._INVALID_ARG,  # noqa: SLF001 (librdkafka's own codes have this form)
    }
)
_MISSING = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001
        KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001
    }
)


class TopicMissingError(BusUnavailableError):
    """The topic is not on the broker (any more): retry, which makes it."""


class BusAccessError(PermanentError):
    """The account may not do this: mend the account, its rights or the password."""


class BusRefusalError(PermanentError):
    """The broker will never take this: mend the setting or the sample."""


def error_of(problem: KafkaError, message: str, /, **context: object) -> PlatevaultError:
    """Give the error of ours for one of the broker's, to be raised from it."""
    context["reason"] = f"{problem.name()}: {problem.str()}"
    if is_refusal(problem):
        return BusAccessError(message, **context)
    if problem.code() in _LASTING:
        return BusRefusalError(message, **context)
    if problem.code() in _MISSING:
        return TopicMissingError(message, **context)
    # A broker that has just started may not know its accounts yet: a wrong password is transient.
    return BusUnavailableError(message, **context)


def problem_of(error: KafkaException) -> KafkaError:
    """Give what a raised error of the client is about."""
    problem = error.args[0] if error.args else None
    if isinstance(problem, KafkaError):
        return problem
    return KafkaError(KafkaError._FAIL, str(error))  # noqa: SLF001


def is_refusal(problem: KafkaError) -> bool:
    """Tell whether the account has no right to what it tried."""
    return bool(problem.code() in _REFUSALS)


def is_failed_producer(problem: KafkaError) -> bool:
    """Tell whether a producer takes nothing any more, for a reason that it says elsewhere."""
    return bool(problem.code() == KafkaError._FATAL)  # noqa: SLF001


def is_corrupted(problem: KafkaError) -> bool:
    """Tell whether messages did not arrive as the broker has them: read them again."""
    return bool(problem.code() == KafkaError._BAD_MSG)  # noqa: SLF001


def is_out_of_range(problem: KafkaError) -> bool:
    """Tell whether the broker no longer has, or does not have yet, what is to be read next."""
    return bool(problem.code() == KafkaError._AUTO_OFFSET_RESET)  # noqa: SLF001
