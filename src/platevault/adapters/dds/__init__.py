"""The sample bus over DDS, without a server."""

from platevault.adapters.dds.measurement import RoundTrips, measure_command_round_trip
from platevault.adapters.dds.sample_bus import DdsSampleBus
from platevault.adapters.dds.settings import DdsSettings

__all__ = ["DdsSampleBus", "DdsSettings", "RoundTrips", "measure_command_round_trip"]
