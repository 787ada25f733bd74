"""A small schema registry that speaks Confluent's REST dialect, for tests and single nodes."""

from platevault.adapters.schema_registry.server import SchemaRegistryServer
from platevault.adapters.schema_registry.store import SchemaStore

__all__ = ["SchemaRegistryServer", "SchemaStore"]
