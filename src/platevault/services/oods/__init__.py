"""Observatory operations data service: catalogues the files of exposures as they arrive."""

from platevault.services.oods.csc import OodsCsc
from platevault.services.oods.service import OODS_STEPS, Oods

__all__ = ["OODS_STEPS", "Oods", "OodsCsc"]
