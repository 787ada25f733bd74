"""Commandable components: states, configuration, faults."""
