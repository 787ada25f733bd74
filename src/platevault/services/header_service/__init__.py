"""Collects the state of the observatory for each exposure into one header object."""
