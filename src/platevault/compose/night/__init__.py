"""A simulated or replayed night: deployment, driver, invariants, report."""
