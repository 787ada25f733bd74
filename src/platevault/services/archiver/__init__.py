"""Archiver CSC: turns events of a camera into work for Forwarders, and results into events."""

from platevault.services.archiver.archiver import ArchiverCsc
from platevault.services.archiver.faults import ArchiverFault
from platevault.services.archiver.settings import ArchiverConfiguration

__all__ = ["ArchiverConfiguration", "ArchiverCsc", "ArchiverFault"]
