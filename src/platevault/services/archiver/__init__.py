"""Archiver CSC: turns events of a camera into work for Forwarders, and results into events."""

from platevault.services.archiver.archiver import ARCHIVER_STEPS, ArchiverCsc
from platevault.services.archiver.faults import ArchiverFault
from platevault.services.archiver.observing import ArchiverObserver
from platevault.services.archiver.settings import ArchiverConfiguration

__all__ = [
    "ARCHIVER_STEPS",
    "ArchiverConfiguration",
    "ArchiverCsc",
    "ArchiverFault",
    "ArchiverObserver",
]
