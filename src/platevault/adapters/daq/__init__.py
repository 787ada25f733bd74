"""A DAQ store over TCP."""

from platevault.adapters.daq.readout import DaqReadout

__all__ = ["DaqReadout"]
