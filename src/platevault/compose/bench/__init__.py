"""Benchmarks of the pixel path against its peers, honest enough to be published."""
