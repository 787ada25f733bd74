"""SAL over Kafka."""

from platevault.adapters.kafka.errors import BusAccessError, BusRefusalError
from platevault.adapters.kafka.health import BusHealth, BusState
from platevault.adapters.kafka.registry import (
    RegistryUnavailableError,
    SchemaRefusedError,
)
from platevault.adapters.kafka.sample_bus import KafkaSampleBus
from platevault.adapters.kafka.settings import KafkaSettings, KafkaSettingsError

__all__ = [
    "BusAccessError",
    "BusHealth",
    "BusRefusalError",
    "BusState",
    "KafkaSampleBus",
    "KafkaSettings",
    "KafkaSettingsError",
    "RegistryUnavailableError",
    "SchemaRefusedError",
]
