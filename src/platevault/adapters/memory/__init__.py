"""Ports kept in the memory of one process: for nights on one machine, and for tests."""
