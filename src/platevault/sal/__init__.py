"""SAL commands, acknowledgements, events and telemetry over a `SampleBus`."""
