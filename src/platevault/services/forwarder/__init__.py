"""Forwarder: reads boards from the DAQ and writes one raw file per sensor."""

from platevault.services.forwarder.board import ForwarderLimits
from platevault.services.forwarder.forwarder import FORWARDER_STEPS, Forwarder
from platevault.services.forwarder.observing import ForwarderObserver
from platevault.services.forwarder.sidecar import encode_sidecar

__all__ = ["FORWARDER_STEPS", "Forwarder", "ForwarderLimits", "ForwarderObserver", "encode_sidecar"]
