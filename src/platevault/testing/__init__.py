"""Support for tests of Platevault and of adapters written elsewhere."""
