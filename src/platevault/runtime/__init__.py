"""How a process lives: services, stop, retry, executors, logs and metrics."""
